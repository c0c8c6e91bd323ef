"""Weights as people share them: 8-bit floats, ComfyUI's scaled ones, and GGUF's block quantizations."""

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file

from common import GOLDEN

CASE = GOLDEN / "formats"

# Blocks of each kind: where its f16 scales stand, in bytes.
SCALES = {
    Q.Q4_0: [0],
    Q.Q4_1: [0, 2],
    Q.Q5_0: [0],
    Q.Q5_1: [0, 2],
    Q.Q8_0: [0],
    Q.Q2_K: [80, 82],
    Q.Q3_K: [108],
    Q.Q4_K: [0, 2],
    Q.Q5_K: [0, 2],
    Q.Q6_K: [208],
}


def eight_bits():
    """Every finite value of both types, and a layer scaled as ComfyUI does."""
    codes = torch.arange(256, dtype=torch.uint8)
    tensors, expected = {}, {}
    for name, dtype in [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)]:
        values = codes.view(dtype)
        finite = values.float().isfinite()
        tensors[name] = codes[finite].view(dtype)
        expected[name] = tensors[name].float()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 10, generator=generator)
    for index, suffix in enumerate(["scale_weight", "weight_scale"]):
        layer = f"blocks.{index}.ffn.0"
        scale = weight.abs().max() / 448
        stored = (weight / scale).to(torch.float8_e4m3fn)
        tensors[f"{layer}.weight"] = stored
        tensors[f"{layer}.{suffix}"] = scale.reshape([] if index else [1]).float()
        expected[f"{layer}.weight"] = stored.float() * scale
    tensors["blocks.0.ffn.0.scale_input"] = torch.ones(1)
    tensors["blocks.1.ffn.0.input_scale"] = torch.ones([])
    tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(tensors, CASE / "eight_bits.safetensors")
    return expected


def quantized():
    """A GGUF file with a tensor of every kind, of random blocks."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(CASE / "quantized.gguf", "wan")
    writer.add_string("general.name", "a tiny one")
    writer.add_array("comfy.gguf.orig_shape.patch_embedding.weight", [4, 3, 1, 2, 2])
    expected = {}
    patch = rng.standard_normal((4, 12)).astype(np.float16)
    writer.add_tensor("patch_embedding.weight", patch)
    expected["patch_embedding.weight"] = torch.from_numpy(patch.astype(np.float32)).reshape(4, 3, 1, 2, 2)
    plain = rng.standard_normal((3, 5)).astype(np.float32)
    writer.add_tensor("plain", plain)
    expected["plain"] = torch.from_numpy(plain)
    # The high halves of f32 values are bf16.
    halves = (rng.standard_normal((2, 6)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor("bf16", halves.view(np.uint8), raw_shape=(2, 12), raw_dtype=Q.BF16)
    expected["bf16"] = torch.from_numpy((halves.astype(np.uint32) << 16).view(np.float32))
    for kind, scales in SCALES.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, blocks = 3, 2
        data = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
        for at in scales:
            scale = (rng.standard_normal((rows, blocks)) * 0.1).astype(np.float16)
            data[:, :, at : at + 2] = scale.view(np.uint8).reshape(rows, blocks, 2)
        data = data.reshape(rows, blocks * size)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values = gguf.dequantize(data, kind).reshape(rows, blocks * block)
        expected[kind.name] = torch.from_numpy(values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def main():
    CASE.mkdir(parents=True, exist_ok=True)
    expected = eight_bits() | quantized()
    save_file({name: value.contiguous() for name, value in expected.items()}, CASE / "io.safetensors")


if __name__ == "__main__":
    main()

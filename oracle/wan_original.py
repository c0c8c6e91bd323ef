"""A WanPipeline in the layout of the original release, and its denoiser as a GGUF file."""

import json
import re

import gguf
import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from common import fresh, generator, liven, randn, save_case
from wan_pipeline import sample, tokenizer

# Names in diffusers, or transformers, as patterns, and in the original release.
DENOISER = [
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table", "head.modulation"),
    (r"\.scale_shift_table", ".modulation"),
    (r"^proj_out", "head.head"),
    (r"\.norm2\.", ".norm3."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
]
TEXT = [
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (r"^encoder\.block\.", "blocks."),
    (r"\.layer\.0\.layer_norm\.", ".norm1."),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".pos_embedding.embedding."),
    (r"\.layer\.0\.SelfAttention\.", ".attn."),
    (r"\.layer\.1\.layer_norm\.", ".norm2."),
    (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".ffn.gate.0."),
    (r"\.layer\.1\.DenseReluDense\.wi_1\.", ".ffn.fc1."),
    (r"\.layer\.1\.DenseReluDense\.wo\.", ".ffn.fc2."),
]
RESIDUAL = [
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
]
VAE = [
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
]


def renamed(state, patterns):
    result = {}
    for name, value in state.items():
        for pattern, original in patterns:
            name = re.sub(pattern, original, name)
        result[name] = value.contiguous()
    return result


def autoencoder(state, num_res_blocks):
    """The decoder's blocks of all levels stand in one row in the original."""

    def flat(match):
        level, module, index = int(match[1]), match[2], int(match[3])
        place = index if module == "resnets" else num_res_blocks + 1
        return f".upsamples.{level * (num_res_blocks + 2) + place}."

    rows = {re.sub(r"\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", flat, n): v for n, v in state.items()}
    # Only what stands in rows and in the middle has residual blocks.
    inner = {n: v for n, v in renamed(rows, VAE).items() if re.search(r"samples\.|middle\.", n)}
    outer = {n: v for n, v in renamed(rows, VAE).items() if n not in inner}
    return renamed(inner, RESIDUAL) | outer


def build():
    tok = tokenizer()
    text = UMT5Config(
        d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4, vocab_size=len(tok), dropout_rate=0.0,
        attn_implementation="eager",
    )
    vae = liven(AutoencoderKLWan(base_dim=4, z_dim=16), 860)
    transformer = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=128, in_channels=16, out_channels=16, text_dim=24, freq_dim=32,
        ffn_dim=64, num_layers=2,
    )
    pipe = WanPipeline(
        tokenizer=tok,
        text_encoder=liven(UMT5EncoderModel(text), 861),
        vae=vae,
        transformer=liven(transformer, 862),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    )
    # What is computed with is exactly what is stored.
    with torch.no_grad():
        for network in (pipe.text_encoder, pipe.vae, pipe.transformer):
            for p in network.parameters():
                p.copy_(p.bfloat16().float())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def quantized(state, path):
    """The denoiser with matrices of whole blocks in Q8_0, everything else in f32; gives what it then is."""
    writer = gguf.GGUFWriter(path, "wan")
    result = {}
    for name, value in renamed(state, DENOISER).items():
        data = value.float().numpy()
        if data.ndim == 2 and data.shape[1] % 32 == 0:
            blocks = gguf.quantize(data, Q.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=Q.Q8_0)
            data = gguf.dequantize(blocks, Q.Q8_0).reshape(data.shape)
        elif data.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(data.shape))
            writer.add_tensor(name, data.reshape(data.shape[0], -1))
        else:
            writer.add_tensor(name, data)
        result[name] = torch.from_numpy(np.array(data, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return result


def main():
    folder = fresh("wan_original")
    pipe = build()
    half = lambda state: {name: value.bfloat16() for name, value in state.items()}
    denoiser = pipe.transformer.state_dict()
    save_file(half(renamed(denoiser, DENOISER)), folder / "diffusion_pytorch_model.safetensors")
    config = pipe.transformer.config
    original = dict(
        _class_name="WanModel", _diffusers_version="0.30.0", dim=128, eps=1e-6, ffn_dim=config.ffn_dim,
        freq_dim=config.freq_dim, in_dim=config.in_channels, model_type="t2v", num_heads=1,
        num_layers=config.num_layers, out_dim=config.out_channels, text_len=512,
    )
    (folder / "config.json").write_text(json.dumps(original, indent=2) + "\n")
    text = {n: v for n, v in pipe.text_encoder.state_dict().items() if n != "encoder.embed_tokens.weight"}
    torch.save(half(renamed(text, TEXT)), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    vae = autoencoder(pipe.vae.state_dict(), pipe.vae.config.num_res_blocks)
    torch.save(half(vae), folder / "Wan2.1_VAE.pth")
    (folder / "google/umt5-xxl").mkdir(parents=True)
    pipe.tokenizer.backend_tokenizer.save(str(folder / "google/umt5-xxl/tokenizer.json"))

    call = dict(
        prompt="two red cubes jump", negative_prompt="a blue ball", height=32, width=48, num_frames=5,
        num_inference_steps=8, guidance_scale=5.0, max_sequence_length=512,
    )
    latents = randn(generator(863), 1, 16, 2, 4, 6)
    tensors = dict(latents_in=latents) | sample(pipe, call, latents)
    dequantized = quantized(denoiser, folder / "wan-q8_0.gguf")
    back = {original: name for original, name in zip(renamed(denoiser, DENOISER), denoiser)}
    pipe.transformer.load_state_dict({back[name]: v.reshape(denoiser[back[name]].shape) for name, v in dequantized.items()})
    tensors |= {f"gguf.{key}": t for key, t in sample(pipe, call, latents).items()}
    save_case(folder, tensors, call)


if __name__ == "__main__":
    main()

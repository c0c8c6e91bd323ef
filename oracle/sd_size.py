"""The UNet of Stable Diffusion 1.5 in its published configuration with random bf16 weights, against diffusers.

    python oracle/sd_size.py make FOLDER          # 1.7 GB
    python oracle/sd_size.py run FOLDER           # one guided step at 512x512 in f32
    python oracle/sd_size.py compare FOLDER OURS.safetensors

`make` leaves a step's inputs in FOLDER/inputs.safetensors, `run` what diffusers computed in FOLDER/expected.safetensors.
`compare` wants `output` of OURS.safetensors, as the example `sd_unet_step` writes it.
"""

import resource
import sys
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from common import generator, randn
from wan_size import spread

torch.set_num_threads(2)
CONFIG = dict(
    sample_size=64, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    attention_head_dim=8, cross_attention_dim=768,
)


def make(folder):
    spread(UNet2DConditionModel(**CONFIG), 1500).save_pretrained(folder)
    gen = generator(1501)
    # A guided step: the same latents and time with two texts.
    sample = randn(gen, 1, 4, 64, 64).repeat(2, 1, 1, 1)
    inputs = dict(sample=sample, timestep=torch.tensor([601.0, 601.0]), encoder_hidden_states=randn(gen, 2, 77, 768))
    save_file(inputs, folder / "inputs.safetensors")


@torch.inference_mode()
def run(folder):
    model = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    inputs = load_file(folder / "inputs.safetensors")
    begun = time.perf_counter()
    output = model(**inputs, return_dict=False)[0]
    print(f"{time.perf_counter() - begun:.2f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    save_file(dict(output=output), folder / "expected.safetensors")


def compare(folder, ours):
    got, expected = load_file(ours)["output"], load_file(folder / "expected.safetensors")["output"]
    error = ((got - expected).norm() / expected.norm()).item()
    largest = ((got - expected).abs().max() / expected.abs().max()).item()
    print(f"relative error {error:.2e}, largest {largest:.2e}, expected deviation {expected.std():.3f}")


def main():
    work, folder, *rest = sys.argv[1:]
    {"make": make, "run": run, "compare": compare}[work](Path(folder), *rest)


if __name__ == "__main__":
    main()

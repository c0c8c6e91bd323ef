"""Does diffusers load what this program writes, and make the same with it?

    python oracle/written_lora.py target/release/understudy

Fits a LoRA on `golden/wan_pipeline_a` in every format that diffusers loads, generates with it, and does the same with
`WanPipeline.load_lora_weights`. Fails on any key that is missing or unexpected, and on latents that differ by 1e-3.
"""

import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import WanPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors.torch import load_file, save_file

from common import GOLDEN, generator, randn

BASE = GOLDEN / "wan_pipeline_a"
# Of ComfyUI's and kohya's names diffusers 0.42 reads only those of blocks, and of kohya's only whole sets.
FORMATS = dict(
    diffusers="attn1.to_q,attn1.to_v,attn2.to_k,ffn.net.0.proj,proj_out,condition_embedder.time_proj,patch_embedding",
    comfyui="attn-ffn",
    kohya="attn-ffn",
)
CALL = dict(height=32, width=16, num_frames=5, num_inference_steps=8, guidance_scale=5.0)


class Warnings(logging.Handler):
    """What diffusers says of keys."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        message = record.getMessage()
        if "unexpected" in message.lower() or "missing" in message.lower():
            self.messages.append(message)


def main():
    program = Path(sys.argv[1]).resolve()
    understudy = lambda *arguments: subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)
    warnings = Warnings()
    diffusers_logging.get_logger("diffusers").addHandler(warnings)
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "subject").mkdir()
        for index in range(3):
            pixels = (255 * torch.rand(32, 16, 3, generator=generator(880 + index))).byte().numpy()
            Image.fromarray(pixels).save(scratch / f"subject/{index}.png")
        noise = randn(generator(883), 1, 8, 2, 8, 4)
        save_file(dict(latents=noise), scratch / "noise.safetensors")
        plain = None
        for form, targets in FORMATS.items():
            adapter = scratch / f"{form}.safetensors"
            understudy("fit", "--base", BASE, "--subject", scratch / "subject", "--class", "ball", "--out", adapter,
                       "--format", form, "--height", 32, "--width", 16, "--steps", 60, "--token-steps", 1, "--learning-rate", 0.05,
                       "--rank", 3, "--alpha", 6, "--targets", targets, "--batch", 2)
            understudy("generate", "--base", BASE, "--prompt", "a red ball", "--adapter", f"{adapter}:0.8",
                       "--frames", 5, "--height", 32, "--width", 16, "--steps", 8, "--guidance", 5,
                       "--initial-noise", scratch / "noise.safetensors", "--save-latents", scratch / "out.safetensors",
                       "--out", scratch / "out.png")
            ours = load_file(scratch / "out.safetensors")["latents"]
            pipe = WanPipeline.from_pretrained(BASE)
            pipe.set_progress_bar_config(disable=True)
            run = lambda: pipe("a red ball", negative_prompt="", latents=noise.clone(), output_type="latent", **CALL).frames
            plain = run() if plain is None else plain
            pipe.load_lora_weights(adapter, adapter_name="subject")
            pipe.set_adapters("subject", 0.8)
            theirs = run()
            error = ((ours - theirs).norm() / theirs.norm()).item()
            effect = ((theirs - plain).norm() / plain.norm()).item()
            worst = max(worst, error)
            print(json.dumps(dict(format=form, keys=len(load_file(adapter)), error=error, effect=effect)))
    for message in warnings.messages:
        print(message)
    sys.exit(bool(warnings.messages) or worst >= 1e-3)


if __name__ == "__main__":
    main()

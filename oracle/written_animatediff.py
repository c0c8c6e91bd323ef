"""Does diffusers load what this program writes for a Stable Diffusion with motion modules, and make the same with it?

    python oracle/written_animatediff.py target/release/understudy

Rewrites the LoRAs of `golden/animatediff_adapters`, on the UNet with its convolutions and on the text encoder, in the names
of diffusers and of kohya, and runs them with `AnimateDiffPipeline.load_lora_weights`. Fails on any key that is missing or
unexpected, and on latents that differ from the weights changed by hand by 1e-3.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file

from animatediff_adapters import CALL, WEIGHT, latents, pipeline
from common import GOLDEN
from written_lora import Warnings

FOLDER = GOLDEN / "animatediff_adapters"
# What is rewritten, in whose names, and the case it is. In kohya's names diffusers 0.42 loses alphas of attention that
# differ from the most frequent one, which `convolutions` has.
CASES = [
    ("style.safetensors", "diffusers", "style"), ("convolutions.safetensors", "diffusers", "convolutions"),
    ("whole.safetensors", "diffusers", "whole"), ("diffusers/pytorch_lora_weights.safetensors", "kohya", "whole"),
    ("motion_original.safetensors", "diffusers", "motion"), ("domain.ckpt", "diffusers", "domain"),
    ("domain.ckpt", "kohya", "domain"),
]


def main():
    program = Path(sys.argv[1]).resolve()
    warnings = Warnings()
    diffusers_logging.get_logger("diffusers").addHandler(warnings)
    expected = load_file(FOLDER / "io.safetensors")
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for index, (file, form, case) in enumerate(CASES):
            adapter = Path(scratch) / f"{index}.safetensors"
            subprocess.run([program, "convert", FOLDER / file, "--to", form, "--out", adapter], check=True, capture_output=True)
            pipe = pipeline()
            pipe.load_lora_weights(adapter, adapter_name="own")
            pipe.set_adapters("own", WEIGHT)
            wanted = expected[f"{case}.latents_out"]
            error = ((latents(pipe, CALL, expected["latents"]) - wanted).norm() / wanted.norm()).item()
            worst = max(worst, error)
            print(json.dumps(dict(file=file, format=form, keys=len(load_file(adapter)), error=error)), flush=True)
    # What it says of a LoRA without a text encoder is no fault.
    faults = [message for message in warnings.messages if not message.startswith("No LoRA keys associated to CLIPTextModel")]
    for message in faults:
        print(message)
    sys.exit(bool(faults) or worst >= 1e-3)


if __name__ == "__main__":
    main()

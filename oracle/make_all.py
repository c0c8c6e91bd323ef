"""Make every golden again, each family in its own process, and check their total size."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Alphabetical but for those that read the checkpoints of others.
FAMILIES = [
    "amt", "clip", "clip_text", "detectors", "diffusion_schedulers", "dino", "evaluate", "faces", "formats", "i3d", "iresnet", "motion_unet", "msrvtt", "ops", "preprocess", "raft", "resample", "schedulers", "sd_unet", "sd_vae", "spiece", "umt5", "wan_original", "wan_pipeline", "wan_transformer", "wan_vae", "wan_tiling",
    "lora_steps", "motion_steps", "lora_exchange", "adapter_kinds",
    "animatediff", "animatediff_files", "animatediff_adapters", "animatediff_steps",
]
# A family is whole checkpoints of its own, with adapters: AnimateDiff's take 5 MB.
LIMIT = 26 * 1024 * 1024

for family in FAMILIES:
    # peft writes its target modules in the order of a set of strings.
    env = dict(os.environ, PYTHONHASHSEED="0")
    subprocess.run([sys.executable, HERE / f"{family}.py"], check=True, env=env)
size = sum(f.stat().st_size for f in (HERE / "golden").rglob("*") if f.is_file())
print(f"golden: {size / 1024 / 1024:.2f} MB")
sys.exit(size > LIMIT)

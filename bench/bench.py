"""Times understudy beside PyTorch on the same machine, the same weights and the same work.

    python bench/bench.py --understudy target/release/understudy --nano crates/understudy-nano/weights
    python bench/bench.py ... --wan FOLDER          # also Wan 2.1 1.3B's size; make it with oracle/wan_size.py
    python bench/bench.py ... --sd FOLDER           # also Stable Diffusion 1.5's UNet; make it with oracle/sd_size.py
    python bench/bench.py ... --only nano-generate --rounds 9 --out results.json
    python bench/bench.py ... --wan FOLDER --device cuda:0 --only wan-gpu-step-bf16,wan-gpu-lora-bf16

Every work is a process of each side, in turn, so that a change of the machine's speed meets both. A process prints JSON
lines; what is timed is in them, so that imports and loading count in `nano-start` alone. Reported are medians over the
rounds, the ratio of medians with a bootstrap interval over rounds, and the peak of memory of both: of the process, or of
the GPU if one computes, which nothing else may use meanwhile.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROMPT = "a red robot walks to the left on the beach"


class Peak(threading.Thread):
    """Watches the memory of the first GPU, in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.highest, self.over = 0.0, threading.Event()

    def run(self):
        query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.over.wait(0.1):
            self.highest = max(self.highest, float(subprocess.check_output(query, text=True)))


def run(command, device="cpu"):
    """What one process printed, with the seconds since its start, and its peak of memory in MB."""
    peak = Peak() if device.startswith("cuda") else None
    if peak:
        peak.start()
    begun = time.perf_counter()
    complaints = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True)
    events = []
    for line in process.stdout:
        if line.startswith("{"):
            events.append({"at": time.perf_counter() - begun, **json.loads(line)})
    fit = next((event for event in events if event["event"] == "fit"), {"clips": 1})
    if fit["clips"] < 1:
        sys.exit(f"{' '.join(map(str, command))} did not learn from a whole clip: {fit}")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        complaints.seek(0)
        sys.exit(f"{' '.join(map(str, command))} failed:\n{complaints.read()[-2000:]}")
    if peak:
        peak.over.set()
        peak.join()
    return events, peak.highest if peak else usage.ru_maxrss / 1024


def seconds(events, what):
    """The seconds of the events called `what`: of steps the median of all but the first, which warms up."""
    found = [event["seconds"] for event in events if event["event"] == what]
    return statistics.median(found[1:] or found)


def measures(what):
    """What a work is timed by."""
    return {
        "whole": lambda events: sum(e["seconds"] for e in events if e["event"] in ("encoded", "step", "decoded")),
        "start": lambda events: next(e["at"] for e in events if e["event"] == "step"),
    }.get(what, lambda events: seconds(events, what))


def clip(folder, count=1):
    """A video of so many clips of 17 frames to fit."""
    from PIL import Image

    frames = [Image.new("RGB", (64, 64), (40, 90 + 5 * (i % 17), 160)) for i in range(17 * count)]
    for i, frame in enumerate(frames):
        frame.paste((220, 30, 40), (10 + 2 * (i % 17), 20, 26 + 2 * (i % 17), 44))
    path = folder / f"clips-{count}.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=125)
    return path


def works(args, folder):
    """Name, what is timed, and the commands of both sides."""
    ours, theirs = args.understudy, [sys.executable, HERE / "pytorch.py"]

    def generate(base, size, steps, dtype):
        frames, height, width = map(str, size)
        shape = ["--frames", frames, "--height", height, "--width", width, "--steps", str(steps)]
        common = ["--base", base, "--prompt", PROMPT, "--guidance", "4", "--dtype", dtype, *shape]
        common += ["--device", args.device]
        out = folder / "out"
        own = [ours, "generate", *common, "--json", "--out", f"{out}-{random.random()}.safetensors"]
        return own, [*theirs, "generate", *common]

    def lora(base, dtype, preset, batch, steps, extra, frames=17):
        out = folder / f"{random.random()}.safetensors"
        own = [ours, "fit", "--base", base, "--preset", preset, "--class", "robot", "--device", args.device]
        own += ["--subject", clip(folder, -(-frames // 17)), "--set", f"clip_frames={frames}"]
        own += ["--rank", "16", "--batch", str(batch), "--token-steps", "0", "--steps", str(steps), "--prior-weight", "0"]
        own += ["--set", "token_rate=0", "--set", "samples.every=0", "--dtype", dtype]
        own += ["--json", "--out", out, *extra, *(["--set", "checkpointing=true"] if extra else [])]
        height, width = (extra[1], extra[3]) if extra else ("64", "64")
        # Of the large base both sides replay blocks in the backward pass.
        other = [*theirs, "lora", *(["--checkpointing"] if extra else []), "--base", base, "--rank", "16", "--batch", str(batch), "--steps", str(steps)]
        other += ["--dtype", dtype, "--device", args.device, "--frames", str(frames)]
        return own, [*other, "--height", height, "--width", width]

    nano, wan = args.nano, args.wan
    yield "nano-generate", "whole", lambda: generate(nano, (17, 64, 64), 20, "f32")
    yield "nano-generate-bf16", "whole", lambda: generate(nano, (17, 64, 64), 20, "bf16")
    yield "nano-decode", "decoded", lambda: generate(nano, (17, 64, 64), 2, "f32")
    yield "nano-text", "encoded", lambda: generate(nano, (17, 64, 64), 2, "f32")
    yield "nano-start", "start", lambda: generate(nano, (17, 64, 64), 1, "f32")
    yield "nano-lora", "step", lambda: lora(nano, "f32", "nano", 4, 12, [])
    yield "nano-lora-bf16", "step", lambda: lora(nano, "bf16", "nano", 4, 12, [])
    if wan:
        side = ["--height", "256", "--width", "256"]
        for dtype in ("f32", "bf16"):
            yield f"wan-step-{dtype}", "step", lambda dtype=dtype: generate(wan, (17, 256, 256), 3, dtype)
            yield f"wan-lora-{dtype}", "step", lambda dtype=dtype: lora(wan, dtype, "wan", 1, 3, side)
        yield "wan-decode", "decoded", lambda: generate(wan, (17, 256, 256), 1, "f32")
    if wan and args.device != "cpu":
        side = ["--height", "480", "--width", "832"]
        yield "wan-gpu-step-bf16", "step", lambda: generate(wan, (81, 480, 832), 4, "bf16")
        yield "wan-gpu-lora-bf16", "step", lambda: lora(wan, "bf16", "wan", 1, 4, side, 81)
    if args.sd and args.device == "cpu":
        steps = "4"
        other = [*theirs, "unet", "--base", args.sd, "--steps", steps, "--device", "cpu"]
        yield "sd-step-f32", "step", lambda: ([args.sd_step, args.sd, steps], other)


def interval(ours, theirs, draws=2000):
    """The 95 % bootstrap interval of the ratio of medians."""
    source = random.Random(0)
    draw = lambda values: statistics.median(source.choices(values, k=len(values)))
    ratios = sorted(draw(ours) / draw(theirs) for _ in range(draws))
    return ratios[draws // 40], ratios[-draws // 40]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--understudy", default="target/release/understudy")
    parser.add_argument("--nano", default="crates/understudy-nano/weights")
    parser.add_argument("--wan")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0, of both sides")
    parser.add_argument("--sd", help="a folder of Stable Diffusion 1.5's size")
    parser.add_argument("--sd-step", default="target/release/examples/sd_unet_step")
    parser.add_argument("--only", help="names of works, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="a JSON file of every measurement")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not shutil.which("nvidia-smi"):
        sys.exit("--device: memory of a GPU is read from nvidia-smi, which is not there")
    kept = {}
    print("| Work | understudy, s | PyTorch, s | Ratio (95 %) | Memory, MB | Ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, what, commands in works(args, Path(folder)):
            if args.only and name not in args.only.split(","):
                continue
            sides = ([], [])
            for _ in range(args.rounds):
                for side, command in zip(sides, commands()):
                    events, memory = run(list(map(str, command)), args.device)
                    side.append((measures(what)(events), memory))
            times = [[time for time, _ in side] for side in sides]
            peaks = [statistics.median(memory for _, memory in side) for side in sides]
            ours, theirs = map(statistics.median, times)
            low, high = interval(*times)
            print(
                f"| {name} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} ({low:.2f} to {high:.2f}) "
                f"| {peaks[0]:.0f}, {peaks[1]:.0f} | {peaks[0] / peaks[1]:.2f} |",
                flush=True,
            )
            kept[name] = {"ours": sides[0], "pytorch": sides[1]}
    if args.out:
        Path(args.out).write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()

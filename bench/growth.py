"""How time and memory grow with tokens, clips and adapters: two blocks of Wan 2.1 1.3B's size with random weights.

    python bench/growth.py --understudy target/release/understudy --folder FOLDER --out growth.json --plot growth.png

FOLDER is made if it is not there (0.6 GB). Every point is a process; its peak of memory is the system's figure.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

from bench import clip, run, seconds

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

# 17 frames, whose latents are 5: 5 tokens for every 16 by 16 pixels.
SIDES = [128, 256, 384, 512, 640, 768, 896]
COUNTS = [1, 2, 4, 8]


def tokens(side):
    return 5 * (side // 16) ** 2


def make(folder):
    """Two blocks of 1.3B, with a small autoencoder, which is not what is measured here."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel
    from wan_pipeline import tokenizer
    from wan_size import SCHEDULER, SIZES, network, spread

    tok = tokenizer()
    text = UMT5Config(d_model=4096, d_kv=64, d_ff=256, num_layers=1, num_heads=2, vocab_size=len(tok), dropout_rate=0.0)
    WanPipeline(
        tokenizer=tok,
        text_encoder=spread(UMT5EncoderModel(text), 1),
        vae=spread(AutoencoderKLWan(base_dim=8), 2),
        transformer=spread(WanTransformer3DModel(**network(SIZES["1.3B"] | dict(num_layers=2))), 3),
        scheduler=UniPCMultistepScheduler(**SCHEDULER),
    ).save_pretrained(folder)


def generate(args, out, side, adapters=()):
    prompt = " and ".join(["a robot", *(f"a <s{index}> robot" for index in range(len(adapters)))])
    words = [args.understudy, "generate", "--base", args.folder, "--prompt", prompt]
    words += ["--frames", "17", "--height", side, "--width", side, "--steps", "2", "--dtype", args.dtype]
    for adapter in adapters:
        words += ["--adapter", adapter]
    return [*words, "--json", "--out", out / "video.safetensors"]


def fit(args, side, subject, to):
    words = [args.understudy, "fit", "--base", args.folder, "--preset", "wan", "--subject", subject, "--class", "robot"]
    words += ["--rank", "16", "--batch", "1", "--token-steps", "0", "--steps", "2", "--prior-weight", "0"]
    words += ["--set", "token_rate=0", "--set", "samples.every=0", "--set", "checkpointing=true", "--set", "clip_frames=17"]
    words += ["--dtype", args.dtype]
    return [*words, "--height", side, "--width", side, "--json", "--out", to]


def measure(command):
    events, memory = run(list(map(str, command)))
    return {"seconds": seconds(events, "step"), "memory": memory}


def measurements(args, out):
    for side in SIDES:
        yield "denoising", tokens(side), generate(args, out, side)
    for side in SIDES:
        yield "training", tokens(side), fit(args, side, clip(out), out / f"{side}.safetensors")
    for count in COUNTS:
        yield "clips", count, fit(args, 256, clip(out, count), out / f"clips-{count}.safetensors")
    adapters = [out / f"adapter-{index}.safetensors" for index in range(max(COUNTS))]
    for index, adapter in enumerate(adapters):
        run(list(map(str, [*fit(args, 128, clip(out), adapter), "--token", f"<s{index}>"])))
    for count in [0, *COUNTS]:
        yield "adapters", count, generate(args, out, 256, adapters[:count])


def plot(found, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7))
    for name in ("denoising", "training"):
        points = [(point["at"], point["seconds"], point["memory"]) for point in found if point["what"] == name]
        at, times, memory = zip(*points)
        axes[0][0].plot(at, times, "o-", label=name)
        axes[0][1].plot(at, memory, "o-", label=name)
    for axis, what in [(axes[0][0], "seconds a step"), (axes[0][1], "peak of memory, MB")]:
        axis.set(xlabel="tokens of a video", ylabel=what, ylim=(0, None))
        axis.legend()
    for axis, name in zip(axes[1], ["clips", "adapters"]):
        points = [(point["at"], point["memory"]) for point in found if point["what"] == name]
        axis.plot(*zip(*points), "o-")
        axis.set(xlabel=name, ylabel="peak of memory, MB", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--understudy", default="target/release/understudy")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file of every point")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if not args.folder.exists():
        # In a process of its own: what Python has loaded when it starts another program counts as that program's peak.
        maker = multiprocessing.Process(target=make, args=(args.folder,))
        maker.start()
        maker.join()
    found = []
    with tempfile.TemporaryDirectory() as out:
        for what, at, command in measurements(args, Path(out)):
            found.append({"what": what, "at": at, **measure(command)})
            print(found[-1], flush=True)
    args.out.write_text(json.dumps(found, indent=1))
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()

"""Single operations beside PyTorch's: criterion's benchmarks of one operation, then PyTorch on the same shapes.

    python bench/operations.py [--only attention,conv3d] [--out operations.json]

Prints a table of the median times and their ratio, one after the other without repetition. Both sides have two threads; f32
is compared with f32 and bf16 with bf16, where PyTorch reads and writes bf16 and understudy f32. Most of PyTorch's operations
make a new array for their result; understudy's elementwise ones write into one that is there.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def normal(*shape, dtype=torch.float32, grad=False):
    return torch.randn(shape, dtype=dtype).requires_grad_(grad)


def gradient_of(output, inputs):
    """What computes the gradients of `inputs`, the forward pass left out."""
    cotangent = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, inputs, cotangent, retain_graph=True)


def products():
    for rows, inner, columns in [(5120, 256, 1024), (1280, 1536, 1536), (2048, 1536, 8960)]:
        for name, dtype in TYPES.items():
            x, weight = normal(rows, inner, dtype=dtype), normal(columns, inner, dtype=dtype)
            yield f"matmul {rows}x{inner}x{columns} {name} packed", lambda x=x, weight=weight: F.linear(x, weight)
    for rows, inner, columns in [(5120, 256, 1024), (1280, 1536, 8960)]:
        for name, dtype in TYPES.items():
            x, weight, bias = (normal(*shape, dtype=dtype) for shape in [(rows, inner), (columns, inner), (columns,)])
            yield (
                f"map {rows}x{inner}x{columns} {name} gelu",
                lambda x=x, w=weight, b=bias: F.gelu(F.linear(x, w, b), approximate="tanh"),
            )


def attention():
    for shape in [(4, 8, 1280, 32), (1, 12, 2048, 128)]:
        for name, dtype in TYPES.items():
            inputs = [normal(*shape, dtype=dtype, grad=True) for _ in range(3)]
            label = f"attention {'x'.join(map(str, shape))} {name}"
            plain = [x.detach() for x in inputs]
            yield f"{label} forward", lambda plain=plain: F.scaled_dot_product_attention(*plain)
            yield f"{label} backward", gradient_of(F.scaled_dot_product_attention(*inputs), inputs)


def convolutions():
    for batch, channels, *extent in [(4, 16, 17, 64, 64), (8, 64, 5, 16, 16), (1, 96, 8, 64, 64)]:
        for name, dtype in TYPES.items():
            x = normal(batch, channels, *extent, dtype=dtype, grad=True)
            weight = normal(channels, channels, 3, 3, 3, dtype=dtype, grad=True)
            run = lambda x, w: F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0)), w)
            label = f"conv3d {batch}x{channels}x{'x'.join(map(str, extent))} {name}"
            output = run(x, weight)
            plain = [x.detach(), weight.detach()]
            yield f"{label} forward", lambda plain=plain, run=run: run(*plain)
            yield f"{label} backward-data", gradient_of(output, x)
            yield f"{label} backward-weight", gradient_of(output, weight)
    for channels, side in [(320, 64), (640, 32), (1280, 8)]:
        last = torch.channels_last
        x = normal(2, channels, side, side).to(memory_format=last).requires_grad_()
        weight, bias = normal(channels, channels, 3, 3).to(memory_format=last), normal(channels)
        plain = x.detach()
        label = f"2x{channels}x{side}x{side}"
        yield f"conv2d {label} f32 forward", lambda x=plain, w=weight, b=bias: F.conv2d(x, w, b, padding=1)
        yield f"conv2d {label} f32 backward-data", gradient_of(F.conv2d(x, weight, bias, padding=1), x)
        scale = normal(channels)
        norm = lambda x, s=scale, b=bias: F.silu(F.group_norm(x, 32, s, b))
        yield f"group norm {label} forward", lambda x=plain, norm=norm: norm(x)


def elementwise():
    count = 18 << 20
    x = normal(count, grad=True)
    plain = x.detach()
    for name, function in [
        ("gelu tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("gelu erf", F.gelu),
        ("silu", F.silu),
    ]:
        yield f"{name} 18M forward", lambda function=function: function(plain)
        yield f"{name} 18M backward", gradient_of(function(x), x)
    square = x.reshape(-1, 1024)
    yield "softmax 18M forward", lambda: plain.reshape(-1, 1024).softmax(-1)
    yield "softmax 18M backward", gradient_of(square.softmax(-1), x)
    wide = normal(8192, 2560)
    yield "geglu 8192x1280 forward", lambda: (lambda a, b: a * F.gelu(b))(*wide.chunk(2, dim=-1))
    parameter = torch.nn.Parameter(torch.zeros(count))
    parameter.grad = plain
    yield "adamw 18M", torch.optim.AdamW([parameter], fused=True).step
    tokens, scale = normal(4, 1280, 256), normal(4, 1, 256)
    yield "layer norm 4x1280x256 forward", lambda: F.layer_norm(tokens, (256,), eps=1e-6) * (1 + scale) + scale
    yield "rms norm 4x1280x256 forward", lambda: F.rms_norm(tokens, (256,), scale[0, 0], 1e-6)
    heads, table = normal(4, 1280, 8, 16, 2), normal(1280, 1, 16, dtype=torch.complex64)
    yield "rope 4x1280x256 TokensFirst", lambda: torch.view_as_real(torch.view_as_complex(heads) * table)


def residuals():
    for rows, inputs, outputs in [(5120, 256, 1024), (1280, 1536, 1536)]:
        for name, dtype in TYPES.items():
            shapes = [(rows, inputs), (16, inputs), (outputs, 16)]
            leaves = [normal(*shape, dtype=dtype, grad=True) for shape in shapes]
            weight = normal(outputs, inputs, dtype=dtype)
            run = lambda x, down, up, w=weight: F.linear(x, w) + F.linear(F.linear(x, down), up) * 0.5
            plain = [leaf.detach() for leaf in leaves]
            label = f"residual {rows}x{inputs}x{outputs} {name}"
            yield f"{label} forward", lambda plain=plain, run=run: run(*plain)
            step = lambda leaves=leaves, run=run: torch.autograd.grad(run(*leaves).sum(), leaves)
            yield f"{label} step", step


def median(function, seconds=0.8):
    """The median seconds of a call, of so many seconds of them."""
    function()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def ours(name):
    """The median seconds of criterion's benchmark `name`, run now."""
    harness = "residual" if group(name) == "residual" else "operations"
    command = ["cargo", "bench", "--workspace", "--bench", harness, "--", "--exact", f"{group(name)}/{name}"]
    estimates = ROOT / "target/criterion" / group(name) / name / "new/estimates.json"
    # A name that criterion does not know is no error to it.
    estimates.unlink(missing_ok=True)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "RAYON_NUM_THREADS": "2"})
    return json.loads(estimates.read_text())["median"]["point_estimate"] / 1e9


def group(name):
    return name.split(" ")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="first words of operations, separated by commas")
    parser.add_argument("--out", help="a JSON file of every measurement")
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    kept = {}
    print("| Operation | understudy, ms | PyTorch, ms | Ratio |\n|---|---|---|---|")
    for kind in [products, residuals, attention, convolutions, elementwise]:
        for name, function in kind():
            if args.only and group(name) not in args.only.split(","):
                continue
            own, other = ours(name), median(function)
            print(f"| {name} | {own * 1e3:.3g} | {other * 1e3:.3g} | {own / other:.2f} |", flush=True)
            kept[name] = [own, other]
    if args.out:
        Path(args.out).write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()

"""What every oracle script shares: lively random weights, and a way to save a case."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(gen, *shape):
    return torch.randn(*shape, generator=gen)


def liven(model, seed):
    """Replace every parameter by random values of a sensible scale.

    Libraries initialise biases, gates and output layers to zero and norms to one; a mistake in
    such a layer would then not show. Matrices and kernels keep the variance of their input,
    biases are N(0, 0.15), norm weights 1 + N(0, 0.15), tables N(0, 0.3), embeddings N(0, 1).
    """
    gen = generator(seed)
    embeddings = {
        f"{name}.weight" for name, m in model.named_modules() if isinstance(m, torch.nn.Embedding)
    }
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "scale_shift_table" or "relative_attention_bias" in name:
                value = 0.3 * noise
            elif name in embeddings:
                value = noise
            elif leaf == "bias" or leaf == "class_embedding":
                value = 0.15 * noise
            elif leaf == "gamma" or p.ndim == 1:
                value = 1 + 0.15 * noise
            elif p.ndim == 0:
                value = p + 0.1 * noise
            else:
                value = noise * (p[0].numel() ** -0.5)
            p.copy_(value)
    return model.eval()


def liven_statistics(model, gen, least=0.5):
    """Give every batch norm running statistics that differ: means N(0, 0.2), variances from `least` up to one more."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=gen))
        elif name.endswith("running_var"):
            buffer.copy_(least + torch.rand(buffer.shape, generator=gen))


def gradients(model):
    """`grad.<parameter>` for every trained parameter."""
    return {f"grad.{name}": p.grad for name, p in model.named_parameters() if p.requires_grad}


def fresh(case):
    """An empty folder `golden/CASE`."""
    folder = GOLDEN / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def save_case(folder, tensors, scalars=None):
    """Write the tensors (f32 or i64) and scalars of a case, refusing values that test nothing.

    Some gradients are zero but for rounding (a key's bias under a softmax, a bias before a batch
    norm). They are left out and named under `zero_gradients` in case.json.
    """
    out, scalars = {}, dict(scalars or {})
    grads = {key: t.abs().max().item() for key, t in tensors.items() if "grad." in key}
    rounding = 1e-6 * max(grads.values(), default=0)
    scalars["zero_gradients"] = [key for key, size in grads.items() if size <= rounding]
    for key, t in tensors.items():
        if key in scalars["zero_gradients"]:
            continue
        t = t.detach()
        t = t.float() if t.is_floating_point() else t.long()
        if not torch.isfinite(t.float()).all():
            raise ValueError(f"{folder.name}: {key} is not finite")
        if not (t != 0).any():
            raise ValueError(f"{folder.name}: {key} is all zero")
        out[key] = t.clone().contiguous()
    save_file(out, folder / "io.safetensors")
    if not scalars["zero_gradients"]:
        del scalars["zero_gradients"]
    if scalars:
        (folder / "case.json").write_text(json.dumps(scalars, indent=2) + "\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.name}: {len(out)} tensors, {size / 1024:.0f} KB")

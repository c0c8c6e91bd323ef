"""Small operations alone: attention, activations, norms, positions, resampling."""

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_1d_rotary_pos_embed, get_timestep_embedding

from common import fresh, generator, randn, save_case


def with_gradients(name, gen, f, **inputs):
    """`f(**inputs)` with its inputs, a cotangent, and the gradient of each input."""
    inputs = {key: t.clone().requires_grad_() for key, t in inputs.items()}
    output = f(**inputs)
    cotangent = randn(gen, *output.shape)
    (output * cotangent).sum().backward()
    tensors = dict(inputs, output=output, cotangent=cotangent)
    tensors |= {f"grad_{key}": t.grad for key, t in inputs.items()}
    return {f"{name}.{key}": t for key, t in tensors.items()}


def attention():
    """`(batch, heads, tokens, dim)`; a key is attended where its mask is 1."""
    folder, gen = fresh("attention"), generator(1200)
    sdpa = F.scaled_dot_product_attention

    def qkv(batch, heads, queries, keys, dim, value_dim=None):
        return dict(
            q=randn(gen, batch, heads, queries, dim), k=randn(gen, batch, heads, keys, dim),
            v=randn(gen, batch, heads, keys, value_dim or dim),
        )

    mask = (torch.arange(9)[None] < torch.tensor([9, 4])[:, None]).long()
    keep = mask.bool()[:, None, None]
    tensors = {"masked.mask": mask}
    tensors |= with_gradients("self", gen, lambda q, k, v: sdpa(q, k, v), **qkv(2, 3, 7, 7, 8))
    tensors |= with_gradients("cross", gen, lambda q, k, v: sdpa(q, k, v), **qkv(2, 2, 5, 9, 12))
    tensors |= with_gradients("masked", gen, lambda q, k, v: sdpa(q, k, v, attn_mask=keep), **qkv(2, 3, 5, 9, 8))
    tensors |= with_gradients("causal", gen, lambda q, k, v: sdpa(q, k, v, is_causal=True), **qkv(1, 2, 6, 6, 4))
    # UMT5: no scale, a bias on the scores.
    tensors |= with_gradients(
        "bias", gen, lambda q, k, v, bias: sdpa(q, k, v, attn_mask=bias, scale=1.0),
        **qkv(2, 3, 6, 6, 8), bias=randn(gen, 1, 3, 6, 6),
    )
    # Longer than one tile of a blocked kernel, with scores far apart.
    long = qkv(1, 1, 70, 130, 16)
    tensors |= with_gradients("long", gen, lambda q, k, v: sdpa(q, k, v), **(long | dict(q=6 * long["q"])))
    save_case(folder, tensors)


def ops():
    folder, gen = fresh("ops"), generator(1210)
    x = torch.linspace(-8, 8, 65) + 0.03
    tensors = with_gradients("gelu_tanh", gen, lambda x: F.gelu(x, approximate="tanh"), x=x)
    tensors |= with_gradients("gelu_erf", gen, lambda x: F.gelu(x), x=x)
    tensors |= with_gradients("quick_gelu", gen, lambda x: x * torch.sigmoid(1.702 * x), x=x)
    tensors |= with_gradients("silu", gen, lambda x: F.silu(x), x=x)

    h = 3 * randn(gen, 2, 5, 12) + 1
    w, b = 1 + 0.2 * randn(gen, 12), 0.2 * randn(gen, 12)
    tensors |= with_gradients("layer_norm", gen, lambda x: F.layer_norm(x, (12,), eps=1e-6), x=h)
    tensors |= with_gradients(
        "layer_norm_affine", gen, lambda x, weight, bias: F.layer_norm(x, (12,), weight, bias, 1e-5), x=h, weight=w, bias=b
    )
    tensors |= with_gradients("rms_norm", gen, lambda x, weight: F.rms_norm(x, (12,), weight, 1e-6), x=h, weight=w)
    # The VAE's norm over channels: x / max(|x|, 1e-12) * sqrt(channels) * gamma.
    tensors |= with_gradients(
        "channel_norm", gen, lambda x, gamma: F.normalize(x, dim=1) * 6**0.5 * gamma,
        x=randn(gen, 2, 6, 3, 2, 4), gamma=1 + 0.2 * randn(gen, 6, 1, 1, 1),
    )
    # Zeros before the first frame, none after the last.
    tensors |= with_gradients(
        "causal_conv3d", gen,
        lambda x, weight, bias: F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0)), weight, bias),
        x=randn(gen, 2, 3, 4, 5, 6), weight=0.2 * randn(gen, 4, 3, 3, 3, 3), bias=0.2 * randn(gen, 4),
    )
    # The encoder's halving convolution: one zero column right, one zero row below.
    tensors |= with_gradients(
        "down_conv2d", gen, lambda x, weight, bias: F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2),
        x=randn(gen, 2, 3, 6, 8), weight=0.3 * randn(gen, 4, 3, 3, 3), bias=0.2 * randn(gen, 4),
    )
    tensors |= with_gradients(
        "nearest_exact", gen, lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"), x=randn(gen, 1, 2, 3, 4)
    )
    t = torch.tensor([0.0, 1.0, 12.5, 437.0, 999.0, 1000.0])
    tensors["timestep.x"] = t
    tensors["timestep.output"] = get_timestep_embedding(t, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    # The three tables of head dimension 128, at the positions given.
    positions = torch.tensor([0, 1, 2, 20, 103, 1023])
    tensors["rope.positions"] = positions
    for axis, dim in dict(t=44, h=42, w=42).items():
        cos, sin = get_1d_rotary_pos_embed(dim, 1024, 10000.0, use_real=True, freqs_dtype=torch.float64)
        tensors[f"rope.{axis}.cos"], tensors[f"rope.{axis}.sin"] = cos[positions], sin[positions]
    save_case(folder, tensors)


if __name__ == "__main__":
    attention()
    ops()

"""Adapters that are no plain LoRA, and what a denoiser gives whose weights were changed by hand.

The base is `golden/wan_pipeline_a`. DoRA, LoHa and LoKr are written as ComfyUI, LyCORIS and peft do, with the scales that each
of them takes; those of peft are applied by peft itself. With a strength s a weight becomes W + s (W' - W), and several
adapters add up what each makes of W.
"""

import json

import torch
from diffusers import WanPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from common import GOLDEN, fresh, generator, randn, save_case
from wan_original import DENOISER, renamed
from wan_pipeline import sample

BASE = "wan_pipeline_a"
RANK = 3
STRENGTH = 0.7
# Maps of several shapes, and the one convolution.
Q, V, O, UP, DOWN = (f"blocks.0.{name}" for name in ["attn1.to_q", "attn2.to_v", "attn1.to_out.0", "ffn.net.0.proj", "ffn.net.2"])
PATCHES = "patch_embedding"


def native(module):
    return next(iter(renamed({f"{module}.weight": torch.zeros(1)}, DENOISER))).removesuffix(".weight")


def comfyui(module):
    return f"diffusion_model.{native(module)}"


def kohya(module):
    return f"lora_unet_{native(module).replace('.', '_')}"


def scaled(gen, *shape, size=0.3):
    return size * randn(gen, *shape)


def tucker(core, first, second):
    """`core (i, j, kernel)`, `first (i, out)`, `second (j, in)`."""
    return torch.einsum("ijtkl,io,jn->ontkl", core, first, second)


def decomposed(weight, changed, magnitude):
    """DoRA: rows, or columns, of the changed weight get the norms of `magnitude`, whose shape says which."""
    by_output = magnitude.shape[0] == weight.shape[0]
    others = [d for d in range(weight.ndim) if d != (0 if by_output else 1)]
    return changed * magnitude / changed.pow(2).sum(others, keepdim=True).sqrt()


def magnitude(gen, weight, by_output=True):
    others = [d for d in range(weight.ndim) if d != (0 if by_output else 1)]
    norm = weight.pow(2).sum(others, keepdim=True).sqrt()
    return norm * (1 + 0.3 * randn(gen, *norm.shape))


def lora(gen, weight, alpha):
    """A LoRA's tensors and what it adds; of a convolution A has the kernel."""
    down = scaled(gen, RANK, *weight.shape[1:])
    up = scaled(gen, weight.shape[0], RANK, *[1] * (weight.ndim - 2))
    delta = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * alpha / RANK
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(float(alpha))}, delta


def dora(gen, weights, key, by_output):
    tensors, changed = {}, {}
    for module in [Q, UP, PATCHES]:
        weight = weights[module]
        own, delta = lora(gen, weight, 2)
        own["dora_scale"] = magnitude(gen, weight, by_output)
        changed[module] = decomposed(weight, weight + delta, own["dora_scale"])
        tensors |= {f"{key(module)}.{name}": value for name, value in own.items()}
    # One map without magnitudes, which stays a LoRA.
    own, delta = lora(gen, weights[V], 2)
    changed[V] = weights[V] + delta
    tensors |= {f"{key(V)}.{name}": value for name, value in own.items()}
    return tensors, changed


def loha(gen, weights):
    tensors, changed = {}, {}
    for module, core, decompose in [(Q, False, False), (DOWN, False, True), (PATCHES, True, False)]:
        weight = weights[module]
        outputs, inputs, *kernel = weight.shape
        own, product = {"alpha": torch.tensor(2.0)}, 1
        for half in "12":
            if core:
                first, second = scaled(gen, RANK, outputs, size=0.7), scaled(gen, RANK, inputs, size=0.7)
                own[f"hada_t{half}"] = scaled(gen, RANK, RANK, *kernel, size=0.7)
                product = product * tucker(own[f"hada_t{half}"], first, second)
            else:
                first, second = scaled(gen, outputs, RANK, size=0.5), scaled(gen, RANK, inputs, size=0.5)
                product = product * (first @ second)
            own |= {f"hada_w{half}_a": first, f"hada_w{half}_b": second}
        changed[module] = weight + product * 2 / RANK
        if decompose:
            own["dora_scale"] = magnitude(gen, weight)
            changed[module] = decomposed(weight, changed[module], own["dora_scale"])
        tensors |= {f"{kohya(module)}.{name}": value for name, value in own.items()}
    return tensors, changed


def lokr(gen, weights):
    tensors, changed = {}, {}

    def put(module, own, left, right, scale):
        weight = weights[module]
        left = left.reshape(*left.shape, *[1] * (right.ndim - 2))
        changed[module] = weight + scale * torch.kron(left, right.contiguous())
        if "dora_scale" in own:
            changed[module] = decomposed(weight, changed[module], own["dora_scale"])
        tensors.update({f"{comfyui(module)}.{name}": value for name, value in own.items()})

    # Two full matrices: their alpha says nothing.
    left, right = scaled(gen, 4, 4), scaled(gen, 8, 8)
    put(Q, {"lokr_w1": left, "lokr_w2": right, "alpha": torch.tensor(1e10)}, left, right, 1)
    left, first, second = scaled(gen, 4, 8), scaled(gen, 8, RANK), scaled(gen, RANK, 4)
    put(V, {"lokr_w1": left, "lokr_w2_a": first, "lokr_w2_b": second, "alpha": torch.tensor(2.0)}, left, first @ second, 2 / RANK)
    a, b, first, second = scaled(gen, 8, 2), scaled(gen, 2, 4), scaled(gen, 8, 2), scaled(gen, 2, 8)
    put(UP, {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": first, "lokr_w2_b": second, "alpha": torch.tensor(6.0),
             "dora_scale": magnitude(gen, weights[UP])}, a @ b, first @ second, 3)
    kernel = weights[PATCHES].shape[2:]
    left, core, first, second = scaled(gen, 4, 2), scaled(gen, 2, 2, *kernel), scaled(gen, 2, 8), scaled(gen, 2, 4)
    put(PATCHES, {"lokr_w1": left, "lokr_t2": core, "lokr_w2_a": first, "lokr_w2_b": second, "alpha": torch.tensor(1.0)},
        left, tucker(core, first, second), 1 / 2)
    return tensors, changed


def by_peft(folder, gen, config):
    """The weights that peft makes of an adapter of its own, which it saves."""
    pipe = WanPipeline.from_pretrained(GOLDEN / BASE)
    model = get_peft_model(pipe.transformer, config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(p * (1 + 0.3 * randn(gen, *p.shape)) if "magnitude" in name else scaled(gen, *p.shape, size=0.4))
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    merged = model.merge_and_unload()
    return {name.removesuffix(".weight"): value.detach() for name, value in merged.named_parameters() if name.endswith(".weight")}


def latents(call, start, changes):
    """What the pipeline denoises with the weights W + the sum of `strength (changed - W)`."""
    pipe = WanPipeline.from_pretrained(GOLDEN / BASE)
    pipe.set_progress_bar_config(disable=True)
    weights = {name: value.detach().clone() for name, value in pipe.transformer.named_parameters()}
    with torch.no_grad():
        for strength, changed in changes:
            for module, value in changed.items():
                difference = value - weights[f"{module}.weight"]
                pipe.transformer.get_parameter(f"{module}.weight").add_(strength * difference)
    return sample(pipe, call, start)["latents_out"]


def main():
    folder = fresh("adapter_kinds")
    case = json.loads((GOLDEN / BASE / "case.json").read_text())
    names = ["prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
             "max_sequence_length"]
    call = {name: case[name] for name in names}
    start = load_file(GOLDEN / BASE / "io.safetensors")["latents_in"]
    transformer = WanPipeline.from_pretrained(GOLDEN / BASE).transformer
    weights = {name.removesuffix(".weight"): value.detach() for name, value in transformer.named_parameters()}

    gen = generator(1130)
    kinds = {
        "dora": dora(gen, weights, comfyui, True),
        "dora_inputs": dora(gen, weights, kohya, False),
        "loha": loha(gen, weights),
        "lokr": lokr(gen, weights),
    }
    changed = {}
    for name, (tensors, own) in kinds.items():
        changed[name] = own
        save_file(tensors, folder / f"{name}.safetensors")
    targets = ["blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj"]
    for name, config in {
        "peft_dora": LoraConfig(r=RANK, lora_alpha=6, use_dora=True, target_modules=[*targets, PATCHES]),
        "peft_rslora": LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=targets,
                                  alpha_pattern={"attn1.to_q": 2}, rank_pattern={"attn1.to_q": 2}),
        "peft_loha": LoHaConfig(r=RANK, alpha=6, target_modules=targets),
        "peft_lokr": LoKrConfig(r=2, alpha=3, decompose_both=True, target_modules=targets),
        "peft_lokr_full": LoKrConfig(r=32, alpha=16, target_modules=targets),
    }.items():
        changed[name] = by_peft(folder / name, gen, config)

    out = {f"{name}.latents_out": latents(call, start, [(1, own)]) for name, own in changed.items()}
    for name in kinds:
        out[f"{name}.weighed.latents_out"] = latents(call, start, [(STRENGTH, changed[name])])
    several = ["dora", "loha", "lokr"]
    out["several.latents_out"] = latents(call, start, [(STRENGTH, changed[name]) for name in several])
    plain = latents(call, start, [])
    for name, value in out.items():
        if (value - plain).norm() < 0.05 * plain.norm():
            raise ValueError(f"{name} hardly differs from the base")
    save_case(folder, out, dict(call, base=BASE, weight=STRENGTH, several=several))


if __name__ == "__main__":
    main()

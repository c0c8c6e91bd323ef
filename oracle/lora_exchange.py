"""One peft LoRA in the key names of four programs, and what diffusers makes with it.

The base is `golden/wan_pipeline_a`. The LoRA sits on linear maps of blocks, on the time projection, on the output
layer and on the patch embedding, which is a convolution; alpha is half the rank, and more on some maps.
"""

import json
import re

import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from common import GOLDEN, fresh, generator, randn, save_case
from wan_original import DENOISER, renamed
from wan_pipeline import sample

BASE = "wan_pipeline_a"
TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "patch_embedding", "proj_out",
    "condition_embedder.time_proj", "condition_embedder.text_embedder.linear_1",
]
RANK, ALPHA, WEIGHT = 4, 2, 0.7


def native(state):
    """Keys of the original release for diffusers' `MODULE.PART`."""
    # The patterns look for what follows a module's name.
    return {key: value for key, value in renamed(state, DENOISER).items()}


def dialects(state, alphas):
    """`transformer.MODULE.lora_A.weight` and so on as ComfyUI, kohya and DiffSynth have them."""
    bare = {key.removeprefix("transformer."): value for key, value in state.items()}
    modules = {key.rsplit(".lora_", 1)[0] for key in bare}
    name = {m: next(iter(native({f"{m}.weight": torch.zeros(1)}))).removesuffix(".weight") for m in modules}
    comfyui, kohya, diffsynth = {}, {}, {}
    for module in modules:
        down, up = bare[f"{module}.lora_A.weight"], bare[f"{module}.lora_B.weight"]
        alpha = torch.tensor(alphas[module])
        comfyui |= {
            f"diffusion_model.{name[module]}.lora_A.weight": down,
            f"diffusion_model.{name[module]}.lora_B.weight": up,
            f"diffusion_model.{name[module]}.alpha": alpha,
        }
        under = f"lora_unet_{name[module].replace('.', '_')}"
        kohya |= {f"{under}.lora_down.weight": down, f"{under}.lora_up.weight": up, f"{under}.alpha": alpha}
        diffsynth |= {
            f"{name[module]}.lora_A.default.weight": down,
            f"{name[module]}.lora_B.default.weight": up * (alpha / RANK),
        }
    return dict(comfyui=comfyui, kohya=kohya, diffsynth=diffsynth)


def differences(pipe, gen):
    """Dense differences as ComfyUI names them, and the same by diffusers' parameter."""
    wanted = {
        "blocks.0.norm2.weight": "blocks.0.norm3.diff",
        "blocks.0.norm2.bias": "blocks.0.norm3.diff_b",
        "blocks.1.attn1.norm_q.weight": "blocks.1.self_attn.norm_q.diff",
        "blocks.1.attn2.to_k.weight": "blocks.1.cross_attn.k.diff",
        "blocks.1.ffn.net.2.bias": "blocks.1.ffn.2.diff_b",
        "patch_embedding.weight": "patch_embedding.diff",
        "patch_embedding.bias": "patch_embedding.diff_b",
        "blocks.0.scale_shift_table": "blocks.0.diff_m",
        "scale_shift_table": "head.modulation.diff",
    }
    parameters = dict(pipe.transformer.named_parameters())
    dense = {name: 0.2 * randn(gen, *parameters[name].shape) for name in wanted}
    return dense, {f"diffusion_model.{wanted[name]}": value for name, value in dense.items()}


def main():
    folder = fresh("lora_exchange")
    base = GOLDEN / BASE
    pipe = WanPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    case = json.loads((base / "case.json").read_text())
    names = ["prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
             "max_sequence_length"]
    call = {name: case[name] for name in names}
    latents = load_file(base / "io.safetensors")["latents_in"]

    gen = generator(870)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, alpha_pattern={"to_k": 6, "proj_out": 4})
    pipe.transformer.add_adapter(config, adapter_name="first")
    with torch.no_grad():
        for name, p in pipe.transformer.named_parameters():
            if ".lora_" in name:
                p.copy_(randn(gen, *p.shape) * (p[0].numel() ** -0.5 if ".lora_A." in name else 0.2))
    WanPipeline.save_lora_weights(
        folder / "diffusers",
        transformer_lora_layers=get_peft_model_state_dict(pipe.transformer, adapter_name="first"),
        transformer_lora_adapter_metadata=pipe.transformer.peft_config["first"].to_dict(),
    )
    state = load_file(folder / "diffusers/pytorch_lora_weights.safetensors")
    module = re.compile(r"transformer\.(.*)\.lora_A\.weight")
    modules = [match[1] for match in map(module.fullmatch, state) if match]
    alphas = {m: 6.0 if m.endswith("to_k") else 4.0 if m == "proj_out" else float(ALPHA) for m in modules}
    for name, tensors in dialects(state, alphas).items():
        save_file(tensors, folder / f"{name}.safetensors")

    # As a user loads it.
    pipe = WanPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(folder / "diffusers", adapter_name="first")
    pipe.set_adapters("first", WEIGHT)
    out = {f"lora.{key}": value for key, value in sample(pipe, call, latents).items() if key != "latents_steps"}

    # Dense differences, which diffusers does not load, are added by hand.
    pipe = WanPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    dense, comfyui = differences(pipe, gen)
    save_file(comfyui, folder / "differences.safetensors")
    with torch.no_grad():
        for name, p in pipe.transformer.named_parameters():
            if name in dense:
                p += WEIGHT * dense[name]
    out |= {f"dense.{key}": value for key, value in sample(pipe, call, latents).items() if key != "latents_steps"}
    save_case(folder, out, dict(call, base=BASE, weight=WEIGHT))


if __name__ == "__main__":
    main()

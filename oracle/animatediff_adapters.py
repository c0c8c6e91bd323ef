"""What people put on a Stable Diffusion with motion modules: adapters in every program's layout, words of textual
inversion, and all of it together with a ControlNet.

The base is `golden/animatediff_b`. What diffusers loads is loaded by it; what it does not (LoHa, LoKr, DoRA, the original
layouts) is added to the weights by hand, by the formulas of LyCORIS and of AnimateDiff's own program.
"""

import json
import re

import torch
from diffusers import AnimateDiffControlNetPipeline, AnimateDiffPipeline, ControlNetModel, MotionAdapter
from PIL import Image
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from adapter_kinds import decomposed, magnitude, tucker
from common import GOLDEN, fresh, generator, liven, randn, save_case

BASE = GOLDEN / "animatediff_b"
WEIGHT = 0.8
CALL = dict(
    prompt="the green ball rolls, in style", negative_prompt="blurry", height=32, width=48, num_frames=5,
    num_inference_steps=8, guidance_scale=4.0,
)
WORDS = dict(CALL, prompt="a photo of <dog>, in <style-1>", negative_prompt="badhands, blurry")
DOWN, UP = "down_blocks.0", "up_blocks.1"
ATTENTION = f"{DOWN}.attentions.0.transformer_blocks.0"
LAST = f"{UP}.attentions.1.transformer_blocks.0"
# Linear maps, and maps that are published as convolutions of one pixel.
LINEAR = {
    f"{ATTENTION}.attn1.to_q": 3, f"{ATTENTION}.attn1.to_out.0": 2, f"{ATTENTION}.attn2.to_k": 4, f"{ATTENTION}.ff.net.0.proj": 1,
    f"{LAST}.attn2.to_v": 3, f"{LAST}.ff.net.2": 2, "mid_block.attentions.0.transformer_blocks.0.attn1.to_v": 2,
    f"{DOWN}.attentions.0.proj_in": 2, f"{LAST.rsplit('.', 2)[0]}.proj_out": 3,
}
CONVOLUTIONS = {
    f"{DOWN}.resnets.0.conv1": 3, f"{DOWN}.downsamplers.0.conv": 2, "down_blocks.1.resnets.0.conv_shortcut": 2,
    "mid_block.resnets.1.conv2": 2, "up_blocks.0.upsamplers.0.conv": 2, f"{UP}.resnets.0.conv_shortcut": 3,
    "mid_block.resnets.0.time_emb_proj": 3, f"{UP}.resnets.1.conv1": 1,
}
TEXT = {
    "encoder.layers.0.self_attn.q_proj": 2, "encoder.layers.1.self_attn.out_proj": 3, "encoder.layers.0.mlp.fc1": 1,
    "encoder.layers.1.mlp.fc2": 2,
}
MOTION = re.compile(r".*motion_modules\.\d\.transformer_blocks\.0\.attn[12]\.to_(q|k|v|out\.0)")
SPATIAL = re.compile(r".*attentions\.\d\.transformer_blocks\.0\.attn[12]\.to_(q|k|v|out\.0)")


def pipeline(kind=AnimateDiffPipeline, **more):
    adapter = MotionAdapter.from_pretrained(BASE / "motion_adapter")
    pipe = kind.from_pretrained(BASE, motion_adapter=adapter, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe, call, start):
    with torch.no_grad():
        return pipe(**call, latents=start.clone(), output_type="latent").frames


def factors(gen, weight, rank, size=0.4):
    """A LoRA's halves: of a convolution A has the kernel."""
    down = randn(gen, rank, *weight.shape[1:]) * weight[0].numel() ** -0.5
    return down, size * randn(gen, weight.shape[0], rank, *[1] * (weight.ndim - 2))


def product(down, up, weight):
    return (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


def kohya(module, text=False):
    return f"{'lora_te_text_model' if text else 'lora_unet'}_{module}".replace(".", "_")


def kohya_lora(gen, pipe, unet, text, alike):
    """A LoRA in kohya's names, with an alpha on every module: the same or, if not `alike`, its own."""
    tensors = {}
    for network, modules in [(pipe.unet, unet), (pipe.text_encoder, dict(text))]:
        for module, rank in modules.items():
            down, up = factors(gen, network.get_parameter(f"{module}.weight"), rank)
            name = kohya(module, network is pipe.text_encoder)
            tensors |= {
                f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                f"{name}.alpha": torch.tensor(1.5 if alike else 1 + rank / 2),
            }
    return tensors


def loha(gen, weight, core):
    outputs, inputs, *kernel = weight.shape
    own, whole = {"alpha": torch.tensor(1.5)}, 1
    for half in "12":
        if core:
            first, second = 0.7 * randn(gen, 2, outputs), 0.7 * randn(gen, 2, inputs)
            own[f"hada_t{half}"] = 0.5 * randn(gen, 2, 2, *kernel)
            whole = whole * torch.einsum("ijkl,io,jn->onkl", own[f"hada_t{half}"], first, second)
        else:
            first, second = 0.5 * randn(gen, outputs, 2), 0.5 * randn(gen, 2, weight[0].numel())
            whole = whole * (first @ second).reshape(weight.shape)
        own |= {f"hada_w{half}_a": first, f"hada_w{half}_b": second}
    return own, whole * 1.5 / 2


def lokr(gen, weight, core):
    outputs, inputs, *kernel = weight.shape
    left = 0.4 * randn(gen, 3, 4)
    if core:
        first, second = 0.6 * randn(gen, 2, outputs // 3), 0.6 * randn(gen, 2, inputs // 4)
        middle = 0.6 * randn(gen, 2, 2, *kernel)
        right = torch.einsum("ijkl,io,jn->onkl", middle, first, second)
        own = dict(lokr_w2_a=first, lokr_w2_b=second, lokr_t2=middle, alpha=torch.tensor(1.0))
        scale = 1 / 2
    elif kernel:
        first, second = 0.5 * randn(gen, outputs // 3, 2), 0.5 * randn(gen, 2, inputs // 4 * kernel[0] * kernel[1])
        right = (first @ second).reshape(outputs // 3, inputs // 4, *kernel)
        own, scale = dict(lokr_w2_a=first, lokr_w2_b=second, alpha=torch.tensor(3.0)), 3 / 2
    else:
        right, scale = 0.5 * randn(gen, outputs // 3, inputs // 4), 1
        own = dict(lokr_w2=right, alpha=torch.tensor(1e10))
    whole = torch.kron(left.reshape(3, 4, *[1] * len(kernel)), right.contiguous())
    return dict(lokr_w1=left, **own), scale * whole


def kinds(gen, pipe):
    """LoHa, LoKr and DoRA on linear maps and convolutions, and the weights they make."""
    conv, down, one = f"{DOWN}.resnets.0.conv1", f"{DOWN}.downsamplers.0.conv", f"{DOWN}.attentions.0.proj_in"
    places = dict(
        loha=[(f"{ATTENTION}.attn1.to_q", False), (conv, False), (down, True), (one, False)],
        lokr=[(f"{ATTENTION}.attn1.to_q", False), (conv, False), (down, True), (one, False)],
        dora=[(f"{ATTENTION}.attn1.to_q", True), (conv, True), (down, False), (one, True), (f"{ATTENTION}.attn2.to_v", False)],
    )
    found = {}
    for kind, modules in places.items():
        tensors, changed = {}, {}
        for module, choice in modules:
            weight = pipe.unet.get_parameter(f"{module}.weight").detach()
            if kind == "dora":
                low, high = factors(gen, weight, 2)
                own = {"lora_down.weight": low, "lora_up.weight": high, "alpha": torch.tensor(1.0)}
                own["dora_scale"] = magnitude(gen, weight, choice)
                changed[module] = decomposed(weight, weight + product(low, high, weight) / 2, own["dora_scale"])
            else:
                own, delta = (loha if kind == "loha" else lokr)(gen, weight, choice)
                changed[module] = weight + delta
            tensors |= {f"{kohya(module)}.{name}": value for name, value in own.items()}
        if kind == "loha":
            # On the text encoder, too.
            weight = pipe.text_encoder.get_parameter("encoder.layers.0.mlp.fc1.weight").detach()
            own, delta = loha(gen, weight, False)
            changed["text:encoder.layers.0.mlp.fc1"] = weight + delta
            tensors |= {f"{kohya('encoder.layers.0.mlp.fc1', True)}.{name}": value for name, value in own.items()}
        found[kind] = (tensors, changed)
    return found


def with_changes(changes, weight):
    pipe = pipeline()
    with torch.no_grad():
        for module, value in changes.items():
            network = pipe.text_encoder if module.startswith("text:") else pipe.unet
            parameter = network.get_parameter(f"{module.removeprefix('text:')}.weight")
            parameter.add_(weight * (value - parameter))
    return pipe


def processors(gen, pipe, pattern, rank):
    """A LoRA as AnimateDiff's program writes one: `processor.to_q_lora.down.weight`, without alphas; and what it adds."""
    tensors, changes = {}, {}
    for name, parameter in pipe.unet.named_parameters():
        module = name.removesuffix(".weight")
        if not pattern.fullmatch(module):
            continue
        down, up = factors(gen, parameter.detach(), rank, 0.2)
        changes[module] = parameter.detach() + product(down, up, parameter)
        attention, part = re.fullmatch(r"(.*attn[12])\.to_(q|k|v|out)(?:\.0)?", module).groups()
        for half, value in [("down", down), ("up", up)]:
            tensors[f"{attention}.processor.to_{part}_lora.{half}.weight"] = value
    return tensors, changes


def as_original(name):
    name = re.sub(r"(motion_modules\.\d)\.", r"\1.temporal_transformer.", name)
    return name.replace(".attn1.processor", ".attention_blocks.0.processor").replace(
        ".attn2.processor", ".attention_blocks.1.processor")


def motion_loras(folder, gen, start, out):
    tensors, changes = processors(gen, pipeline(), MOTION, 2)
    save_file({as_original(name): value for name, value in tensors.items()}, folder / "motion_original.safetensors")
    torch.save(
        dict(state_dict={f"module.{as_original(name)}": value for name, value in tensors.items()}), folder / "motion_original.ckpt"
    )
    save_file({f"unet.{name}": value for name, value in tensors.items()}, folder / "motion_diffusers.safetensors")
    out["motion.latents_out"] = latents(with_changes(changes, WEIGHT), CALL, start)
    pipe = pipeline()
    pipe.load_lora_weights(folder, weight_name="motion_diffusers.safetensors", adapter_name="motion")
    pipe.set_adapters("motion", WEIGHT)
    agree(latents(pipe, CALL, start), out["motion.latents_out"], "a MotionLoRA")
    # The adapter of v3, which takes the look of its clips away.
    tensors, changes = processors(gen, pipeline(), SPATIAL, 2)
    torch.save(dict(state_dict={f"module.{name}": value for name, value in tensors.items()}), folder / "domain.ckpt")
    save_file(tensors, folder / "domain.safetensors")
    out["domain.latents_out"] = latents(with_changes(changes, WEIGHT), CALL, start)


def agree(found, expected, what):
    error = ((found - expected).norm() / expected.norm()).item()
    print(f"  {what}: {error:.1e}")
    if error > 1e-4:
        raise ValueError(f"{what} differs by {error}")


def loras(folder, gen, start, out):
    """LoRAs in kohya's names; the last one in diffusers' too."""
    for name, unet, text in [
        ("style", LINEAR, TEXT), ("convolutions", LINEAR | CONVOLUTIONS, TEXT), ("whole", LINEAR | CONVOLUTIONS, TEXT),
    ]:
        pipe = pipeline()
        tensors = kohya_lora(gen, pipe, unet, text, name != "convolutions")
        save_file(tensors, folder / f"{name}.safetensors")
        changes, names = {}, {kohya(own): own for own in unet} | {kohya(own, True): f"text:{own}" for own in text}
        for module, own in names.items():
            network = pipe.text_encoder if own.startswith("text:") else pipe.unet
            weight = network.get_parameter(f"{own.removeprefix('text:')}.weight").detach()
            down, up = tensors[f"{module}.lora_down.weight"], tensors[f"{module}.lora_up.weight"]
            changes[own] = (weight + product(down, up, weight) * tensors[f"{module}.alpha"] / len(down)).clone()
        out[f"{name}.latents_out"] = latents(with_changes(changes, WEIGHT), CALL, start)
        if name == "convolutions":
            # diffusers 0.42 loses alphas of attention that differ from the most frequent one.
            continue
        pipe.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
        pipe.set_adapters(name, WEIGHT)
        agree(out[f"{name}.latents_out"], latents(pipe, CALL, start), f"{name}, merged by hand")
        if name == "whole":
            save_as_diffusers(pipe, folder, name)


def save_as_diffusers(pipe, folder, name):
    """What was loaded, as diffusers writes it."""
    AnimateDiffPipeline.save_lora_weights(
        folder / "diffusers",
        unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name=name),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder, adapter_name=name),
        unet_lora_adapter_metadata=pipe.unet.peft_config[name].to_dict(),
        text_encoder_lora_adapter_metadata=pipe.text_encoder.peft_config[name].to_dict(),
    )


def inversions(folder, gen):
    """Files of textual inversion as diffusers and the web UI write them."""
    rows = lambda count: randn(gen, count, 12)
    save_file({"<dog>": rows(1)[0]}, folder / "learned_embeds.safetensors")
    torch.save({"<style-1>": rows(3)}, folder / "learned_embeds.bin")
    torch.save(
        dict(
            string_to_token={"*": 265}, string_to_param={"*": torch.nn.Parameter(rows(2))}, name="badhands", step=3000,
            sd_checkpoint="81761151", sd_checkpoint_name="v1-5-pruned",
        ),
        folder / "badhands.pt",
    )
    return [folder / name for name in ["learned_embeds.safetensors", "learned_embeds.bin", "badhands.pt"]]


def control_frames(gen):
    """Pictures of whole bytes, `(frames, 3, height, width)` in [0, 1]."""
    bytes_ = (256 * torch.rand(5, 32, 48, 3, generator=gen)).byte()
    return [Image.fromarray(frame.numpy()) for frame in bytes_], bytes_.permute(0, 3, 1, 2).float() / 255


def together(folder, gen, start, files, out):
    unet = pipeline().unet.config
    control = liven(ControlNetModel(
        block_out_channels=(12, 24), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        norm_num_groups=6, attention_head_dim=3, cross_attention_dim=12, conditioning_embedding_out_channels=(4, 6, 6, 8),
    ), 2702)
    with torch.no_grad():
        for convolution in [*control.controlnet_down_blocks, control.controlnet_mid_block]:
            convolution.weight *= 0.4
    control.save_pretrained(folder / "controlnet")
    pictures, tensor = control_frames(gen)
    out["control"] = tensor
    window = dict(controlnet_conditioning_scale=0.8, control_guidance_start=0.1, control_guidance_end=0.8)
    pipe = pipeline(AnimateDiffControlNetPipeline, controlnet=control)
    out["control.latents_out"] = latents(pipe, CALL | window | dict(conditioning_frames=pictures), start)
    for file in files:
        pipe.load_textual_inversion(file)
    pipe.load_lora_weights(folder, weight_name="whole.safetensors", adapter_name="whole")
    pipe.set_adapters("whole", WEIGHT)
    out["together.latents_out"] = latents(pipe, WORDS | window | dict(conditioning_frames=pictures), start)


def main():
    folder = fresh("animatediff_adapters")
    gen = generator(2700)
    start = randn(gen, 1, 4, 5, 4, 6)
    out = dict(latents=start, **{"plain.latents_out": latents(pipeline(), CALL, start)})
    loras(folder, gen, start, out)
    for kind, (tensors, changed) in kinds(gen, pipeline()).items():
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"{kind}.safetensors")
        out[f"{kind}.latents_out"] = latents(with_changes(changed, WEIGHT), CALL, start)
    motion_loras(folder, gen, start, out)
    files = inversions(folder, gen)
    pipe = pipeline()
    for file in files:
        pipe.load_textual_inversion(file)
    out["words.latents_out"] = latents(pipe, WORDS, start)
    together(folder, gen, start, files, out)
    plain = out["plain.latents_out"]
    for name, value in out.items():
        if name.endswith("latents_out"):
            print(f"  {name}: {(value - plain).norm() / plain.norm():.2f} from the base's")
    save_case(folder, out, dict(call=CALL, words=WORDS, weight=WEIGHT, base=BASE.name))


if __name__ == "__main__":
    main()

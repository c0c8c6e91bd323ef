"""The files that Stable Diffusions and motion modules are shared as: what every tensor is called in them.

`names_CASE.json` says for each tensor of a file in the original layout which one of diffusers' it is, and its shape, for
several counts of levels and layers; diffusers' own converters agree with it. Of the base `golden/animatediff_b` there is
a `.ckpt` in half precision as well, with all that such files have besides, and its motion modules.
"""

import json
import re

import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers, convert_ldm_clip_checkpoint, convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from animatediff import CASES
from common import GOLDEN, fresh, generator, liven, randn

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.text_model.", "first_stage_model."
OUTER = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}
RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}
AUTOENCODER = [
    (r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets", r"up.\1.block"), (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"),
]
# The published counts, with few channels.
FOUR = dict(
    unet=dict(
        block_out_channels=(4, 4, 8, 8), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        norm_num_groups=2, attention_head_dim=2, cross_attention_dim=12,
    ),
    motion=dict(
        block_out_channels=(4, 4, 8, 8), motion_layers_per_block=2, motion_num_attention_heads=2,
        motion_norm_num_groups=2, motion_max_seq_length=32, use_motion_mid_block=True,
    ),
)


def unet_name(name, config):
    """What the original release calls a tensor of the UNet."""
    layers = config["layers_per_block"]
    module, parameter = name.rsplit(".", 1)
    if module in OUTER:
        return f"{OUTER[module]}.{parameter}"
    way, level, part, layer, rest = re.fullmatch(
        r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", module
    ).groups()
    level, layer = int(level or 0), int(layer)
    if way == "mid":
        place = "middle_block.1" if part == "attentions" else f"middle_block.{2 * layer}"
    elif part == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{parameter}"
    elif part == "upsamplers":
        attends = config["up_block_types"][level].startswith("CrossAttn")
        return f"output_blocks.{level * (layers + 1) + layers}.{1 + attends}.conv.{parameter}"
    elif way == "down":
        place = f"input_blocks.{1 + level * (layers + 1) + layer}.{int(part == 'attentions')}"
    else:
        place = f"output_blocks.{level * (layers + 1) + layer}.{int(part == 'attentions')}"
    return f"{place}.{RESIDUAL.get(rest, rest)}.{parameter}"


def vae_name(name, levels):
    for pattern, replacement in AUTOENCODER:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(?<=decoder\.up\.)\d+", lambda level: str(levels - 1 - int(level[0])), name)


def motion_name(name):
    """What the original release calls a tensor of a motion module."""
    name = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", name)
    for own, original in [("attn1", "attention_blocks.0"), ("attn2", "attention_blocks.1"), ("norm1", "norms.0"),
                          ("norm2", "norms.1"), ("norm3", "ff_norm"), ("pos_embed", "attention_blocks.0.pos_encoder")]:
        name = re.sub(rf"(transformer_blocks\.\d+)\.{own}\.", rf"\1.{original}.", name)
    return name


def same(found, expected, what):
    if found.keys() != expected.keys() or not all(torch.equal(found[key], expected[key]) for key in found):
        raise ValueError(f"{what} differs: {sorted(found.keys() ^ expected.keys())[:4]}")


def original(unet, text=None, vae=None):
    """A file's tensors in the original layout, and which of diffusers' each is."""
    tensors, names = {}, {}

    def put(name, own, tensor):
        tensors[name], names[name] = tensor, own

    for name, tensor in unet.state_dict().items():
        put(UNET + unet_name(name, unet.config), f"unet/{name}", tensor)
    own = convert_ldm_unet_checkpoint(dict(tensors), dict(unet.config))
    same(own, unet.state_dict(), "the UNet")
    if text is not None:
        state = text.state_dict()
        for name, tensor in state.items():
            put(TEXT + name, f"text_encoder/{name}", tensor)
        own = convert_ldm_clip_checkpoint(dict(tensors), remove_prefix="cond_stage_model.transformer.")
        own = {name.removeprefix("text_model."): tensor for name, tensor in own.items()}
        same(own, state, "the text encoder")
        levels = len(vae.config.block_out_channels)
        for name, tensor in vae.state_dict().items():
            maps = ".attentions." in name and tensor.ndim == 2
            put(VAE + vae_name(name, levels), f"vae/{name}", tensor[:, :, None, None] if maps else tensor)
        own = convert_ldm_vae_checkpoint(dict(tensors), dict(vae.config))
        same({name: tensor.reshape(vae.state_dict()[name].shape) for name, tensor in own.items()}, vae.state_dict(), "the VAE")
    return tensors, names


def original_motion(adapter):
    """The same of motion modules, with the tables of positions that such files have."""
    state = {name: tensor for name, tensor in adapter.state_dict().items() if not name.endswith("pos_embed.pe")}
    tensors = {motion_name(name): tensor for name, tensor in state.items()}
    names = {motion_name(name): f"motion_adapter/{name}" for name in state}
    for name, tensor in adapter.state_dict().items():
        if name.endswith("pos_embed.pe"):
            for block in "01":
                tensors[motion_name(name).replace("blocks.0.pos", f"blocks.{block}.pos")] = tensor.clone()
    own = convert_animatediff_checkpoint_to_diffusers(dict(tensors))
    same(own, state, "the motion modules")
    return tensors, names


def leftovers(tensors):
    """What real files have besides."""
    gen = generator(2600)
    schedule = torch.linspace(0.999, 0.005, 1000)
    some = [name for name in tensors if name.startswith(UNET)][::40]
    return {
        "betas": schedule, "alphas_cumprod": schedule, "sqrt_recip_alphas_cumprod": schedule, "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        TEXT + "embeddings.position_ids": torch.arange(77)[None],
        **{"model_ema." + name.removeprefix("model.").replace(".", ""): randn(gen, *tensors[name].shape).half() for name in some},
    }


def half(tensors):
    return {name: tensor.half() for name, tensor in tensors.items()}


def noted(path, tensors, names):
    path.write_text(json.dumps({name: [names.get(name), list(tensor.shape)] for name, tensor in tensors.items()}, separators=(",", ":")))


def main():
    folder = fresh("animatediff_files")
    for case in CASES:
        pipe = AnimateDiffPipeline.from_pretrained(
            GOLDEN / f"animatediff_{case}", motion_adapter=MotionAdapter.from_pretrained(GOLDEN / f"animatediff_{case}/motion_adapter")
        )
        unet = UNet2DConditionModel.from_pretrained(GOLDEN / f"animatediff_{case}/unet")
        tensors, names = original(unet, pipe.text_encoder, pipe.vae)
        motion, motion_names = original_motion(pipe.motion_adapter)
        noted(folder / f"names_{case}.json", tensors | motion, names | motion_names)
        if case != "b":
            continue
        torch.save(dict(epoch=3, global_step=470000, state_dict=half(tensors) | leftovers(tensors)), folder / "b.ckpt")
        torch.save(dict(epoch=1, state_dict={f"module.{name}": tensor for name, tensor in half(motion).items()}), folder / "motion.ckpt")
        # A pipeline as it is saved: its UNet has both, tensor for tensor.
        pipe.save_pretrained(folder / "pipeline")
        own = {name: tensor for name, tensor in pipe.unet.state_dict().items() if not name.endswith("pos_embed.pe")}
        apart = {name: tensor for name, tensor in pipe.motion_adapter.state_dict().items() if not name.endswith("pos_embed.pe")}
        same(own, unet.state_dict() | apart, "the pipeline's UNet")
        for weights in (folder / "pipeline").rglob("*"):
            if weights.suffix == ".safetensors" or weights.parent.name not in ("pipeline", "unet"):
                weights.unlink() if weights.is_file() else None
        for empty in (folder / "pipeline").iterdir():
            empty.rmdir() if empty.is_dir() and not any(empty.iterdir()) else None
    four = liven(UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, **FOUR["unet"]), 2601)
    adapter = liven(MotionAdapter(**FOUR["motion"]), 2602)
    (tensors, names), (motion, motion_names) = original(four), original_motion(adapter)
    noted(folder / "names_four.json", tensors | motion, names | motion_names)
    four.save_config(folder / "four/unet")
    adapter.save_config(folder / "four/motion_adapter")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.name}: {size / 1024:.0f} KB")


if __name__ == "__main__":
    main()

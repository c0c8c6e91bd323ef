"""UNetMotionModel and ControlNetModel as AnimateDiff has them: forward passes; for case a every gradient, a ControlNet
beside it and its gradients, and low-rank residuals of every kind of module."""

import torch
from diffusers import ControlNetModel, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # A module in the middle; two videos of nine frames at two timesteps, latents with odd sides; gradients. The file of
    # the motion modules has no positions.
    "a": dict(
        unet=dict(
            in_channels=4, out_channels=4, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=[2, 4], cross_attention_dim=6,
        ),
        motion=dict(
            block_out_channels=(4, 8), motion_layers_per_block=1, motion_num_attention_heads=2,
            motion_norm_num_groups=2, motion_max_seq_length=12,
        ),
        # Of a few seeds the one whose gradients in float32 are nearest those in float64 (7e-5; others have 1e-3): layer
        # norms of four channels now and then divide by next to nothing.
        seed=1900, videos=(2, 4, 9, 5, 7), words=5, timestep=[873.0, 12.0], gradients=True, control=True, lora=True,
    ),
    # As the first release: none in the middle. Two layers and two transformer blocks in one level, heads that
    # differ, thirteen frames, as many as there are positions; two further latent channels that the modules' own first
    # convolution reads; stored as bfloat16.
    "b": dict(
        unet=dict(
            in_channels=4, out_channels=4, block_out_channels=(4, 6, 8), layers_per_block=[1, 2, 1], norm_num_groups=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=[1, 3, 2],
            cross_attention_dim=10,
        ),
        motion=dict(
            block_out_channels=(4, 6, 8), motion_layers_per_block=[1, 2, 1], motion_num_attention_heads=[4, 1, 2],
            motion_transformer_layers_per_block=[1, 2, 1], motion_norm_num_groups=2, motion_max_seq_length=13,
            use_motion_mid_block=False, conv_in_channels=6,
        ),
        seed=1700, videos=(1, 6, 13, 7, 5), words=3, timestep=[500.0], bfloat16=True,
    ),
}

# One site of every kind that peft can wrap: it cannot where a module is called by the name of its argument.
TARGETS = [
    "conv_in", "conv_out", "time_embedding.linear_2", "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.resnets.0.time_emb_proj", "down_blocks.0.downsamplers.0.conv", "down_blocks.1.resnets.0.conv2",
    "down_blocks.1.resnets.0.conv_shortcut", "down_blocks.0.attentions.0.proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "mid_block.attentions.0.proj_out",
    "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj", "up_blocks.0.upsamplers.0.conv",
    "down_blocks.1.motion_modules.0.transformer_blocks.0.attn1.to_k",
    "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_out.0",
    "mid_block.motion_modules.0.transformer_blocks.0.attn1.to_v",
    "up_blocks.1.motion_modules.1.transformer_blocks.0.ff.net.2",
    "up_blocks.0.motion_modules.0.transformer_blocks.0.ff.net.0.proj",
]
CONTROL = dict(conditioning_channels=3, conditioning_embedding_out_channels=(4, 6))
WEIGHT = 0.7


def frames_in_batch(videos):
    """(samples, channels, frames, h, w) as (samples * frames, channels, h, w)."""
    return videos.transpose(1, 2).flatten(0, 1)


def without_positions(path):
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.endswith("pos_embed.pe")}
    save_file(tensors, path, metadata={"format": "pt"})


def made(cls, config, folder, seed, dtype):
    """A lively network, saved as `dtype` and read as float32."""
    liven(cls(**config), seed).to(dtype).save_pretrained(folder)
    return cls.from_pretrained(folder, torch_dtype=torch.float32).eval()


def controlled(model, unet, folder, gen, run, cotangent, seed):
    """What a ControlNet gives, in all its ways, what the UNet makes of it, and the ControlNet's gradients."""
    control = liven(ControlNetModel.from_unet(unet, load_weights_from_unet=False, **CONTROL), seed)
    control.save_pretrained(folder / "controlnet")
    videos, text, times = run["videos"], run["text"], run["times"]
    (samples, _, frames), sides = videos.shape[:3], videos.shape[3:]
    pictures = torch.rand(samples * frames, 3, *(2 * side for side in sides), generator=gen)
    given = dict(
        sample=frames_in_batch(videos), timestep=times.repeat_interleave(frames),
        encoder_hidden_states=text.repeat_interleave(frames, 0), controlnet_cond=pictures, return_dict=False,
    )
    tensors = dict(pictures=pictures)

    def residuals(name, **options):
        down, middle = control(**given, **options)
        tensors.update({f"{name}.{index}": tensor for index, tensor in enumerate([*down, middle])})
        return down, middle

    with torch.no_grad():
        residuals("residual")
        residuals("guess", guess_mode=True)
        control.register_to_config(global_pool_conditions=True)
        residuals("pooled")
        control.register_to_config(global_pool_conditions=False, controlnet_conditioning_channel_order="bgr")
        tensors["bgr"] = control(**given)[1]
        control.register_to_config(controlnet_conditioning_channel_order="rgb")
    down, middle = control(**given)
    output = model(
        videos, times, given["encoder_hidden_states"], return_dict=False,
        down_block_additional_residuals=[WEIGHT * tensor for tensor in down],
        mid_block_additional_residual=WEIGHT * middle,
    )[0]
    (output * cotangent).sum().backward()
    tensors |= {f"control_{key}": grad for key, grad in gradients(control).items()}
    return tensors | dict(controlled=frames_in_batch(output))


def adapted(model, gen, run, cotangent):
    """The output with low-rank residuals, these, and their gradients."""
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS))
    loras = {
        name.replace(".lora_A.default.weight", ".down").replace(".lora_B.default.weight", ".up"): p
        for name, p in model.named_parameters() if "lora_" in name
    }
    assert len(loras) == 2 * len(TARGETS), len(loras)
    with torch.no_grad():
        for name, p in loras.items():
            p.copy_(randn(gen, *p.shape) * (p[0].numel() ** -0.5))
    output = run["model"]()
    (output * cotangent).sum().backward()
    tensors = dict(adapted=frames_in_batch(output))
    for name, p in loras.items():
        tensors |= {f"lora.{name}": p.flatten(1), f"lora_grad.{name}": p.grad.flatten(1)}
    return tensors


def main():
    for name, case in CASES.items():
        seed = case["seed"]
        folder = fresh(f"motion_unet_{name}")
        dtype = torch.bfloat16 if case.get("bfloat16") else torch.float32
        unet = made(UNet2DConditionModel, case["unet"], folder / "unet", seed, dtype)
        motion = made(MotionAdapter, case["motion"], folder / "motion", seed + 10, dtype)
        if not case.get("bfloat16"):
            without_positions(folder / "motion" / "diffusion_pytorch_model.safetensors")
        model = UNetMotionModel.from_unet2d(unet, motion).eval()

        gen = generator(seed + 20)
        videos = randn(gen, *case["videos"]).requires_grad_()
        frames = videos.shape[2]
        text = randn(gen, videos.shape[0], case["words"], case["unet"]["cross_attention_dim"]).requires_grad_()
        times = torch.tensor(case["timestep"])

        def forward():
            return model(videos, times, text.repeat_interleave(frames, 0), return_dict=False)[0]

        output = forward()
        tensors = dict(
            sample=frames_in_batch(videos), timestep=times, encoder_hidden_states=text, output=frames_in_batch(output)
        )
        run = dict(videos=videos, text=text, times=times, model=forward)
        if case.get("gradients"):
            cotangent = randn(gen, *output.shape)
            (output * cotangent).sum().backward()
            tensors |= dict(
                cotangent=frames_in_batch(cotangent), grad_sample=frames_in_batch(videos.grad),
                grad_encoder_hidden_states=text.grad.clone(),
            )
            tensors |= {key: grad.clone() for key, grad in gradients(model).items()}
        if case.get("control"):
            tensors |= controlled(model, unet, folder, gen, run, cotangent, seed + 40)
        if case.get("lora"):
            tensors |= adapted(model, gen, run, cotangent)
        save_case(folder, tensors, dict(frames=frames, weight=WEIGHT, scale=1.5))


if __name__ == "__main__":
    main()

"""Whole AnimateDiff pipelines on tiny Stable Diffusions: prompt to frames, with everything that people put on it.

Every case is the folder of a base in diffusers' layout, its motion adapter, what is attached, and `case.safetensors`.
"""

import json

import torch
from diffusers import (
    AnimateDiffControlNetPipeline, AnimateDiffPipeline, AutoencoderKL, ControlNetModel, DDIMScheduler,
    DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler, MotionAdapter,
    PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common import fresh, generator, liven, randn, save_case

WORDS = "a the red green ball cat dances on beach photo of in style rolls blurry".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789<>,.-_"
# AnimateDiff's own scheduler, and that of Stable Diffusion 1.5.
DDIM = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1,
    timestep_spacing="linspace",
)

CASES = {
    # As published: a motion module in the middle, several layers a level, sides that cannot be halved.
    "a": dict(
        unet=dict(
            block_out_channels=(8, 16, 16), layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=4, attention_head_dim=2, cross_attention_dim=20,
        ),
        motion=dict(
            block_out_channels=(8, 16, 16), motion_layers_per_block=2, motion_num_attention_heads=4,
            motion_norm_num_groups=4, motion_max_seq_length=32, use_motion_mid_block=True,
        ),
        text=dict(hidden_size=20, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2),
        call=dict(prompt="a red cat dances on the beach", negative_prompt="blurry", height=56, width=40, num_frames=9),
    ),
    # As v3: nothing in the middle, another number of heads; the last but one layer of the text encoder.
    "b": dict(
        unet=dict(
            block_out_channels=(12, 24), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=6, attention_head_dim=3, cross_attention_dim=12,
        ),
        motion=dict(
            block_out_channels=(12, 24), motion_layers_per_block=1, motion_num_attention_heads=3,
            motion_norm_num_groups=6, motion_max_seq_length=24, use_motion_mid_block=False,
        ),
        text=dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3),
        call=dict(prompt="the green ball rolls, in style", height=32, width=48, num_frames=13, clip_skip=1),
    ),
}
VAE = dict(
    block_out_channels=(4, 4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_size=32,
)
SAMPLERS = {
    "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "euler-a": EulerAncestralDiscreteScheduler,
    "dpm++2m": DPMSolverMultistepScheduler, "pndm": PNDMScheduler,
}


def tokenizer(folder):
    """A CLIP tokenizer that knows a few words whole; written as published, `vocab.json` and `merges.txt`."""
    vocabulary = [letter for letter in LETTERS] + [letter + "</w>" for letter in LETTERS]
    merges = []
    for word in WORDS:
        parts = list(word[:-1]) + [word[-1] + "</w>"]
        while len(parts) > 1:
            merges += [(parts[0], parts[1])] if (parts[0], parts[1]) not in merges else []
            parts = [parts[0] + parts[1]] + parts[2:]
            vocabulary += [parts[0]] if parts[0] not in vocabulary else []
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def build(folder, seed, case):
    tok = tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(
        **case["text"], vocab_size=len(tok), max_position_embeddings=77, hidden_act="quick_gelu",
        bos_token_id=len(tok) - 2, eos_token_id=len(tok) - 1, pad_token_id=len(tok) - 1, attn_implementation="eager",
    )
    vae = liven(AutoencoderKL(**VAE), 2500 + seed)
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 2  # Some pixels clamp.
    return dict(
        tokenizer=tok,
        text_encoder=liven(CLIPTextModel(text), 2510 + seed),
        vae=vae,
        unet=liven(UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, **case["unet"]), 2520 + seed),
        scheduler=DDIMScheduler(**DDIM),
        motion_adapter=liven(MotionAdapter(**case["motion"]), 2530 + seed),
    )


def states(pipe, text, skip):
    """A text's states; with `skip`, of as many layers before the last, normed like its. (diffusers' own `clip_skip` looks
    for a module that transformers no longer has.)"""
    ids = pipe.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    out = pipe.text_encoder(ids, output_hidden_states=True)
    if not skip:
        return out.last_hidden_state
    return pipe.text_encoder.final_layer_norm(out.hidden_states[-(skip + 1)])


def embedded(pipe, call):
    """The call with its texts encoded."""
    call = dict(call)
    skip = call.pop("clip_skip", 0)
    prompt, negative = call.pop("prompt"), call.pop("negative_prompt", "")
    return call | dict(
        prompt_embeds=states(pipe, prompt, skip), negative_prompt_embeds=states(pipe, negative, skip)
    )


def sample(pipe, call, latents, **more):
    """One run: the last latents, and the frames."""
    call = embedded(pipe, call) | dict(num_inference_steps=8, guidance_scale=4.0) | more
    out = pipe(**call, latents=latents.clone(), output_type="latent").frames
    frames = torch.from_numpy(pipe(**call, latents=latents.clone(), output_type="np").frames[0])
    clamped = ((frames == 0) | (frames == 1)).float().mean().item()
    print(f"  latents std {out.std():.2f}, frames {frames.mean():.2f} ± {frames.std():.2f}, {100 * clamped:.0f} % clamped")
    return out, frames


def as_published(file):
    """The names that transformers wrote before its version 5."""
    save_file({f"text_model.{key}": value for key, value in load_file(file).items()}, file)


def start(pipe, call, seed):
    shape = (1, 4, call["num_frames"], call["height"] // 8, call["width"] // 8)
    return randn(generator(seed), *shape)


def lcm(parts, call, latents, seed, tensors):
    """LCM's sampler, with the noise it adds recorded."""
    pipe = AnimateDiffPipeline(**parts, feature_extractor=None, image_encoder=None)
    pipe.scheduler = LCMScheduler.from_config(DDIMScheduler(**DDIM).config)
    pipe.set_progress_bar_config(disable=True)
    gen = generator(seed)
    noises = []

    def recorded(shape, **_):
        noises.append(randn(gen, *shape))
        return noises[-1].clone()

    import diffusers.schedulers.scheduling_lcm as module

    usual, module.randn_tensor = module.randn_tensor, recorded
    call = embedded(pipe, call)
    out = pipe(**call, latents=latents.clone(), output_type="latent", num_inference_steps=4, guidance_scale=1.5).frames
    module.randn_tensor = usual
    tensors["lcm.latents_out"] = out
    for step, noise in enumerate(noises):
        tensors[f"lcm.step_noise.{step}"] = noise


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"animatediff_{name}")
        parts = build(folder, seed, case)
        pipe = AnimateDiffPipeline(**parts, feature_extractor=None, image_encoder=None)
        pipe.set_progress_bar_config(disable=True)
        call = case["call"]
        latents = start(pipe, call, 2540 + seed)
        with torch.no_grad():
            out, frames = sample(pipe, call, latents)
        tensors = dict(latents=latents, latents_out=out, frames=frames)
        with torch.no_grad():
            texts = embedded(pipe, call)
            tensors |= dict(positive=texts["prompt_embeds"], negative=texts["negative_prompt_embeds"])
            lcm(parts, call, latents, 2550 + seed, tensors)
            if name == "a":
                for sampler, kind in SAMPLERS.items():
                    # What stays the same in all of them.
                    own = AnimateDiffPipeline(**parts, feature_extractor=None, image_encoder=None)
                    own.set_progress_bar_config(disable=True)
                    own.scheduler = kind.from_config(parts["scheduler"].config)
                    if sampler == "euler-a":
                        continue
                    tensors[f"{sampler}.latents_out"] = sample(own, call, latents, num_inference_steps=7)[0]
        # A Stable Diffusion and a motion adapter, as they are published apart.
        base = {part: parts[part] for part in ("tokenizer", "text_encoder", "vae", "unet", "scheduler")}
        StableDiffusionPipeline(
            **base, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        ).save_pretrained(folder)
        parts["motion_adapter"].save_pretrained(folder / "motion_adapter")
        if name == "a":
            as_published(folder / "text_encoder" / "model.safetensors")
        (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
        save_case(folder, {key: value.contiguous() for key, value in tensors.items()}, dict(call=call, steps=8, guidance=4.0))


if __name__ == "__main__":
    main()

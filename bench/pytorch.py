"""What understudy is timed against: the same work by diffusers and peft, as JSON lines with the seconds of its parts."""

import argparse
import json
import os
import time
from pathlib import Path

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def tell(event, seconds, **more):
    print(json.dumps({"event": event, "seconds": seconds, **more}), flush=True)


class Clock:
    """Seconds since it was last read."""

    def __init__(self):
        self.last = time.perf_counter()

    def read(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed


def pipeline(args):
    from diffusers import AutoencoderKLWan, WanPipeline

    # The autoencoder stays in single precision, as diffusers' documentation has it and as understudy does it.
    vae = AutoencoderKLWan.from_pretrained(args.base, subfolder="vae", torch_dtype=torch.float32)
    pipe = WanPipeline.from_pretrained(args.base, vae=vae, torch_dtype=DTYPES[args.dtype])
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(args.device)


def words(args):
    """How many words the denoiser sees of a prompt."""
    return json.loads((Path(args.base) / "model_index.json").read_text()).get("max_sequence_length", 512)


@torch.inference_mode()
def generate(args):
    pipe = pipeline(args)
    clock = Clock()
    guided = args.guidance > 1
    texts = pipe.encode_prompt(args.prompt, "", guided, max_sequence_length=words(args))
    tell("encoded", clock.read())

    def after(pipe, step, timestep, tensors):
        tell("step", clock.read(), step=step + 1)
        return tensors

    latents = pipe(
        prompt_embeds=texts[0],
        negative_prompt_embeds=texts[1],
        num_frames=args.frames,
        height=args.height,
        width=args.width,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        output_type="latent",
        callback_on_step_end=after,
        generator=torch.Generator().manual_seed(0),
    ).frames
    clock.read()
    shape = (1, pipe.vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(pipe.vae.config.latents_mean, device=args.device).view(shape)
    deviation = torch.tensor(pipe.vae.config.latents_std, device=args.device).view(shape)
    pipe.vae.decode(latents.float() * deviation + mean, return_dict=False)
    tell("decoded", clock.read())


def lora(args):
    from peft import LoraConfig

    pipe = pipeline(args)
    transformer = pipe.transformer
    transformer.requires_grad_(False)
    names = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    transformer.add_adapter(LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=names))
    # Masters of what is trained stay in single precision.
    trained = [p for p in transformer.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    if args.checkpointing:
        transformer.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    with torch.no_grad():
        video = torch.rand(1, 3, args.frames, args.height, args.width, device=args.device) * 2 - 1
        latents = pipe.vae.encode(video).latent_dist.mode().repeat(args.batch, 1, 1, 1, 1)
        text = pipe.encode_prompt("a robot", None, False, max_sequence_length=words(args))[0]
        text = text.repeat(args.batch, 1, 1)
    del pipe.text_encoder, pipe.vae
    mixed = torch.autocast(args.device.split(":")[0], DTYPES[args.dtype], enabled=args.dtype != "f32")
    clock = Clock()
    for step in range(args.steps):
        sigma = torch.sigmoid(torch.randn(args.batch, device=args.device)).view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(latents)
        with mixed:
            found = transformer(
                hidden_states=((1 - sigma) * latents + sigma * noise).to(DTYPES[args.dtype]),
                timestep=1000 * sigma.flatten(),
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        loss = torch.nn.functional.mse_loss(found.float(), noise - latents)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tell("step", clock.read(), step=step + 1, loss=loss.item())


@torch.inference_mode()
def unet(args):
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    model = UNet2DConditionModel.from_pretrained(args.base, torch_dtype=DTYPES[args.dtype]).to(args.device)
    inputs = load_file(Path(args.base) / "inputs.safetensors", device=args.device)
    clock = Clock()
    for step in range(args.steps):
        model(**inputs, return_dict=False)
        tell("step", clock.read(), step=step + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=["generate", "lora", "unet"])
    parser.add_argument("--base", required=True)
    parser.add_argument("--prompt", default="")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", action="store_true")
    for name, usual in {"frames": 17, "height": 64, "width": 64, "steps": 20, "rank": 16, "batch": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--guidance", type=float, default=4.0)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    {"generate": generate, "lora": lora, "unet": unet}[args.work](args)


if __name__ == "__main__":
    main()

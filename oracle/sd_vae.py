"""AutoencoderKL as Stable Diffusion has it: posteriors and decodes, whole and in tiles, and for case a every gradient."""

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # The published four levels, space / 8; sides that are no multiples of anything; gradients.
    "a": dict(
        config=dict(
            block_out_channels=(4, 4, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=32,
        ),
        pictures=(2, 3, 27, 38), latents=(2, 4, 3, 5), gradients=True, tiled=dict(pictures=(1, 3, 33, 41), latents=(1, 4, 5, 6)),
    ),
    # Two levels, two residual blocks; a shift; no quantizing convolutions; stored as bfloat16 under the names that
    # attention had before 2023.
    "b": dict(
        config=dict(
            block_out_channels=(8, 12), layers_per_block=2, latent_channels=3, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        ),
        pictures=(1, 3, 11, 8), latents=(1, 3, 4, 7), bfloat16=True, old_names=True,
    ),
}

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def rename(path):
    """Give the attention weights of a file the names they had once."""
    tensors = {}
    for name, tensor in load_file(path).items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"sd_vae_{name}")
        vae = liven(AutoencoderKL(**case["config"]), 1500 + seed)
        if case.get("bfloat16"):
            vae = vae.to(torch.bfloat16)
        vae.save_pretrained(folder)
        if case.get("old_names"):
            rename(folder / "diffusion_pytorch_model.safetensors")
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()

        gen = generator(1510 + seed)
        pictures = (0.5 * randn(gen, *case["pictures"])).clamp(-1, 1).requires_grad_()
        latents = randn(gen, *case["latents"]).requires_grad_()
        posterior = vae.encode(pictures).latent_dist
        decoded = vae.decode(latents).sample
        tensors = dict(
            pictures=pictures, latents=latents, posterior_mean=posterior.mean, posterior_logvar=posterior.logvar,
            decoded=decoded,
        )
        # As pipelines scale them.
        config = vae.config
        shift = config.shift_factor or 0
        tensors |= dict(
            scaled=(latents - shift) * config.scaling_factor, unscaled=latents / config.scaling_factor + shift
        )
        if case.get("gradients"):
            cotangent_mean, cotangent_decoded = randn(gen, *posterior.mean.shape), randn(gen, *decoded.shape)
            # The two losses share no parameter.
            (posterior.mean * cotangent_mean).sum().backward()
            (decoded * cotangent_decoded).sum().backward()
            tensors |= dict(
                cotangent_mean=cotangent_mean, cotangent_decoded=cotangent_decoded, grad_pictures=pictures.grad,
                grad_latents=latents.grad,
            )
            tensors |= gradients(vae)
        if "tiled" in case:
            # Tiles of 32 every 24, as `sample_size` says.
            vae.enable_tiling()
            with torch.no_grad():
                pictures = (0.5 * randn(gen, *case["tiled"]["pictures"])).clamp(-1, 1)
                latents = randn(gen, *case["tiled"]["latents"])
                tensors |= {
                    "tiled.pictures": pictures, "tiled.latents": latents,
                    "tiled.posterior_mean": vae.encode(pictures).latent_dist.mean,
                    "tiled.decoded": vae.decode(latents).sample,
                }
        save_case(folder, tensors, dict(stored_dtype="bfloat16" if case.get("bfloat16") else "float32"))


if __name__ == "__main__":
    main()

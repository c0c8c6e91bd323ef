"""Tiled encoding and decoding of the Wan VAE, on the checkpoint of `golden/wan_vae_b`."""

import torch
from diffusers import AutoencoderKLWan

from common import GOLDEN, fresh, generator, randn, save_case

# Pixels: tiles of 16 x 24 every 12 x 16, over 40 x 44 (neither a whole number of strides).
TILES = dict(
    tile_sample_min_height=16, tile_sample_min_width=24, tile_sample_stride_height=12, tile_sample_stride_width=16
)


def main():
    folder = fresh("wan_tiling")
    vae = AutoencoderKLWan.from_pretrained(GOLDEN / "wan_vae_b").eval()
    vae.enable_tiling(**TILES)
    gen = generator(890)
    with torch.no_grad():
        video = 0.5 * randn(gen, 1, 3, 5, 40, 44).clamp(-2, 2)
        latents = randn(gen, 1, 8, 2, 10, 11)
        tensors = dict(
            video=video, latents=latents, posterior_mean=vae.encode(video).latent_dist.mean,
            decoded=vae.decode(latents).sample,
        )
    save_case(folder, tensors, dict(size=[16, 24], stride=[12, 16]))


if __name__ == "__main__":
    main()

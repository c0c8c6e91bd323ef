"""AutoencoderKLWan: posteriors and decodes, and for case b every gradient."""

import torch
from diffusers import AutoencoderKLWan

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # The published four levels: space / 8, time / 4, a 2x3 latent.
    "a": dict(
        config=dict(
            base_dim=4, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[-0.3, 0.2, 0.1, -0.5], latents_std=[1.5, 0.8, 2.0, 1.1],
        ),
        video=(1, 3, 9, 16, 24),
    ),
    # Three levels: space / 4, time / 4, two videos, gradients.
    "b": dict(
        config=dict(
            base_dim=4, z_dim=8, dim_mult=[1, 2, 4], num_res_blocks=1,
            temperal_downsample=[True, True], scale_factor_spatial=4,
            latents_mean=[0.1 * i - 0.4 for i in range(8)], latents_std=[0.7 + 0.1 * i for i in range(8)],
        ),
        video=(1, 3, 17, 16, 24), gradients=True,
    ),
    # Two residual blocks a level, a wider decoder, an image and a short video.
    "c": dict(
        config=dict(
            base_dim=4, decoder_base_dim=6, z_dim=3, dim_mult=[1, 2, 2], num_res_blocks=2,
            temperal_downsample=[True, True], scale_factor_spatial=4,
            latents_mean=[0.1, -0.2, 0.3], latents_std=[1.2, 0.9, 1.6],
        ),
        video=(2, 3, 5, 12, 20), image=(2, 3, 1, 12, 20),
    ),
}


def decode_raw(vae, z):
    """`vae.decode` before it clamps to [-1, 1]: one latent frame at a time, each causal
    convolution carrying the last two frames it saw."""
    vae.clear_cache()
    z = vae.post_quant_conv(z)
    frames = []
    for i in range(z.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(z[:, :, i : i + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0)
        )
    vae.clear_cache()
    return torch.cat(frames, 2)


def roundtrip(vae, gen, shape, suffix=""):
    """A random video and its posterior; random latents of the posterior's shape and their decode."""
    video = randn(gen, *shape).clamp(-2, 2).mul(0.5).requires_grad_()
    posterior = vae.encode(video).latent_dist
    latents = randn(gen, *posterior.mean.shape).requires_grad_()
    raw = decode_raw(vae, latents)
    decoded = vae.decode(latents).sample
    assert torch.equal(decoded, raw.clamp(-1, 1)) and decoded.shape == video.shape
    clamped = (raw.abs() > 1).float().mean().item()
    print(f"  {shape}: {100 * clamped:.1f} % clamped, raw std {raw.std():.2f}, logvar {posterior.logvar.std():.2f}")
    tensors = dict(
        video=video, posterior_mean=posterior.mean, posterior_logvar=posterior.logvar,
        latents=latents, decoded_raw=raw, decoded=decoded,
    )
    return {key + suffix: t for key, t in tensors.items()}


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"wan_vae_{name}")
        vae = liven(AutoencoderKLWan(**case["config"]), 300 + seed)
        with torch.no_grad():
            vae.decoder.conv_out.weight *= 0.6
        vae.save_pretrained(folder)

        gen = generator(400 + seed)
        tensors = roundtrip(vae, gen, case["video"])
        if "image" in case:
            tensors |= roundtrip(vae, gen, case["image"], "_image")
        if case.get("gradients"):
            cotangent_mean = randn(gen, *tensors["posterior_mean"].shape)
            cotangent_decoded = randn(gen, *tensors["decoded_raw"].shape)
            # The two losses share no parameter.
            (tensors["posterior_mean"] * cotangent_mean).sum().backward()
            (tensors["decoded_raw"] * cotangent_decoded).sum().backward()
            tensors |= dict(
                cotangent_mean=cotangent_mean, cotangent_decoded=cotangent_decoded,
                grad_video=tensors["video"].grad, grad_latents=tensors["latents"].grad,
            )
            tensors |= gradients(vae)
        save_case(folder, tensors, dict(decode_clamps_to=[-1.0, 1.0]))


if __name__ == "__main__":
    main()

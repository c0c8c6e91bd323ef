"""UNet2DConditionModel as Stable Diffusion has it: forward passes, and for case a every gradient."""

import torch
from diffusers import UNet2DConditionModel

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # The block types of Stable Diffusion 1.5, two timesteps, latents that are not square, gradients.
    "a": dict(
        config=dict(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 12, 16, 16), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            norm_num_groups=4, attention_head_dim=2, cross_attention_dim=10,
        ),
        latent=(2, 4, 8, 16), words=7, timestep=[873.0, 12.0], gradients=True,
    ),
    # As Stable Diffusion 2: heads of one width, linear projections; two layers a block; sides that cannot be halved
    # (upsampling is told its sizes), three shards.
    "b": dict(
        config=dict(
            sample_size=8, in_channels=5, out_channels=3, block_out_channels=(8, 16, 24), layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=8, attention_head_dim=[1, 2, 3], cross_attention_dim=14, use_linear_projection=True,
        ),
        latent=(2, 5, 7, 13), words=9, timestep=[500.0, 999.0], shard="350KB",
    ),
    # Attention in one block alone, two transformer blocks there; sines first, another epsilon; stored as bfloat16 and
    # computed in float32.
    "c": dict(
        config=dict(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8, norm_eps=1e-6, attention_head_dim=4, cross_attention_dim=8,
            transformer_layers_per_block=[1, 2], flip_sin_to_cos=False, freq_shift=1,
        ),
        latent=(1, 4, 6, 10), words=5, timestep=[321.0], bfloat16=True,
    ),
}


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"sd_unet_{name}")
        model = liven(UNet2DConditionModel(**case["config"]), 1400 + seed)
        if case.get("bfloat16"):
            model = model.to(torch.bfloat16)
        model.save_pretrained(folder, max_shard_size=case.get("shard", "10GB"))
        model = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)

        gen = generator(1410 + seed)
        x = randn(gen, *case["latent"]).requires_grad_()
        text = randn(gen, x.shape[0], case["words"], case["config"]["cross_attention_dim"]).requires_grad_()
        t = torch.tensor(case["timestep"])

        # Intermediate values, for finding where a port departs.
        seen = {}
        model.time_embedding.register_forward_hook(lambda _, __, out: seen.update(temb=out))
        model.conv_in.register_forward_hook(lambda _, __, out: seen.update(conv_in=out))
        model.down_blocks[0].register_forward_hook(lambda _, __, out: seen.update(down0_output=out[0]))
        model.mid_block.register_forward_hook(lambda _, __, out: seen.update(mid_output=out))

        output = model(x, t, text, return_dict=False)[0]
        tensors = dict(sample=x, timestep=t, encoder_hidden_states=text, output=output, **seen)
        if case.get("gradients"):
            cotangent = randn(gen, *output.shape)
            (output * cotangent).sum().backward()
            tensors |= dict(cotangent=cotangent, grad_sample=x.grad, grad_encoder_hidden_states=text.grad)
            tensors |= gradients(model)
        save_case(folder, tensors, dict(stored_dtype="bfloat16" if case.get("bfloat16") else "float32"))


if __name__ == "__main__":
    main()

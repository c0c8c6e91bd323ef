"""WanTransformer3DModel: forward passes, and for case a every gradient."""

import torch
from diffusers import WanTransformer3DModel

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # Two batch items at different timesteps, a non-square latent, gradients.
    "a": dict(
        config=dict(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=4,
            out_channels=4, text_dim=20, freq_dim=32, ffn_dim=64, num_layers=2,
            cross_attn_norm=True, rope_max_seq_len=64,
        ),
        latent=(2, 4, 3, 6, 10), tokens=7, timestep=[873.0, 12.5], gradients=True,
    ),
    # No patches, no cross-attention norm, one frame, more channels out than in, three shards.
    "b": dict(
        config=dict(
            patch_size=(1, 1, 1), num_attention_heads=3, attention_head_dim=16, in_channels=3,
            out_channels=5, text_dim=12, freq_dim=48, ffn_dim=72, num_layers=2,
            cross_attn_norm=False, eps=1e-5, rope_max_seq_len=32,
        ),
        latent=(2, 3, 1, 5, 7), tokens=9, timestep=[500.0, 999.0], shard="130KB",
    ),
    # The shape of the nano model, stored as bfloat16 and computed in float32.
    "c": dict(
        config=dict(
            patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=24, in_channels=16,
            out_channels=16, text_dim=32, freq_dim=64, ffn_dim=128, num_layers=2,
            cross_attn_norm=True, rope_max_seq_len=128,
        ),
        latent=(1, 16, 5, 8, 8), tokens=12, timestep=[321.0], bfloat16=True,
    ),
}


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"wan_transformer_{name}")
        model = liven(WanTransformer3DModel(**case["config"], qk_norm="rms_norm_across_heads"), 100 + seed)
        if case.get("bfloat16"):
            model = model.to(torch.bfloat16)
        model.save_pretrained(folder, max_shard_size=case.get("shard", "10GB"))
        # Read back, since casting the model to and fro would round its position tables too.
        model = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)

        gen = generator(200 + seed)
        x = randn(gen, *case["latent"]).requires_grad_()
        context = randn(gen, x.shape[0], case["tokens"], case["config"]["text_dim"]).requires_grad_()
        t = torch.tensor(case["timestep"])

        # Intermediate values, for finding where a port departs.
        seen = {}
        model.condition_embedder.register_forward_hook(
            lambda _, __, out: seen.update(temb=out[0], timestep_proj=out[1], context=out[2])
        )
        model.rope.register_forward_hook(lambda _, __, out: seen.update(rope_cos=out[0], rope_sin=out[1]))
        model.patch_embedding.register_forward_hook(lambda _, __, out: seen.update(patches=out))
        model.blocks[0].register_forward_hook(lambda _, __, out: seen.update(block0_output=out))

        output = model(x, t, context, return_dict=False)[0]
        tensors = dict(hidden_states=x, timestep=t, encoder_hidden_states=context, output=output, **seen)
        if case.get("gradients"):
            cotangent = randn(gen, *output.shape)
            (output * cotangent).sum().backward()
            tensors |= dict(cotangent=cotangent, grad_hidden_states=x.grad, grad_encoder_hidden_states=context.grad)
            tensors |= gradients(model)
        save_case(folder, tensors, dict(stored_dtype="bfloat16" if case.get("bfloat16") else "float32"))


if __name__ == "__main__":
    main()

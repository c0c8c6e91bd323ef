"""Whole WanPipelines: prompt to frames, every intermediate result kept."""

import torch
from diffusers import (
    AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel,
)
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from common import fresh, generator, liven, randn, save_case

CASES = {
    # The nano layout: a three-level VAE, space / 4 and time / 4.
    "a": dict(
        transformer=dict(
            num_attention_heads=2, attention_head_dim=16, in_channels=8, out_channels=8, text_dim=20,
            freq_dim=32, ffn_dim=64, num_layers=2, rope_max_seq_len=64,
        ),
        vae=dict(
            base_dim=3, z_dim=8, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[True, True],
            scale_factor_spatial=4, latents_mean=[0.1 * i - 0.4 for i in range(8)],
            latents_std=[0.7 + 0.1 * i for i in range(8)],
        ),
        text=dict(d_model=20, d_kv=8, d_ff=32, num_layers=2, num_heads=3),
        call=dict(prompt="a red ball rolls to the left", height=32, width=16, num_frames=5, max_sequence_length=24),
        euler=True,
    ),
    # The published layout: a four-level VAE, space / 8; sharded; a prompt that needs cleaning.
    "b": dict(
        transformer=dict(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
            freq_dim=24, ffn_dim=48, num_layers=2, rope_max_seq_len=64,
        ),
        vae=dict(
            base_dim=2, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1,
            temperal_downsample=[False, True, True], latents_mean=[-0.3, 0.2, 0.1, -0.5],
            latents_std=[1.5, 0.8, 2.0, 1.1],
        ),
        text=dict(d_model=16, d_kv=6, d_ff=24, num_layers=1, num_heads=2),
        call=dict(
            prompt="  two   green\n cubes &amp; a xylophone ", height=32, width=48, num_frames=5,
            max_sequence_length=16,
        ),
        shard="70KB",
    ),
    # 13 latent frames, three heads, three shards, no cross-attention norm.
    "c": dict(
        transformer=dict(
            num_attention_heads=3, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12,
            freq_dim=16, ffn_dim=40, num_layers=3, rope_max_seq_len=32, cross_attn_norm=False,
        ),
        vae=dict(
            base_dim=2, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True],
            scale_factor_spatial=4, latents_mean=[0.2, -0.1, 0.4, 0.0], latents_std=[1.1, 0.9, 1.4, 0.8],
        ),
        text=dict(d_model=12, d_kv=4, d_ff=20, num_layers=1, num_heads=3),
        call=dict(prompt="two cubes", height=16, width=32, num_frames=49, max_sequence_length=12),
        shard="100KB",
    ),
    # One latent frame; one wide head, patches of one latent.
    "d": dict(
        transformer=dict(
            num_attention_heads=1, attention_head_dim=36, in_channels=4, out_channels=4, text_dim=16, patch_size=[1, 1, 1],
            freq_dim=24, ffn_dim=56, num_layers=2, rope_max_seq_len=64,
        ),
        vae=dict(
            base_dim=2, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=2, temperal_downsample=[True, True],
            scale_factor_spatial=4, latents_mean=[0.0, 0.3, -0.2, 0.1], latents_std=[1.0, 1.3, 0.7, 1.2],
        ),
        text=dict(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
        call=dict(prompt="the red ball and sks", height=48, width=16, num_frames=1, max_sequence_length=20),
    ),
}
WORDS = "a the red green blue ball cube cubes two rolls jumps to left right on and of & sks".split()


def tokenizer():
    """A unigram tokenizer as UMT5 has it: pad 0, </s> 1, <unk> 2, `▁` for spaces, </s> appended.
    Words have pieces of their own, anything else falls to letters and rare characters to <unk>."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -4.0 - 0.01 * i) for i, word in enumerate(WORDS)]
    pieces += [(letter, -8.0 - 0.01 * i) for i, letter in enumerate("abcdefghijklmnopqrstuvw")]
    t = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    t.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=t, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    return fast


def build(seed, case):
    tok = tokenizer()
    text = UMT5Config(
        **case["text"], vocab_size=len(tok), relative_attention_num_buckets=8,
        relative_attention_max_distance=12, dropout_rate=0.0, attn_implementation="eager",
    )
    vae = liven(AutoencoderKLWan(**case["vae"]), 800 + seed)
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 2  # Some pixels clamp.
    return WanPipeline(
        tokenizer=tok,
        text_encoder=liven(UMT5EncoderModel(text), 810 + seed),
        vae=vae,
        transformer=liven(WanTransformer3DModel(**case["transformer"]), 820 + seed),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    )


def sample(pipe, call, latents):
    """One run: the latents after each step, the last latents, and the frames."""
    steps = []

    def keep(pipe, i, t, kwargs):
        steps.append(kwargs["latents"].clone())
        return {}

    out = pipe(**call, latents=latents.clone(), output_type="latent", callback_on_step_end=keep).frames
    frames = pipe(**call, latents=latents.clone(), output_type="np").frames
    assert torch.equal(out, steps[-1])
    frames = torch.from_numpy(frames[0])
    clamped = ((frames == 0) | (frames == 1)).float().mean().item()
    print(f"  latents std {out.std():.2f}, frames {frames.mean():.2f} ± {frames.std():.2f}, {100 * clamped:.0f} % clamped")
    return dict(latents_steps=torch.stack(steps), latents_out=out, frames=frames)


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"wan_pipeline_{name}")
        pipe = build(seed, case)
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained(folder, max_shard_size=case.get("shard", "10GB"))

        call = dict(case["call"], negative_prompt="", num_inference_steps=8, guidance_scale=5.0)
        latent = (call["num_frames"] - 1) // 4 + 1, *(call[k] // pipe.vae_scale_factor_spatial for k in ("height", "width"))
        latents = randn(generator(830 + seed), 1, pipe.transformer.config.in_channels, *latent)

        with torch.no_grad():
            positive, negative = pipe.encode_prompt(
                call["prompt"], call["negative_prompt"], max_sequence_length=call["max_sequence_length"]
            )
        cleaned = prompt_clean(call["prompt"])
        tokens = pipe.tokenizer(
            [cleaned, ""], padding="max_length", max_length=call["max_sequence_length"], return_tensors="pt"
        )
        tensors = dict(
            latents_in=latents, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
            prompt_embeds=positive, negative_prompt_embeds=negative,
        )
        tensors |= sample(pipe, call, latents)
        tensors["timesteps"] = pipe.scheduler.timesteps
        tensors["sigmas"] = pipe.scheduler.sigmas
        scalars = dict(call, cleaned_prompt=cleaned)
        if case.get("euler"):
            # The same pipeline with another scheduler, saved beside the first.
            pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
            pipe.scheduler.save_pretrained(folder / "scheduler_euler")
            tensors |= {f"euler.{key}": t for key, t in sample(pipe, call, latents).items()}
            tensors["euler.timesteps"] = pipe.scheduler.timesteps
        # Embeddings past the last real token, </s> included, are zero.
        for embeds, mask in zip((positive[0], negative[0]), tokens.attention_mask):
            real = int(mask.sum())
            assert embeds[:real].ne(0).any(1).all() and embeds[real:].eq(0).all()
        save_case(folder, tensors, scalars)


if __name__ == "__main__":
    main()

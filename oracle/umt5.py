"""UMT5EncoderModel: padded batches, relative position buckets, and for case a every gradient."""

import torch
from transformers import UMT5Config, UMT5EncoderModel

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    "a": dict(
        config=dict(
            vocab_size=60, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=4,
            relative_attention_num_buckets=8, relative_attention_max_distance=10,
        ),
        tokens=17, lengths=[17, 6], gradients=True,
    ),
    "b": dict(
        config=dict(
            vocab_size=97, d_model=40, d_kv=6, d_ff=56, num_layers=3, num_heads=3,
            relative_attention_num_buckets=16, relative_attention_max_distance=20, layer_norm_epsilon=1e-5,
        ),
        tokens=48, lengths=[1, 48, 30],
    ),
}


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"umt5_{name}")
        config = UMT5Config(**case["config"], dropout_rate=0.0, attn_implementation="eager")
        model = liven(UMT5EncoderModel(config), 500 + seed)
        model.save_pretrained(folder)

        gen = generator(600 + seed)
        n, lengths = case["tokens"], torch.tensor(case["lengths"])
        mask = (torch.arange(n)[None] < lengths[:, None]).long()
        ids = torch.randint(3, config.vocab_size, mask.shape, generator=gen) * mask
        ids.scatter_(1, lengths[:, None] - 1, config.eos_token_id)

        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        tensors = dict(input_ids=ids, attention_mask=mask, last_hidden_state=hidden)
        if case.get("gradients"):
            cotangent = randn(gen, *hidden.shape) * mask[..., None]
            (hidden * cotangent).sum().backward()
            tensors |= dict(cotangent=cotangent) | gradients(model)

        # Bucket of each relative position (key - query), here and at the published 32 / 128, whose
        # boundaries fall exactly on powers of two.
        attention = model.encoder.block[0].layer[0].SelfAttention
        relative = torch.arange(-200, 201)
        tensors |= dict(relative_position=relative, buckets=attention._relative_position_bucket(relative))
        attention.relative_attention_num_buckets, attention.relative_attention_max_distance = 32, 128
        tensors["buckets_32_128"] = attention._relative_position_bucket(relative)
        save_case(folder, tensors, dict(lengths=case["lengths"]))


if __name__ == "__main__":
    main()

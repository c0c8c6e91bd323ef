"""CLIPModel: embeddings and similarities, and for case a every gradient."""

import torch
from transformers import CLIPConfig, CLIPModel

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # As the published checkpoints: eos_token_id 2, so the end of text is the largest id.
    "a": dict(
        text=dict(
            vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
            max_position_embeddings=14, hidden_act="quick_gelu", bos_token_id=48, eos_token_id=2, pad_token_id=1,
        ),
        vision=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=24,
            patch_size=8, hidden_act="quick_gelu",
        ),
        dim=16, bos=48, eos=49, pad=49, lengths=[14, 5, 9], gradients=True,
    ),
    # A normal eos id that is not the largest, exact gelu, more layers.
    "b": dict(
        text=dict(
            vocab_size=64, hidden_size=20, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            max_position_embeddings=12, hidden_act="gelu", bos_token_id=3, eos_token_id=5, pad_token_id=0,
            layer_norm_eps=1e-6,
        ),
        vision=dict(
            hidden_size=24, intermediate_size=36, num_hidden_layers=1, num_attention_heads=3, image_size=20,
            patch_size=4, hidden_act="gelu", layer_norm_eps=1e-6,
        ),
        dim=12, bos=3, eos=5, pad=0, lengths=[7, 12],
    ),
}


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"clip_{name}")
        config = CLIPConfig(
            text_config=case["text"], vision_config=case["vision"], projection_dim=case["dim"],
            logit_scale_init_value=2.0, attn_implementation="eager",
        )
        model = liven(CLIPModel(config), 1000 + seed)
        model.save_pretrained(folder)

        gen = generator(1010 + seed)
        n, lengths = case["text"]["max_position_embeddings"], torch.tensor(case["lengths"])
        mask = (torch.arange(n)[None] < lengths[:, None]).long()
        ids = torch.randint(6, 48, mask.shape, generator=gen)
        ids[:, 0] = case["bos"]
        ids.scatter_(1, lengths[:, None] - 1, case["eos"])
        ids = torch.where(mask.bool(), ids, case["pad"])
        size = case["vision"]["image_size"]
        pixels = randn(gen, 2, 3, size, size).requires_grad_()

        out = model(input_ids=ids, pixel_values=pixels, attention_mask=mask)
        tensors = dict(
            pixel_values=pixels, input_ids=ids, attention_mask=mask,
            vision_hidden=out.vision_model_output.last_hidden_state,
            text_hidden=out.text_model_output.last_hidden_state,
            # The projections, then the same divided by their norms.
            image_features=out.vision_model_output.pooler_output,
            text_features=out.text_model_output.pooler_output,
            image_embeds=out.image_embeds, text_embeds=out.text_embeds, logits_per_image=out.logits_per_image,
        )
        assert torch.allclose(out.image_embeds.norm(dim=-1), torch.ones(2)) and tensors["image_features"].norm() > 1.5
        if case.get("gradients"):
            cotangent = randn(gen, *out.logits_per_image.shape)
            (out.logits_per_image * cotangent).sum().backward()
            tensors |= dict(cotangent=cotangent, grad_pixel_values=pixels.grad) | gradients(model)
        save_case(folder, tensors, dict(lengths=case["lengths"]))


if __name__ == "__main__":
    main()

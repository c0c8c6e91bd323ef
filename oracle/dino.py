"""The vision transformers of DINO (`ViTModel`) and DINOv2 (`Dinov2Model`): class tokens, whole and interpolated."""

import torch
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # DINO's: a pooler that nobody uses, exact gelu.
    "vit_a": (ViTModel, ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=24, patch_size=8,
        layer_norm_eps=1e-12,
    ), [(24, 24)]),
    "vit_b": (ViTModel, ViTConfig(
        hidden_size=20, num_hidden_layers=3, num_attention_heads=2, intermediate_size=36, image_size=30, patch_size=6,
        qkv_bias=False, layer_norm_eps=1e-6,
    ), [(30, 30), (42, 24)]),
    # DINOv2's: layer scales, positions made for another size than the pictures'.
    "dinov2_a": (Dinov2Model, Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=4, image_size=70, patch_size=14,
    ), [(70, 70), (28, 42), (98, 84)]),
    "dinov2_b": (Dinov2Model, Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=4, image_size=42, patch_size=14,
        use_swiglu_ffn=True,
    ), [(42, 42)]),
}


def main():
    for seed, (name, (kind, config, sizes)) in enumerate(CASES.items()):
        folder = fresh(name)
        config._attn_implementation = "eager"
        model = liven(kind(config), 1400 + seed)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lambda1" in key:
                    value.copy_(0.5 + 0.2 * randn(generator(1), *value.shape))
        model.save_pretrained(folder)
        gen = generator(1410 + seed)
        tensors = {}
        for height, width in sizes:
            pixels = randn(gen, 2, 3, height, width)
            more = dict(interpolate_pos_encoding=True) if kind is ViTModel else {}
            out = model(pixel_values=pixels, **more)
            size = f"{height}x{width}"
            tensors |= {f"{size}.pixel_values": pixels, f"{size}.last_hidden_state": out.last_hidden_state}
        save_case(folder, tensors, dict(sizes=sizes))


if __name__ == "__main__":
    main()

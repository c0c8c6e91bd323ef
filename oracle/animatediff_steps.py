"""LoRA gradients of a UNet with motion modules, with peft, and some steps of AdamW.

The base is `golden/animatediff_b`. The loss is that of diffusion at a fixed batch: x_t = sqrt(a) x0 + sqrt(1 - a) noise,
the target is the noise. Adapted are attention over pictures, texts and frames, feed-forwards, a map of the time, and
convolutions.
"""

import torch
from diffusers import DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from peft import LoraConfig

from animatediff import DDIM
from common import GOLDEN, fresh, generator, randn, save_case

BASE = GOLDEN / "animatediff_b"
TARGETS = r".*(attentions\.\d.*(attn1\.to_q|attn2\.to_v|attn2\.to_out\.0|ff\.net\.2)|motion_modules\.\d.*(attn1\.to_k|attn2\.to_v)|" \
    r"down_blocks\.0\.(resnets\.0\.conv1|resnets\.0\.time_emb_proj|downsamplers\.0\.conv|attentions\.0\.proj_in))"
RANK, ALPHA = 2, 3
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
STEPS = 3


def main():
    folder = fresh("animatediff_steps")
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet")
    model = UNetMotionModel.from_unet2d(unet, MotionAdapter.from_pretrained(BASE / "motion_adapter"))
    model.requires_grad_(False).train()
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    gen = generator(2800)
    lora = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in lora.items():
            p.copy_(randn(gen, *p.shape) * (p[0].numel() ** -0.5 if ".lora_A." in name else 0.1))
    model.save_lora_adapter(folder / "adapter")

    # Sides that cannot be halved twice.
    x0, noise = randn(gen, 2, 4, 3, 5, 6), randn(gen, 2, 4, 3, 5, 6)
    text, timesteps = randn(gen, 2, 7, 12), torch.tensor([810, 150])
    kept = DDIMScheduler(**DDIM).alphas_cumprod[timesteps]
    a, s = (value[:, None, None, None, None] for value in (kept.sqrt(), (1 - kept).sqrt()))
    tensors = dict(x0=x0, noise=noise, kept=kept, encoder_hidden_states=text)
    optimizer = torch.optim.AdamW(lora.values(), **ADAMW)
    losses = []
    for step in range(STEPS + 1):
        prediction = model(a * x0 + s * noise, timesteps, text.repeat_interleave(3, 0), return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(prediction, noise)
        losses.append(loss.item())
        if step == STEPS:
            break
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            tensors["prediction"] = prediction
            tensors |= {f"grad.{name.replace('.default', '')}": p.grad.clone() for name, p in lora.items()}
        optimizer.step()
    tensors |= {f"after.{name.replace('.default', '')}": p.detach().clone() for name, p in lora.items()}
    tensors["losses"] = torch.tensor(losses)
    save_case(folder, tensors, dict(r=RANK, alpha=ALPHA, timesteps=timesteps.tolist(), adamw=ADAMW, steps=STEPS, base=BASE.name))


if __name__ == "__main__":
    main()

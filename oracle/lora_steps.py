"""LoRA training of the Wan transformer with peft: losses, gradients, and AdamW steps.

The base weights are those of `golden/wan_transformer_a`. The loss is the flow-matching one at a
fixed batch: x_t = (1 - sigma) x0 + sigma noise, the timestep 1000 sigma, the target noise - x0.
"""

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict

from common import GOLDEN, fresh, generator, randn, save_case

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CASES = {
    # Every linear of a block, alpha = r.
    "a": dict(r=4, alpha=4, targets=ATTENTION + ["ffn.net.0.proj", "ffn.net.2"]),
    # Attention only, alpha = 2 r.
    "b": dict(r=3, alpha=6, targets=ATTENTION),
}
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
STEPS = 5


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"lora_steps_{name}")
        model = WanTransformer3DModel.from_pretrained(GOLDEN / "wan_transformer_a").requires_grad_(False).train()
        model.add_adapter(LoraConfig(r=case["r"], lora_alpha=case["alpha"], target_modules=case["targets"]))
        gen = generator(900 + seed)
        lora = {k: p for k, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for key, p in lora.items():
                scale = p.shape[1] ** -0.5 if ".lora_A." in key else 0.1
                p.copy_(scale * randn(gen, *p.shape))
        # As `WanPipeline.load_lora_weights` and `transformer.load_lora_adapter` read them.
        model.save_lora_adapter(folder / "adapter")
        # Without the metadata a reader takes alpha = r; only case a can do without.
        metadata = model.peft_config["default"].to_dict() if case["alpha"] != case["r"] else None
        WanPipeline.save_lora_weights(
            folder / "pipeline",
            transformer_lora_layers=get_peft_model_state_dict(model),
            transformer_lora_adapter_metadata=metadata,
        )

        x0, noise = randn(gen, 2, 4, 3, 6, 10), randn(gen, 2, 4, 3, 6, 10)
        context, sigma = randn(gen, 2, 7, 20), torch.tensor([0.8, 0.15])
        s = sigma[:, None, None, None, None]
        tensors = dict(x0=x0, noise=noise, sigma=sigma, encoder_hidden_states=context)

        def snapshot(prefix, values):
            # The names peft gives them in a checkpoint.
            for key, value in values.items():
                tensors[f"{prefix}.{key.replace('.default', '')}"] = value.clone()

        optimizer = torch.optim.AdamW(lora.values(), **ADAMW)
        losses = []
        for step in range(STEPS + 1):
            prediction = model((1 - s) * x0 + s * noise, 1000 * sigma, context, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(prediction, noise - x0)
            losses.append(loss.item())
            if step == STEPS:
                break
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                tensors["prediction"] = prediction
                snapshot("grad", {k: p.grad for k, p in lora.items()})
            optimizer.step()
            if step in (0, STEPS - 1):
                snapshot(f"after{step + 1}", {k: p.detach() for k, p in lora.items()})
        tensors["losses"] = torch.tensor(losses)
        save_case(folder, tensors, dict(case, adamw=ADAMW, steps=STEPS, base="wan_transformer_a"))


if __name__ == "__main__":
    main()

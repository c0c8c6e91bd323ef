"""Set-and-Sequence's motion stage on the Wan transformer: gradients and AdamW steps of what is added to frozen coefficients.

The base weights are those of `golden/wan_transformer_a`, the frozen residuals and the batch those of
`golden/lora_steps_a`. Case `output` adds to A, the half that reads (the basis is what is written), case `input` to B.
"""

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from common import GOLDEN, fresh, generator, randn, save_case
from lora_steps import ADAMW, STEPS


class Moving(torch.nn.Module):
    """A linear map with a frozen residual, and a trained matrix added to one of its halves."""

    def __init__(self, linear, down, up, scale, basis, gen):
        super().__init__()
        self.linear, self.down, self.up, self.scale, self.basis = linear, down, up, scale, basis
        moved = down if basis == "output" else up
        # As it is in the midst of training: at its start, zero, the two halves would not mix.
        self.motion = torch.nn.Parameter(0.1 * randn(gen, *moved.shape))

    def forward(self, x):
        down, up = self.down, self.up
        if self.basis == "output":
            down = down + self.motion
        else:
            up = up + self.motion
        return self.linear(x) + self.scale * (x @ down.T) @ up.T


def main():
    frozen = load_file(GOLDEN / "lora_steps_a" / "adapter" / "pytorch_lora_weights.safetensors")
    io = load_file(GOLDEN / "lora_steps_a" / "io.safetensors")
    sites = sorted(key.removesuffix(".lora_A.weight") for key in frozen if key.endswith(".lora_A.weight"))
    for seed, basis in enumerate(("output", "input")):
        folder = fresh(f"motion_steps_{basis}")
        model = WanTransformer3DModel.from_pretrained(GOLDEN / "wan_transformer_a").requires_grad_(False).train()
        gen = generator(950 + seed)
        moving = {}
        for site in sites:
            parent, leaf = site.rsplit(".", 1)
            parent = model.get_submodule(parent)
            down, up = (frozen[f"{site}.lora_{half}.weight"] for half in "AB")
            # The rank and alpha of the case are the same, so the scale is one.
            module = Moving(model.get_submodule(site), down, up, 1.0, basis, gen)
            setattr(parent, leaf, module)
            moving[site] = module.motion
        x0, noise, sigma = io["x0"], io["noise"], io["sigma"]
        s = sigma[:, None, None, None, None]
        tensors = {f"start.{site}": p.detach().clone() for site, p in moving.items()}
        optimizer = torch.optim.AdamW(moving.values(), **ADAMW)
        losses = []
        for step in range(STEPS):
            found = model((1 - s) * x0 + s * noise, 1000 * sigma, io["encoder_hidden_states"], return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(found, noise - x0)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                tensors |= {f"grad.{site}": p.grad.clone() for site, p in moving.items()}
            optimizer.step()
        tensors |= {f"after.{site}": p.detach().clone() for site, p in moving.items()}
        tensors["losses"] = torch.tensor(losses)
        save_case(folder, tensors, dict(basis=basis, adamw=ADAMW, steps=STEPS, frozen="lora_steps_a"))


if __name__ == "__main__":
    main()

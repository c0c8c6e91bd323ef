"""CLIPTextModel as Stable Diffusion has it: states of tokens, with layers skipped; for case a every gradient, and
low-rank residuals."""

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from common import fresh, generator, gradients, liven, randn, save_case

CASES = {
    # As published: everything below `text_model`, a row of positions beside it, quick GELU.
    "a": dict(
        config=dict(
            vocab_size=40, hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=3,
            max_position_embeddings=11, hidden_act="quick_gelu", eos_token_id=2,
        ),
        shape=(3, 11), published=True, gradients=True,
    ),
    # As newer libraries write it: nothing in front; exact GELU, another epsilon, texts of fewer tokens than positions;
    # stored as bfloat16.
    "b": dict(
        config=dict(
            vocab_size=33, hidden_size=10, intermediate_size=16, num_hidden_layers=4, num_attention_heads=1,
            max_position_embeddings=9, hidden_act="gelu", layer_norm_eps=1e-6, eos_token_id=30,
        ),
        shape=(2, 7), bfloat16=True,
    ),
}


def publish(path):
    """Name the tensors of a file as the published ones are named."""
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    positions = tensors["text_model.embeddings.position_embedding.weight"].shape[0]
    tensors["text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    save_file(tensors, path, metadata={"format": "pt"})


def adapted(model, ids, gen, cotangent):
    """The states with low-rank residuals in every layer, these, and their gradients."""
    model.requires_grad_(False)
    targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    model = inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, target_modules=targets), model)
    tensors, loras = {}, {}
    for name, p in model.named_parameters():
        if "lora_" in name:
            name = f"text_model.{name.removeprefix('text_model.')}".removesuffix(".default.weight")
            loras[name.replace(".lora_A", ".down").replace(".lora_B", ".up")] = p
    with torch.no_grad():
        for p in loras.values():
            p.copy_(randn(gen, *p.shape) * (p.shape[1] ** -0.5))
    states = model(ids).last_hidden_state
    (states * cotangent).sum().backward()
    for name, p in loras.items():
        tensors |= {f"lora.{name}": p, f"lora_grad.{name}": p.grad}
    return tensors | dict(adapted=states)


def main():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"clip_text_{name}")
        model = liven(CLIPTextModel(CLIPTextConfig(**case["config"], attn_implementation="eager")), 1600 + seed)
        if case.get("bfloat16"):
            model = model.to(torch.bfloat16)
        model.save_pretrained(folder)
        model = model.float()
        if case.get("published"):
            publish(folder / "model.safetensors")

        gen = generator(1610 + seed)
        ids = torch.randint(0, case["config"]["vocab_size"], case["shape"], generator=gen)
        inner = getattr(model, "text_model", model)
        rows = inner.embeddings.token_embedding(ids).detach().requires_grad_()

        class Rows(torch.nn.Module):
            def forward(self, _):
                return rows

        states = model(ids, output_hidden_states=True)
        tensors = dict(input_ids=ids, rows=rows, last_hidden_state=states.last_hidden_state)
        for skip in range(1, case["config"]["num_hidden_layers"]):
            # As the pipelines of diffusers skip.
            tensors[f"skip{skip}"] = inner.final_layer_norm(states.hidden_states[-(skip + 1)])
        if case.get("gradients"):
            table, inner.embeddings.token_embedding = inner.embeddings.token_embedding, Rows()
            out = model(ids).last_hidden_state
            assert torch.equal(out, states.last_hidden_state)
            cotangent = randn(gen, *out.shape)
            (out * cotangent).sum().backward()
            inner.embeddings.token_embedding = table
            tensors |= dict(cotangent=cotangent, grad_rows=rows.grad)
            tensors |= {
                f"grad.text_model.{name.removeprefix('grad.').removeprefix('text_model.')}": tensor
                for name, tensor in gradients(model).items() if tensor is not None
            }
            tensors |= adapted(model, ids, gen, cotangent)
        save_case(folder, tensors, dict(scale=1.5, stored_dtype="bfloat16" if case.get("bfloat16") else "float32"))


if __name__ == "__main__":
    main()

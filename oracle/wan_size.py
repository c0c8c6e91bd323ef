"""The real configurations of Wan 2.1 T2V with random bf16 weights, against diffusers.

    python oracle/wan_size.py make FOLDER [1.3B|14B [LAYERS]]   # 3.4 GB for 1.3B, 2.3 GB for two layers of 14B;
                                                  # the text encoder is of Wan's width and one layer
    python oracle/wan_size.py configs FOLDER [1.3B|14B]   # no weights: what is needed for a plan
    python oracle/wan_size.py run FOLDER          # one guided step at 256x256, 17 frames, in f32
    python oracle/wan_size.py lora FOLDER         # the gradients of one LoRA step, by peft
    python oracle/wan_size.py compare FOLDER OURS.safetensors

`run` and `lora` leave what they computed in FOLDER/expected.safetensors and FOLDER/gradients.safetensors.
"""

import resource
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from common import generator, randn
from wan_pipeline import tokenizer

torch.set_num_threads(2)
CALL = dict(
    prompt="a red ball", negative_prompt="", height=256, width=256, num_frames=17, num_inference_steps=1,
    guidance_scale=5.0, max_sequence_length=512,
)
RANK = 8
SIZES = {
    "1.3B": dict(num_attention_heads=12, ffn_dim=8960, num_layers=30),
    "14B": dict(num_attention_heads=40, ffn_dim=13824, num_layers=40),
}
SCHEDULER = dict(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0)


def spread(model, seed):
    """Random bf16 weights whose activations neither vanish nor explode."""
    gen = generator(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            leaf = name.rsplit(".", 1)[-1]
            if p.ndim == 1 and leaf != "bias" or leaf == "gamma":
                value = 1 + 0.1 * noise
            elif leaf == "bias":
                value = 0.05 * noise
            elif leaf == "scale_shift_table":
                value = 0.2 * noise
            elif "shared" in name or "embed_tokens" in name:
                value = noise
            else:
                value = noise * (p[0].numel() ** -0.5)
            p.copy_(value.bfloat16())
    return model.to(torch.bfloat16).eval()


def network(size):
    """Wan's denoiser of a published size."""
    return dict(attention_head_dim=128, in_channels=16, out_channels=16, text_dim=4096, freq_dim=256, **size)


def make(folder, size="1.3B", layers=None):
    tok = tokenizer()
    text = UMT5Config(
        d_model=4096, d_kv=64, d_ff=1024, num_layers=1, num_heads=8, vocab_size=len(tok), dropout_rate=0.0,
    )
    size = SIZES[size] | (dict(num_layers=int(layers)) if layers else {})
    pipe = WanPipeline(
        tokenizer=tok,
        text_encoder=spread(UMT5EncoderModel(text), 1),
        vae=spread(AutoencoderKLWan(), 2),
        transformer=spread(WanTransformer3DModel(**network(size)), 3),
        scheduler=UniPCMultistepScheduler(**SCHEDULER),
    )
    pipe.save_pretrained(folder)
    save_file(dict(latents=randn(generator(4), 1, 16, 5, 32, 32)), folder / "noise.safetensors")


def configs(folder, size="1.3B"):
    """The configurations of the published folder, whole text encoder and all."""
    text = UMT5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=256384, dropout_rate=0.0,
        architectures=["UMT5EncoderModel"],
    )
    with torch.device("meta"):
        parts = dict(vae=AutoencoderKLWan(), transformer=WanTransformer3DModel(**network(SIZES[size])))
    for name, part in parts.items():
        part.save_config(folder / name)
    text.save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "WanPipeline"}\n')


def run(folder):
    pipe = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    noise = load_file(folder / "noise.safetensors")["latents"]
    start = time.time()
    latents = pipe(**CALL, latents=noise, output_type="latent").frames
    print(f"{time.time() - start:.1f} s, latents std {latents.std():.3f}")
    save_file(dict(latents=latents), folder / "expected.safetensors")


def lora(folder):
    """A flow-matching loss at sigma 0.6 on random latents and text, rank 8 on attention."""
    from peft import LoraConfig

    model = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    model.requires_grad_(False).train()
    model.enable_gradient_checkpointing()
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    gen = generator(5)
    lora = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in lora.items():
            p.copy_(randn(gen, *p.shape) * (p.shape[1] ** -0.5 if ".lora_A." in name else 0.02))
    x0, noise, text = randn(gen, 1, 16, 5, 32, 32), randn(gen, 1, 16, 5, 32, 32), randn(gen, 1, 64, 4096)
    sigma = torch.tensor([0.6])
    prediction = model((1 - 0.6) * x0 + 0.6 * noise, 1000 * sigma, text, return_dict=False)[0]
    loss = torch.nn.functional.mse_loss(prediction, noise - x0)
    loss.backward()
    print(f"loss {loss.item():.6f}")
    state = dict(x0=x0, noise=noise, text=text, loss=loss.detach().reshape(1))
    for name, p in lora.items():
        bare = name.replace(".default", "").removesuffix(".weight")
        state[f"value.{bare}"], state[f"grad.{bare}"] = p.detach(), p.grad
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "gradients.safetensors")


def compare(folder, ours):
    expected, found = (load_file(path)["latents"] for path in (folder / "expected.safetensors", ours))
    print(f"relative error {((found - expected).norm() / expected.norm()).item():.2e}")


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    commands = dict(make=make, configs=configs, run=run, lora=lora, compare=compare)
    commands[command](Path(folder), *rest)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")

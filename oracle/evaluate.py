"""Scores of a folder of videos by published networks: CLIP and DINO folders, frames, prompts, references, the table.

Everything is as transformers does it, with Pillow's resampling; what is compared are the numbers of the table.
"""

import csv
import json

import numpy as np
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model,
    ViTConfig, ViTImageProcessorPil, ViTModel,
)

from common import fresh, liven
from resample import source

# Video: frames, height, width; prompt; references of its own.
VIDEOS = {
    "a cat": (5, 30, 44, "a red Cat jumps, it's 7 metres!", 2),
    "b": (3, 41, 28, "zwei Bälle   rollen on the beach (very slowly)", 0),
    "c": (1, 24, 24, "", 0),
    # Longer than the text tower reads.
    "d": (4, 36, 50, "a dog and a cat and a dog and a cat and a dog and a cat and a dog", 1),
}
SHARED = 2
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


def byte_symbols():
    """The characters that stand for bytes in byte-level BPE: printable ones for themselves, the rest from 256 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + index) for index, byte in enumerate(rest)}


def tokenizer(folder):
    """A small vocabulary of OpenAI's kind, as `vocab.json` and `merges.txt`."""
    symbols = [byte_symbols()[byte] for byte in [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), 127, *range(128, 161), 173]]
    words = ["cat</w>", "dog</w>", "and</w>", "the</w>", "ball</w>", "on</w>", "red</w>"]
    merges, known = [], set()
    for word in words:
        parts = [*word[:-5][:-1], word[:-5][-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in known:
                known.add(pair)
                merges.append(pair)
            parts[:2] = ["".join(pair)]
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    vocab = {token: index for index, token in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    words = CLIPTokenizer(vocab=vocab, merges=merges)
    # What newer folders have in place of the two.
    words.backend_tokenizer.save(str(folder.parent / "tokenizer.json"))
    return words, len(vocab)


def preprocessor(folder, kind, **config):
    written = kind(**config).to_dict()
    written["image_processor_type"] = kind.__name__.removesuffix("Pil")
    (folder / "preprocessor_config.json").write_text(json.dumps(written | config, indent=2, sort_keys=True, default=int) + "\n")
    return kind(**config)


def clip(root):
    folder = root / "clip"
    folder.mkdir()
    words, size = tokenizer(folder)
    config = CLIPConfig(
        text_config=dict(
            vocab_size=size, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
            max_position_embeddings=20, hidden_act="quick_gelu", bos_token_id=size - 2, eos_token_id=size - 1,
        ),
        vision_config=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=28,
            patch_size=7, hidden_act="quick_gelu",
        ),
        projection_dim=16, attn_implementation="eager",
    )
    model = liven(CLIPModel(config), 1900)
    model.save_pretrained(folder)
    pictures = preprocessor(
        folder, CLIPImageProcessorPil, size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28},
    )

    def text(prompt):
        ids = words([prompt], truncation=True, max_length=20, padding="max_length", return_tensors="pt")
        return model.get_text_features(**ids)

    def vbench_frames(images):
        return model.get_image_features(pixel_values=vbench(images, 28, "bicubic", True, (
            [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711],
        )))

    return text, lambda images: model.get_image_features(pixel_values=pixels(pictures, images)), vbench_frames


def pixels(processor, images):
    return torch.cat([
        torch.from_numpy(np.ascontiguousarray(processor(images=i, return_tensors="np", input_data_format="channels_last")["pixel_values"])).float()
        for i in images
    ])


def vbench(images, side, mode, crop, normalize):
    """VBench's preparation of frames: floats in 0..255, the shorter side resized without antialiasing."""
    mean, deviation = [torch.tensor(values).view(3, 1, 1) for values in normalize]
    out = []
    for image in images:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        height, width = x.shape[2:]
        size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
        x = torch.nn.functional.interpolate(x, size=size, mode=mode, align_corners=False, antialias=False)
        if crop:
            top, left = [int(round((have - side) / 2.0)) for have in x.shape[2:]]
            x = x[:, :, top: top + side, left: left + side]
        out.append((x[0] / 255 - mean) / deviation)
    return torch.stack(out)


def dino_states(model, x):
    """The class tokens by DINO's own code, which resizes positions as if the grid were a tenth of a patch larger."""
    positions = model.embeddings.position_embeddings
    side = int((positions.shape[1] - 1) ** 0.5)
    patches = model.embeddings.patch_embeddings.projection(x)
    rows, columns = patches.shape[2:]
    if (rows, columns) != (side, side):
        grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(
            grid, scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic",
        )
        assert grid.shape[2:] == (rows, columns)
        positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], 1)
    cls = model.embeddings.cls_token.expand(x.shape[0], -1, -1)
    states = torch.cat([cls, patches.flatten(2).transpose(1, 2)], 1) + positions
    for layer in model.encoder.layer if hasattr(model, "encoder") else model.layers:
        states = layer(states)
        states = states[0] if isinstance(states, tuple) else states
    return model.layernorm(states)[:, 0]


def dino(root):
    folder = root / "dino"
    folder.mkdir()
    model = liven(ViTModel(ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=24, patch_size=8,
        layer_norm_eps=1e-12, attn_implementation="eager",
    )), 1901)
    model.save_pretrained(folder)
    pictures = preprocessor(folder, ViTImageProcessorPil, size={"height": 24, "width": 24}, resample=2, **IMAGENET)

    def vbench_frames(images):
        return dino_states(model, vbench(images, 24, "bilinear", False, tuple(IMAGENET.values())))

    return lambda images: model(pixel_values=pixels(pictures, images)).last_hidden_state[:, 0], vbench_frames


def dinov2(root):
    folder = root / "dinov2"
    folder.mkdir()
    model = liven(Dinov2Model(Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=4, image_size=42, patch_size=14,
        attn_implementation="eager",
    )), 1902)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lambda1" in key:
                value.fill_(0.6)
    model.save_pretrained(folder)
    pictures = preprocessor(
        folder, BitImageProcessorPil, size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, resample=3, **IMAGENET,
    )
    return lambda images: model(pixel_values=pixels(pictures, images)).last_hidden_state[:, 0]


def unit(rows):
    rows = getattr(rows, "pooler_output", rows)
    return (rows / rows.norm(dim=-1, keepdim=True)).double()


def consistency(rows):
    """VBench's: half with the frame before, half with the first."""
    rows = unit(rows)
    if len(rows) < 2:
        return None
    positive = lambda a, b: max(0.0, (a @ b).item())
    return sum(0.5 * (positive(a, b) + positive(rows[0], b)) for a, b in zip(rows, rows[1:])) / (len(rows) - 1)


def write(folder, pictures):
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:04}.png")


def flickering(frames):
    """VBench's temporal flickering: how little neighbouring frames differ."""
    if len(frames) < 2:
        return None
    differences = [np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(frames, frames[1:])]
    return (255 - np.mean(differences)) / 255


def main():
    torch.manual_seed(0)
    root = fresh("evaluate")
    text, image, background = clip(root)
    look, subject = dino(root)
    looks = {"dino": look, "dinov2": dinov2(root)}
    shared = [source(33, 27, 900 + index) for index in range(SHARED)]
    write(root / "references-one", shared)
    rows = {"dino": [], "dinov2": []}
    with torch.no_grad():
        for number, (name, (count, height, width, prompt, own)) in enumerate(VIDEOS.items()):
            frames = [source(height, width, 700 + 10 * number + index) for index in range(count)]
            write(root / "videos" / name, frames)
            (root / "videos" / f"{name}.txt").write_text(prompt + "\n")
            references = [source(29, 31, 800 + 10 * number + index) for index in range(own)] or shared
            write(root / "references-each" / name, references)
            of_frames, of_references = unit(image(frames)), unit(image(references))
            row = dict(
                name=name,
                clip_t=(of_frames @ unit(text(prompt)).T).mean().item(),
                clip_i=(of_frames @ of_references.T).mean().item(),
                t_cons=(of_frames[1:] * of_frames[:-1]).sum(-1).mean().item() if count > 1 else None,
            )
            consistencies = dict(
                temporal_flickering=flickering(frames),
                subject_consistency=consistency(subject(frames)), background_consistency=consistency(background(frames)),
            )
            for kind, look in looks.items():
                rows[kind].append(row | (consistencies if kind == "dino" else {}) | dict(dino_i=(unit(look(frames)) @ unit(look(references)).T).mean().item()))
    for kind, own in rows.items():
        with open(root / f"{kind}.csv", "w", newline="") as file:
            table = csv.DictWriter(file, own[0], lineterminator="\n")
            table.writeheader()
            table.writerows(own)


if __name__ == "__main__":
    main()

"""What published image processors make of pictures, with Pillow's resampling: `preprocessor_config.json` and pixels."""

import json

import numpy as np
import torch
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, ViTImageProcessorPil

from common import fresh, save_case
from resample import source

CASES = {
    # As published for CLIP, smaller.
    "clip": (CLIPImageProcessorPil, dict(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})),
    # Older files: plain numbers, and a crop that is not the size.
    "old": (CLIPImageProcessorPil, dict(size=30, crop_size=24, resample=3)),
    # DINO's: a square, bilinear.
    "vit": (ViTImageProcessorPil, dict(
        size={"height": 24, "width": 24}, resample=2, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )),
    # DINOv2's: a larger short side than the crop.
    "bit": (BitImageProcessorPil, dict(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )),
    # Neither resized nor cropped nor normalized.
    "plain": (CLIPImageProcessorPil, dict(do_resize=False, do_center_crop=False, do_normalize=False)),
}
PICTURES = [(30, 44), (41, 28), (18, 33)]


def main():
    for name, (kind, config) in CASES.items():
        folder = fresh(f"preprocess_{name}")
        processor = kind(**config)
        written = processor.to_dict()
        # The names files were published under.
        written["image_processor_type"] = kind.__name__.removesuffix("Pil")
        written |= config
        (folder / "preprocessor_config.json").write_text(json.dumps(written, indent=2, sort_keys=True, default=int) + "\n")
        tensors = {}
        for index, (height, width) in enumerate(PICTURES):
            picture = source(height, width, 50 + index)
            tensors[f"{index}.picture"] = torch.from_numpy(picture).float().float()
            pixels = processor(images=picture, return_tensors="np", input_data_format="channels_last")["pixel_values"]
            tensors[f"{index}.pixel_values"] = torch.from_numpy(np.ascontiguousarray(pixels[0])).float()
        save_case(folder, tensors, dict(pictures=len(PICTURES)))


if __name__ == "__main__":
    main()

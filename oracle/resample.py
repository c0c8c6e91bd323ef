"""Every resampler a metric is defined by, against the library that defines it: Pillow, torch and OpenCV.

Sources are random, and of odd sizes; results of 8-bit resamplers are stored as they are, those of torch in f32.
"""

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch.nn.functional import interpolate

from common import GOLDEN

# (height, width) from and to: smaller, larger, one of each, a half, a third, the same, a line.
SIZES = [
    ((37, 53), (16, 24)), ((16, 24), (37, 53)), ((40, 20), (13, 41)), ((64, 48), (32, 24)), ((60, 36), (20, 12)),
    ((31, 17), (31, 17)), ((1, 9), (4, 5)), ((90, 70), (7, 11)), ((33, 33), (33, 20)), ((20, 33), (47, 33)),
]
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
OPENCV = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}


def source(height, width, index):
    """A random picture, smooth in parts, with hard edges."""
    rng = np.random.default_rng(index)
    noise = rng.integers(0, 256, (height, width, 3))
    ramp = np.linspace(0, 255, height * width).reshape(height, width, 1)
    picture = np.where(rng.random((height, width, 1)) < 0.5, noise, ramp)
    picture[: height // 3, : width // 3] = [255, 0, 255]
    return picture.astype(np.uint8)


def main():
    tensors = {}
    for index, ((rows, columns), (height, width)) in enumerate(SIZES):
        picture = source(rows, columns, index)
        name = f"{index}."
        tensors[name + "source"] = picture
        for filter_name, kernel in PILLOW.items():
            resized = Image.fromarray(picture).resize((width, height), kernel)
            tensors[name + f"pillow.{filter_name}"] = np.asarray(resized)
        for filter_name, kernel in OPENCV.items():
            tensors[name + f"opencv.{filter_name}"] = cv2.resize(picture, (width, height), interpolation=kernel)
        planar = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        for mode in ("bilinear", "bicubic"):
            for antialias in (False, True):
                resized = interpolate(
                    planar, size=(height, width), mode=mode, align_corners=False, antialias=antialias
                )
                kind = "antialiased" if antialias else "plain"
                tensors[name + f"torch.{mode}.{kind}"] = resized[0].numpy()
    folder = GOLDEN / "resample"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "resample.safetensors")


if __name__ == "__main__":
    main()

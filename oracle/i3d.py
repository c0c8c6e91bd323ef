"""I3D with the two sets of names and paddings it is published in, what each makes of a clip, and FVD by scipy.

`kinetics` is the port that StyleGAN-V's `i3d_torchscript.pt` was compiled from, saved as TorchScript; `videogpt` is the
one of `i3d_pretrained_400.pt`, saved as a state dict. Both are narrow here.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import linalg
from torch import nn

from common import fresh, generator, liven, liven_statistics, save_case
from resample import source

STEM = [6, 5, 8]
# Of each mixed block: branch 0, the two of branch 1, the two of branch 2, branch 3.
MIXED = {
    "3b": [3, 3, 4, 2, 3, 2], "3c": [4, 3, 4, 2, 3, 3],
    "4b": [4, 3, 5, 2, 3, 2], "4c": [3, 4, 4, 3, 2, 4], "4d": [4, 3, 4, 2, 3, 3], "4e": [3, 4, 5, 2, 3, 4], "4f": [5, 3, 4, 3, 4, 3],
    "5b": [4, 3, 5, 2, 4, 3], "5c": [6, 4, 5, 3, 4, 5],
}
CLASSES = 24
SIDE = 224
# Frames, height and width of the clips: the second is odd in time at every level.
CLIPS = [(16, 24, 32), (13, 30, 26), (9, 20, 28)]


class Unit(nn.Module):
    """Convolution as TensorFlow pads it, norm, rectifier."""

    def __init__(self, inside, outside, kernel: int, stride: int, eps: float, last: bool = False):
        super().__init__()
        self.kernel, self.stride, self.last = kernel, stride, last
        self.conv3d = nn.Conv3d(inside, outside, kernel, stride, bias=last)
        self.batch3d = nn.Identity() if last else nn.BatchNorm3d(outside, eps=eps)

    def forward(self, x):
        pads: list[int] = []
        for axis in [4, 3, 2]:
            rest = x.shape[axis] % self.stride
            total = max(self.kernel - (self.stride if rest == 0 else rest), 0)
            pads += [total // 2, total - total // 2]
        x = self.batch3d(self.conv3d(F.pad(x, pads)))
        return x if self.last else F.relu(x)


class Pool(nn.Module):
    """Maximum over windows. `same` pads as TensorFlow does; otherwise as if the sides were multiples of the stride, and
    the last window may go over the edge."""

    def __init__(self, kernel: list[int], stride: list[int], same: bool):
        super().__init__()
        self.kernel, self.stride, self.same = kernel, stride, same

    def forward(self, x):
        pads: list[int] = []
        for axis in [4, 3, 2]:
            kernel, stride = self.kernel[axis - 2], self.stride[axis - 2]
            rest = x.shape[axis] % stride if self.same else 0
            total = max(kernel - (stride if rest == 0 else rest), 0)
            pads += [total // 2, total - total // 2]
        return F.max_pool3d(F.pad(x, pads), self.kernel, self.stride, ceil_mode=not self.same)


class Mixed(nn.Module):
    def __init__(self, inside, widths, same: bool, eps: float):
        super().__init__()
        a, b1, b2, c1, c2, d = widths
        self.branch_0 = Unit(inside, a, 1, 1, eps)
        self.branch_1 = nn.Sequential(Unit(inside, b1, 1, 1, eps), Unit(b1, b2, 3, 1, eps))
        self.branch_2 = nn.Sequential(Unit(inside, c1, 1, 1, eps), Unit(c1, c2, 3, 1, eps))
        self.branch_3 = nn.Sequential(Pool([3, 3, 3], [1, 1, 1], same), Unit(inside, d, 1, 1, eps))

    def forward(self, x):
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], 1)


class I3D(nn.Module):
    """`(B, 3, T, 224, 224)` in [-1, 1] to `(B, classes)`; with `rescale` and `resize` bytes of any size."""

    def __init__(self, same: bool, eps: float):
        super().__init__()
        one, two, three = STEM
        self.conv3d_1a_7x7 = Unit(3, one, 7, 2, eps)
        self.maxPool3d_2a_3x3 = Pool([1, 3, 3], [1, 2, 2], same)
        self.conv3d_2b_1x1 = Unit(one, two, 1, 1, eps)
        self.conv3d_2c_3x3 = Unit(two, three, 3, 1, eps)
        self.maxPool3d_3a_3x3 = Pool([1, 3, 3], [1, 2, 2], same)
        self.maxPool3d_4a_3x3 = Pool([3, 3, 3], [2, 2, 2], same)
        self.maxPool3d_5a_2x2 = Pool([2, 2, 2], [2, 2, 2], same)
        inside = three
        for name, widths in MIXED.items():
            setattr(self, f"mixed_{name}", Mixed(inside, widths, same, eps))
            inside = widths[0] + widths[2] + widths[4] + widths[5]
        self.conv3d_0c_1x1 = Unit(inside, CLASSES, 1, 1, eps, last=True)

    def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
        if rescale:
            x = 2 * x / 255 - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        x = self.maxPool3d_2a_3x3(self.conv3d_1a_7x7(x))
        x = self.maxPool3d_3a_3x3(self.conv3d_2c_3x3(self.conv3d_2b_1x1(x)))
        x = self.maxPool3d_4a_3x3(self.mixed_3c(self.mixed_3b(x)))
        x = self.mixed_4f(self.mixed_4e(self.mixed_4d(self.mixed_4c(self.mixed_4b(x)))))
        x = self.mixed_5c(self.mixed_5b(self.maxPool3d_5a_2x2(x)))
        x = self.conv3d_0c_1x1(F.avg_pool3d(x, [2, 7, 7], [1, 1, 1]))
        x = x.squeeze(3).squeeze(3).mean(2)
        return x if return_features else F.softmax(x, 1)


def live(model, seed):
    liven(model, seed)
    gen = generator(seed + 1)
    # Some so small that the norm's epsilon counts.
    liven_statistics(model, gen, least=0.02)
    return model.eval()


def renamed(state, names):
    for old, new in names:
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


VIDEOGPT = [
    ("conv3d_0c_1x1", "logits"), ("conv3d_1a", "Conv3d_1a"), ("conv3d_2", "Conv3d_2"), ("mixed_", "Mixed_"),
    ("branch_0", "b0"), ("branch_1.0", "b1a"), ("branch_1.1", "b1b"), ("branch_2.0", "b2a"), ("branch_2.1", "b2b"),
    ("branch_3.1", "b3b"), (".batch3d.", ".bn."),
]


def square(clip):
    """VideoGPT's preparation: the shorter side to 224, the longer one along, the centre, in [-1, 1]."""
    x = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    height, width = x.shape[2:]
    scale = SIDE / min(height, width)
    size = (SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE)
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    top, left = (x.shape[2] - SIDE) // 2, (x.shape[3] - SIDE) // 2
    x = x[:, :, top: top + SIDE, left: left + SIDE]
    return (x - 0.5).mul(2).permute(1, 0, 2, 3)[None]


def frechet(a, b, unbiased):
    """The distance by scipy's root."""
    a, b = [x.double().numpy() for x in (a, b)]
    first, second = [np.cov(x, rowvar=False, ddof=1 if unbiased else 0) for x in (a, b)]
    root = linalg.sqrtm(first @ second)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * np.real(root)))


def main():
    folder = fresh("i3d")
    tensors = {}
    clips = []
    for index, (frames, height, width) in enumerate(CLIPS):
        # One picture that moves, and another that fades in.
        ground, other = source(height, width, 2100 + 2 * index), source(height, width, 2101 + 2 * index)
        clip = [np.roll(ground, at, 1) // 2 + (other * (at / frames / 2)).astype(np.uint8) for at in range(frames)]
        clips.append(np.stack(clip))
        for at, frame in enumerate(clip):
            (folder / str(index)).mkdir(exist_ok=True)
            Image.fromarray(frame).save(folder / str(index) / f"{at:02}.png")
    kinetics = live(I3D(False, 1e-3), 2110)
    scripted = torch.jit.script(kinetics)
    scripted.save(str(folder / "i3d_torchscript.pt"))
    assert abs(scripted.conv3d_1a_7x7.batch3d.eps - 1e-3) < 1e-9
    videogpt = live(I3D(True, 1e-5), 2120)
    torch.save(renamed(videogpt.state_dict(), VIDEOGPT), folder / "i3d_pretrained_400.pt")
    with torch.no_grad():
        for index, clip in enumerate(clips):
            x = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float()
            tensors[f"{index}.kinetics"] = scripted(x, True, True, True)[0]
            tensors[f"{index}.videogpt"] = videogpt(square(clip), return_features=True)[0]
            print(index, tensors[f"{index}.kinetics"][:4], tensors[f"{index}.videogpt"][:4])
    scalars = {}
    gen = generator(2130)
    for name, count, dim in [("many", 60, 12), ("few", 9, 12)]:
        mix = torch.randn(dim, dim, generator=gen)
        a = torch.randn(count, dim, generator=gen) @ mix
        b = torch.randn(count + 5, dim, generator=gen) @ (mix + 0.3 * torch.randn(dim, dim, generator=gen)) + 0.5
        tensors |= {f"{name}.a": a, f"{name}.b": b}
        scalars[name] = dict(unbiased=frechet(a, b, True), biased=frechet(a, b, False))
        print(name, scalars[name])
    save_case(folder, tensors, scalars)


if __name__ == "__main__":
    main()

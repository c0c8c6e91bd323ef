"""AMT-S, written from its paper and the layout of `amt-s.pth`, and VBench's motion smoothness."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from common import fresh, liven, save_case
from resample import source

SIZES = [(128, 160), (131, 150)]


def conv(inputs, outputs, kernel=3, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


def sloped(inputs, outputs, stride=1):
    return nn.Sequential(conv(inputs, outputs, 3, stride), nn.PReLU(outputs))


class Side(nn.Module):
    def __init__(self, channels, side):
        super().__init__()
        self.side = side
        self.conv1, self.conv3 = sloped(channels, channels), sloped(channels, channels)
        self.conv2, self.conv4 = sloped(side, side), sloped(side, side)
        self.conv5, self.prelu = conv(channels, channels), nn.PReLU(channels)

    def forward(self, x):
        y = x
        for outer, inner in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            y = outer(y)
            y = torch.cat([y[:, : -self.side], inner(y[:, -self.side :])], 1)
        return self.prelu(x + self.conv5(y))


class Decoder(nn.Module):
    def __init__(self, inputs, width, outputs, side):
        super().__init__()
        self.convblock = nn.Sequential(
            sloped(inputs, width), Side(width, side), nn.ConvTranspose2d(width, outputs, 4, 2, 1))

    def forward(self, *parts):
        return self.convblock(torch.cat(parts, 1))


class Bottleneck(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        inner = outputs // 4
        self.conv1, self.conv2 = conv(inputs, inner, 1), conv(inner, inner, 3, stride)
        self.conv3 = conv(inner, outputs, 1)
        self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride)) if stride != 1 else None

    def forward(self, x):
        y = x
        for layer in (self.conv1, self.conv2, self.conv3):
            y = F.relu(F.instance_norm(layer(y)))
        return F.relu((F.instance_norm(self.downsample(x)) if self.downsample else x) + y)


class Features(nn.Module):
    def __init__(self, widths):
        super().__init__()
        stem, one, two, three, last = widths
        self.conv1 = conv(3, stem, 7, 2)
        stage = lambda a, b, stride: nn.Sequential(Bottleneck(a, b, stride), Bottleneck(b, b, 1))
        self.layer1, self.layer2, self.layer3 = stage(stem, one, 1), stage(one, two, 2), stage(two, three, 2)
        self.conv2 = conv(three, last, 1)

    def forward(self, x):
        x = F.relu(F.instance_norm(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Pyramid(nn.Module):
    def __init__(self, channels):
        super().__init__()
        before = 3
        for index, width in enumerate(channels, 1):
            setattr(self, f"pyramid{index}", nn.Sequential(sloped(before, width, 2), sloped(width, width)))
            before = width

    def forward(self, x):
        levels = []
        for index in range(1, 5):
            x = getattr(self, f"pyramid{index}")(x)
            levels.append(x)
        return levels


class Update(nn.Module):
    def __init__(self, channels, seen, moved, both, hidden, times):
        super().__init__()
        self.times = times
        self.convc1 = conv(2 * 4 * 49, seen, 1)
        self.convf1, self.convf2 = conv(4, 2 * moved, 7), conv(2 * moved, moved)
        self.conv = conv(seen + moved, both)
        two = lambda a, b, c: nn.Sequential(conv(a, b), nn.LeakyReLU(0.1), conv(b, c))
        self.gru = two(both + 4 + channels, hidden, hidden)
        self.feat_head, self.flow_head = two(hidden, hidden, channels), two(hidden, hidden, 4)

    def forward(self, features, flow, correlations):
        bent = lambda x: F.leaky_relu(x, 0.1)
        small = resize(features, 1 / self.times)
        seen, moved = bent(self.convc1(correlations)), bent(self.convf2(bent(self.convf1(flow))))
        state = self.gru(torch.cat([bent(self.conv(torch.cat([seen, moved], 1))), flow, small], 1))
        return resize(self.feat_head(state), self.times), self.times * resize(self.flow_head(state), self.times)


def resize(x, times):
    return x if times == 1 else F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)


def sampled(x, places, padding):
    """`x` at `places` (batch, rows, columns, 2), columns first, in pixels."""
    height, width = x.shape[-2:]
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)])
    return F.grid_sample(x, places * scale - 1, padding_mode=padding, align_corners=True)


def places(rows, columns):
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    return torch.stack([x, y], -1)[None]


def warp(x, flow):
    return sampled(x, places(*flow.shape[-2:]) + flow.permute(0, 2, 3, 1), "border")


def correlated(one, two, flow):
    """Correlations of `one` with `two` in windows of 7x7 around where `flow` leads, at four sizes."""
    batch, channels, rows, columns = one.shape
    maps = torch.einsum("bcxy,bcuv->bxyuv", one, two) / channels**0.5
    maps = maps.reshape(-1, 1, rows, columns)
    centers = (places(rows, columns) + flow.permute(0, 2, 3, 1)).reshape(-1, 1, 1, 2)
    steps = torch.arange(-3.0, 4.0)
    # The slower offset is the column's.
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)[None]
    found = []
    for level in range(4):
        found.append(sampled(maps, centers / 2**level + window, "zeros").reshape(batch, rows, columns, -1))
        maps = F.avg_pool2d(maps, 2)
    return torch.cat(found, -1).permute(0, 3, 1, 2)


class Amt(nn.Module):
    def __init__(self, features, channels, side, flows, update):
        super().__init__()
        c1, c2, c3, c4 = channels
        self.flows = flows
        self.feat_encoder, self.encoder = Features(features), Pyramid(channels)
        self.decoder4 = Decoder(2 * c4 + 1, 2 * c4, c3 + 4, side)
        self.decoder3 = Decoder(3 * c3 + 4, 3 * c3, c2 + 4, side)
        self.decoder2 = Decoder(3 * c2 + 4, 3 * c2, c1 + 4, side)
        self.decoder1 = Decoder(3 * c1 + 4, 3 * c1, 8 * flows, side)
        self.update4, self.update3, self.update2 = (
            Update(width, *update, times) for width, times in ((c3, 1), (c2, 2), (c1, 4)))
        self.comb_block = nn.Sequential(conv(3 * flows, 6 * flows), nn.PReLU(6 * flows), conv(6 * flows, 3))

    def forward(self, one, two):
        mean = torch.cat([one, two], 2).mean((1, 2, 3), keepdim=True)
        one, two = one - mean, two - mean
        seen, other = self.feat_encoder(one), self.feat_encoder(two)
        levels, others = self.encoder(one), self.encoder(two)
        half = torch.full_like(levels[3][:, :1], 0.5)
        out = self.decoder4(levels[3], others[3], half)
        flow, features = out[:, :4], out[:, 4:]
        for level, times in ((2, 1), (1, 2), (0, 4)):
            update = getattr(self, f"update{level + 2}")
            small = resize(flow, 1 / times) / times
            found = torch.cat([correlated(seen, other, 2 * small[:, 2:]), correlated(other, seen, 2 * small[:, :2])], 1)
            more, moved = update(features, small, found)
            features, flow = features + more, flow + moved
            a, b = warp(levels[level], flow[:, :2]), warp(others[level], flow[:, 2:])
            out = getattr(self, f"decoder{level + 1}")(features, a, b, flow)
            if level:
                flow, features = out[:, :4] + 2 * resize(flow, 2), out[:, 4:]
        n = self.flows
        flow = 2 * resize(flow, 2)
        mask, rest = torch.sigmoid(out[:, 4 * n : 5 * n]), out[:, 5 * n :]
        pictures = []
        for k in range(n):
            a = warp(one, out[:, 2 * k : 2 * k + 2] + flow[:, :2])
            b = warp(two, out[:, 2 * n + 2 * k : 2 * n + 2 * k + 2] + flow[:, 2:])
            m = mask[:, k : k + 1]
            pictures.append(m * a + (1 - m) * b + mean + rest[:, 3 * k : 3 * k + 3])
        mixed = sum(pictures) / n + self.comb_block(torch.cat(pictures, 1))
        return mixed.clamp(0, 1)


def padded(frame):
    """A frame with its edges repeated to multiples of 16, and where it starts."""
    height, width = frame.shape[:2]
    down, across = -height % 16, -width % 16
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    return F.pad(pixels, [across // 2, across - across // 2, down // 2, down - down // 2], "replicate"), (down // 2, across // 2)


def main():
    folder = fresh("amt")
    model = liven(Amt((8, 8, 12, 16, 20), (8, 10, 12, 14), 6, 2, (16, 6, 14, 18)), 4100)
    with torch.no_grad():
        # What is added to the mixed picture must not push it out of [0, 1], where nothing could be told.
        model.decoder1.convblock[2].weight[:, 5 * model.flows :] *= 0.2
        model.decoder1.convblock[2].bias[5 * model.flows :] *= 0.2
        model.comb_block[2].weight *= 0.1
        model.comb_block[2].bias *= 0.1
    torch.save({"state_dict": {name: value.clone() for name, value in model.state_dict().items()}}, folder / "amt-s.pth")
    tensors = {}
    with torch.no_grad():
        for index, (height, width) in enumerate(SIZES):
            frames = [source(height, width, 4110 + 10 * index + which) for which in range(4 if index else 3)]
            # Frames that have something to do with each other.
            frames = [(0.75 * frames[0] + 0.25 * frame).astype(np.uint8) for frame in frames] + ([] if index else frames[:2])
            for which, frame in enumerate(frames):
                Image.fromarray(frame).save(folder / f"{index}-{which}.png")
            differences = []
            for at in range(0, len(frames) - 2, 2):
                (one, (top, left)), (two, _) = padded(frames[at]), padded(frames[at + 2])
                middle = model(one, two)[0, :, top : top + height, left : left + width]
                tensors[f"{index}.{at}"] = middle[:, 1::5, 2::7]
                bytes_ = (middle.permute(1, 2, 0).numpy() * 255).clip(0, 255).astype(np.uint8)
                differences.append(np.abs(frames[at + 1].astype(int) - bytes_.astype(int)).mean())
            score = (255 - np.mean(differences)) / 255
            tensors[f"{index}.smoothness"] = torch.tensor([score])
            print(index, len(frames), middle.min().item(), middle.max().item(), middle.std().item(), score)
    save_case(folder, {name: value.float() for name, value in tensors.items()}, {})


if __name__ == "__main__":
    main()

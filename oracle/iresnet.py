"""The IResNet of ArcFace, and the additive angular margin loss it is trained with.

Parameter names are those of insightface's published PyTorch checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from common import fresh, generator, gradients, liven, liven_statistics, randn, save_case


class IBasicBlock(nn.Module):
    """Pre-activated residual block; the stride is on the second convolution."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.prelu = nn.PReLU(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x):
        h = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        h = self.bn3(self.conv2(h))
        return h + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """`(B, 3, size, size)` images in [-1, 1] to `(B, embedding)`; four stages, each halving."""

    def __init__(self, layers, widths, size, embedding):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        inside = widths[0]
        for i, (depth, width) in enumerate(zip(layers, widths)):
            blocks = [IBasicBlock(inside, width, 2)] + [IBasicBlock(width, width, 1) for _ in range(depth - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inside = width
        self.bn2 = nn.BatchNorm2d(inside)
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(inside * (size // 16) ** 2, embedding)
        self.features = nn.BatchNorm1d(embedding)
        self.features.weight.requires_grad_(False)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.fc(self.dropout(self.bn2(x).flatten(1)))
        return self.features(x)


CASES = {
    "a": dict(config=dict(layers=[1, 1, 1, 1], widths=[8, 16, 16, 24], size=32, embedding=20), batch=4, train=True),
    "b": dict(config=dict(layers=[2, 1, 1, 2], widths=[6, 8, 12, 16], size=48, embedding=16), batch=2),
}


def iresnet():
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(f"iresnet_{name}")
        model = liven(IResNet(**case["config"]), 1100 + seed)
        gen = generator(1110 + seed)
        with torch.no_grad():
            model.features.weight.fill_(1)
            liven_statistics(model, gen)
            for key, p in model.named_parameters():
                if "prelu" in key:
                    p.copy_(0.25 + 0.1 * randn(gen, *p.shape))
        save_file(model.state_dict(), folder / "model.safetensors")

        size = case["config"]["size"]
        x = torch.rand(case["batch"], 3, size, size, generator=gen).mul(2).sub(1).requires_grad_()
        output = model(x)
        tensors = dict(input=x, output=output)
        if case.get("train"):
            cotangent = randn(gen, *output.shape)
            (output * cotangent).sum().backward()
            tensors |= dict(cotangent=cotangent, grad_input=x.grad) | gradients(model)
            # Batch statistics: other outputs, other gradients, moved running statistics.
            x.grad = None
            model.zero_grad()
            output = model.train()(x)
            (output * cotangent).sum().backward()
            tensors |= {"train.output": output, "train.grad_input": x.grad}
            tensors |= {f"train.{key}": grad for key, grad in gradients(model).items()}
            tensors |= {f"train.{key}": b for key, b in model.named_buffers() if "running" in key}
        save_case(folder, tensors, case["config"])


def arcface(embeddings, weights, labels, scale, margin):
    """Mean cross entropy of s cos(theta), the label's class having s phi instead, where

    phi = cos(theta + m)            if cos(theta) > cos(pi - m)
        = cos(theta) - m sin(pi - m)  otherwise, so that phi falls with theta up to pi,

    and cos(theta) is between the normalised embedding and the normalised class weight.
    """
    cos = F.linear(F.normalize(embeddings), F.normalize(weights))
    sin = (1 - cos**2).clamp(min=0).sqrt()
    phi = cos * math.cos(margin) - sin * math.sin(margin)
    phi = torch.where(cos > math.cos(math.pi - margin), phi, cos - margin * math.sin(math.pi - margin))
    logits = torch.where(F.one_hot(labels, len(weights)).bool(), phi, cos)
    return F.cross_entropy(scale * logits, labels), cos


def arcface_loss():
    folder = fresh("arcface_loss")
    gen = generator(1120)
    weights = randn(gen, 7, 12)
    labels = torch.tensor([0, 3, 6, 3, 1])
    # Rows near their class, unrelated to it, and against it (the other branch).
    embeddings = randn(gen, 5, 12)
    embeddings[0] += 2 * weights[0]
    embeddings[4] = 0.15 * embeddings[4] - weights[1]
    tensors = dict(embeddings=embeddings, weights=weights, labels=labels)
    scalars = dict(margin=0.5, scales=[64.0, 32.0])
    for scale in scalars["scales"]:
        e, w = embeddings.clone().requires_grad_(), weights.clone().requires_grad_()
        loss, cos = arcface(e, w, labels, scale, scalars["margin"])
        loss.backward()
        key = f"s{scale:.0f}"
        tensors |= {f"{key}.loss": loss, f"{key}.grad_embeddings": e.grad, f"{key}.grad_weights": w.grad}
    tensors["cos"] = cos
    against = cos.gather(1, labels[:, None]) <= math.cos(math.pi - scalars["margin"])
    assert against.sum() == 1
    save_case(folder, tensors, scalars)


if __name__ == "__main__":
    iresnet()
    arcface_loss()

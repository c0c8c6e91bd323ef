"""RAFT: torchvision's, its weights under the names of the original release (`raft-things.pth`), and VBench's dynamic degree."""

import torch
from PIL import Image
from torch import nn
from torchvision.models.optical_flow import raft as published

from common import fresh, liven, liven_statistics, save_case
from resample import source

# Original and torchvision's names.
NAMES = [
    ("update_block.motion_encoder.convcorr1.0", "update_block.encoder.convc1"),
    ("update_block.motion_encoder.convcorr2.0", "update_block.encoder.convc2"),
    ("update_block.motion_encoder.convflow1.0", "update_block.encoder.convf1"),
    ("update_block.motion_encoder.convflow2.0", "update_block.encoder.convf2"),
    ("update_block.motion_encoder.conv.0", "update_block.encoder.conv"),
    ("mask_predictor.convrelu.0", "update_block.mask.0"),
    ("mask_predictor.conv.", "update_block.mask.2."),
    ("update_block.recurrent_block.convgru1.convz", "update_block.gru.convz1"),
    ("update_block.recurrent_block.convgru1.convr", "update_block.gru.convr1"),
    ("update_block.recurrent_block.convgru1.convq", "update_block.gru.convq1"),
    ("update_block.recurrent_block.convgru2.convz", "update_block.gru.convz2"),
    ("update_block.recurrent_block.convgru2.convr", "update_block.gru.convr2"),
    ("update_block.recurrent_block.convgru2.convq", "update_block.gru.convq2"),
    ("feature_encoder.", "fnet."), ("context_encoder.", "cnet."),
    ("net.conv.", "net.conv2."),
    (".convnormrelu.0.", ".conv1."), (".convnormrelu.1.", ".norm1."),
    (".convnormrelu1.0.", ".conv1."), (".convnormrelu1.1.", ".norm1."),
    (".convnormrelu2.0.", ".conv2."), (".convnormrelu2.1.", ".norm2."),
]
UPDATES = 5
SIZES = [(128, 144), (136, 128)]


def original(name):
    for own, other in NAMES:
        name = name.replace(own, other)
    return name


def network():
    model = published._raft(
        feature_encoder_layers=(8, 8, 12, 16, 20), feature_encoder_block=published.ResidualBlock,
        feature_encoder_norm_layer=nn.InstanceNorm2d,
        context_encoder_layers=(8, 8, 12, 16, 24), context_encoder_block=published.ResidualBlock,
        context_encoder_norm_layer=nn.BatchNorm2d,
        corr_block_num_levels=4, corr_block_radius=4,
        motion_encoder_corr_layers=(24, 16), motion_encoder_flow_layers=(12, 8), motion_encoder_out_channels=20,
        recurrent_block_hidden_state_size=10, recurrent_block_kernel_size=((1, 5), (5, 1)),
        recurrent_block_padding=((0, 2), (2, 0)), flow_head_hidden_size=16, use_mask_predictor=False,
        mask_predictor=published.MaskPredictor(in_channels=10, hidden_size=14, multiplier=0.25),
    )
    liven(model, 2000)
    gen = torch.Generator().manual_seed(2001)
    liven_statistics(model, gen)
    return model.eval()


def fastest(flow):
    """VBench's score of a pair: the mean length of the fastest twentieth."""
    length = flow.pow(2).sum(1).sqrt().flatten()
    return length.sort(descending=True).values[: int(0.05 * length.numel())].mean()


def main():
    folder = fresh("raft")
    model = network()
    weights = {"module." + original(name): value.clone() for name, value in model.state_dict().items()}
    # The original holds the norm after a shortcut twice.
    for name in [name for name in weights if ".downsample.1." in name]:
        weights[name.replace(".downsample.1.", ".norm3.")] = weights[name]
    torch.save(weights, folder / "raft-things.pth")
    tensors = {}
    with torch.no_grad():
        for index, (height, width) in enumerate(SIZES):
            pair = [source(height, width, 2010 + 2 * index), source(height, width, 2011 + 2 * index)]
            for which, picture in enumerate(pair):
                Image.fromarray(picture).save(folder / f"{index}-{which}.png")
            one, two = [torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 * 2 - 1 for p in pair]
            flow = model(one, two, num_flow_updates=UPDATES)[-1]
            tensors[f"{index}.flow"] = flow[:, :, 3::7, 2::5]
            tensors[f"{index}.fastest"] = fastest(flow).reshape(1)
            # As VBench scores it: after 20 updates.
            tensors[f"{index}.speed"] = fastest(model(one, two, num_flow_updates=20)[-1]).reshape(1)
            print(index, flow.abs().max().item(), fastest(flow).item())
    save_case(folder, tensors, dict(updates=UPDATES))


if __name__ == "__main__":
    main()

"""A dataset and a network small enough for tests of training and scoring."""

from __future__ import annotations

import torch
from torch import nn

from ean_lib.data import Data, Split
from ean_lib.networks import AttentionResNet, build_network

STAGES = (2, 2, 1)


def tiny_data(count: int = 60) -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator) * torch.rand(
        count, 3, 1, 1, generator=generator
    )
    images = images.to(torch.uint8)
    labels = torch.arange(count) % 4
    part = Split.from_arrays(images, labels, num_classes=4)
    return Data("tiny", 4, tuple("abcd"), (16, 16), part.mean, part.std, part, part, part)


def tiny_net(attention: str = "dia") -> AttentionResNet:
    net = build_network("resnet20", attention, num_classes=4, width=8, stages=STAGES, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 1, generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
    for name, parameter in net.named_parameters():
        if ".attention." in name or name.startswith("fc."):
            torch.nn.init.normal_(parameter, 0, 1, generator=generator)  # gates and scores that differ between images
    return net

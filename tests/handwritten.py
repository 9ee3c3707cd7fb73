"""Two small networks that implement the contract by hand and are no AttentionResNet."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ean_lib.attention import create_attention
from ean_lib.networks import Connection, check_scheme, connect, reestimate_batchnorm
from ean_lib.schemes import Scheme

STAGES = (2, 2)
CHANNELS = 8


class Tangle(nn.Module):
    """No chain: a block sees the mean of all outputs before it. It has a `stem` and a `head` all the same."""

    def __init__(self, attention: str = "se", num_classes: int = 4) -> None:
        super().__init__()
        self.stages = STAGES
        self.scheme = Scheme.full(STAGES)
        self.stem = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, 2, 1, bias=False), nn.BatchNorm2d(CHANNELS))
        self.layers = nn.ModuleList()
        for _ in range(sum(STAGES)):
            layer = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1, bias=False), nn.BatchNorm2d(CHANNELS))
            self.layers.append(layer)
        self.attention = nn.ModuleList(create_attention(attention, CHANNELS) for _ in STAGES)
        self.head = nn.Linear(CHANNELS, num_classes)

    def connections(self) -> list[Connection]:
        places = [(s, i) for s, depth in enumerate(self.stages) for i in range(depth)]
        return [Connection(s + 1, i, self.attention[s]) for s, i in places]

    def block_modules(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, x: Tensor, scheme: object = None) -> Tensor:
        scheme = check_scheme(self, scheme)
        bits = scheme.bits if isinstance(scheme, Scheme) else scheme
        outputs = [self.stem(x)]
        state = None
        for layer, (_, block, module), bit in zip(self.layers, self.connections(), bits, strict=True):
            state = None if block == 0 else state
            y = layer(torch.stack(outputs).mean(0))
            y, state = connect(module, bit, y, state)
            outputs.append(torch.relu(y))
        return self.head(outputs[-1].mean((2, 3)))

    def prune(self, scheme: object = None) -> Tangle:
        net = copy.deepcopy(self)
        net.scheme = Scheme.parse(self.scheme if scheme is None else scheme, self.stages)
        check_scheme(self, net.scheme)
        for s, bits in enumerate(net.scheme.per_stage):
            if not any(bits):
                net.attention[s] = None
        return net

    def fuse(self) -> Tangle:
        return copy.deepcopy(self).eval()


class PreBlock(nn.Module):
    """A pre-activation block: BatchNorm, ReLU, convolution; nothing follows the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1, bias=False)

    def branch(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(x)))

    def shortcut(self, x: Tensor) -> Tensor:
        return x

    def merge(self, shortcut: Tensor, y: Tensor) -> Tensor:
        return shortcut + y

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.merge(self.shortcut(x), y)


class PreNet(nn.Module):
    """A chain of pre-activation blocks, with BatchNorms in the stem and, after the last block, in the head."""

    def __init__(self, attention: str = "se", num_classes: int = 4) -> None:
        super().__init__()
        self.stages = STAGES
        self.scheme = Scheme.full(STAGES)
        self.first = nn.Conv2d(3, CHANNELS, 3, 2, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(CHANNELS)
        self.parts = nn.ModuleList(PreBlock() for _ in range(sum(STAGES)))
        self.attention = nn.ModuleList(create_attention(attention, CHANNELS) for _ in STAGES)
        self.last_norm = nn.BatchNorm2d(CHANNELS)
        self.fc = nn.Linear(CHANNELS, num_classes)

    connections = Tangle.connections
    prune = Tangle.prune
    fuse = Tangle.fuse

    def block_modules(self) -> list[nn.Module]:
        return list(self.parts)

    def stem(self, x: Tensor) -> Tensor:
        return self.first_norm(self.first(x))

    def head(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.last_norm(x)).mean((2, 3)))

    def forward(self, x: Tensor, scheme: object = None) -> Tensor:
        scheme = check_scheme(self, scheme)
        bits = scheme.bits if isinstance(scheme, Scheme) else scheme
        x, state = self.stem(x), None
        for part, (_, block, module), bit in zip(self.parts, self.connections(), bits, strict=True):
            state = None if block == 0 else state
            y, state = connect(module, bit, part.branch(x), state)
            x = part(x, y)
        return self.head(x)


def handwritten(kind: type[nn.Module], attention: str = "se") -> nn.Module:
    """Such a network, untrained, with statistics that fit all connections, and scores that differ between images."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = kind(attention)
        for parameter in net.attention.parameters():
            nn.init.normal_(parameter)
        images = torch.randn(64, 3, 16, 16)
    reestimate_batchnorm(net, images)
    last = net.fc if hasattr(net, "fc") else net.head
    with torch.no_grad():
        last.bias -= net.eval()(images).mean(0)  # no class is preferred to all others
    return net

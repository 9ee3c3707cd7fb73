"""Residual networks with attention that is shared per stage and connected where a scheme says so.

Block l of a stage computes  x <- relu(shortcut(x) + (M(f(x)) if a_l else f(x)))  with the residual branch f, the
attention module M and the connection bit a_l (EAN, arXiv 2011.14058). ``share="none"`` gives every block its own M
(Org), ``share="stage"`` one M per stage (Share, the mechanism of DIANet, arXiv 1905.10671); a sparse scheme an EAN.

What is unusual here: the whole of "where is attention plugged in" is one argument of ``forward``. A ``Scheme`` skips
the modules that are not connected (fast); a bool tensor gates them (one graph for all schemes, every parameter used, so
that distributed training never waits for a gradient that does not come). Both give the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet

from ean_lib.attention import create_attention
from ean_lib.attention.common import State
from ean_lib.checks import check, check_choice, check_number
from ean_lib.schemes import Scheme

Gate = bool | Tensor


class Block(nn.Module):
    """What the attention needs of a residual block: its branch f(x) and its shortcut, each by itself."""

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch f(x), up to and including its last BatchNorm."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.bn3(self.conv3(torch.relu(y))) if isinstance(self, resnet.Bottleneck) else y

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """relu(shortcut(x) + y), where y is f(x), or what attention has made of it."""
        return torch.relu(self.shortcut(x) + (self.branch(x) if y is None else y))


class BasicBlock(Block, resnet.BasicBlock):
    """torchvision's two 3x3 convolutions."""


class Bottleneck(Block, resnet.Bottleneck):
    """torchvision's 1x1, 3x3 and 1x1 convolutions; the last gives out four times as many channels."""


@dataclass(frozen=True)
class Backbone:
    """A residual network without attention: which images it is for, its kind of block and its blocks per stage."""

    family: Literal["cifar", "imagenet"]
    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]


BACKBONES: dict[str, Backbone] = {
    "resnet20": Backbone("cifar", BasicBlock, (3, 3, 3)),
    "resnet56": Backbone("cifar", BasicBlock, (9, 9, 9)),
    "resnet110": Backbone("cifar", BasicBlock, (18, 18, 18)),
    "resnet164": Backbone("cifar", Bottleneck, (18, 18, 18)),
    "resnet18": Backbone("imagenet", BasicBlock, (2, 2, 2, 2)),
    "resnet34": Backbone("imagenet", BasicBlock, (3, 4, 6, 3)),
    "resnet50": Backbone("imagenet", Bottleneck, (3, 4, 6, 3)),
    "resnet101": Backbone("imagenet", Bottleneck, (3, 4, 23, 3)),
}


def connect(module: nn.Module | None, gate: Gate, y: Tensor, state: State) -> tuple[Tensor, State]:
    """M(y) where the gate is on, y where it is off; an off gate leaves the state as it was.

    Args:
        module: the attention module M.
        gate: a bool, or a 0-d bool tensor; then M is always computed and the result chosen by ``torch.where``.
        y: the residual branch's output (B, C, H, W).
        state: what the stage's connected blocks before this one left behind; None at the start.
    """
    if gate is False:
        return y, state
    assert module is not None  # AttentionResNet.gates has checked that a connected block has a module
    attended, after = module(y, state)
    if gate is True:
        return attended, after
    return torch.where(gate, attended, y), _choose(gate, after, state)


def _choose(gate: Tensor, after: State, before: State) -> State:
    if after is None:
        return None
    if isinstance(after, tuple):
        return tuple(_choose(gate, *pair) for pair in zip(after, before or [None] * len(after), strict=True))
    return torch.where(gate, after, torch.zeros_like(after) if before is None else before)


class Stage(nn.Module):
    """The blocks between two changes of resolution, of which the first has the stride, and the attention they share.

    ``attention`` is one module (shared), a ModuleDict by block index (Org), or None. It is a child of the stage and of
    nothing else, so every parameter has exactly one key in the state_dict.
    """

    def __init__(self, inputs: int, planes: int, depth: int, stride: int, block: type[Block]) -> None:
        super().__init__()
        self.depth, self.out_channels = depth, planes * block.expansion
        for i in range(depth):
            downsample = None
            if stride != 1 or inputs != self.out_channels:
                convolution = resnet.conv1x1(inputs, self.out_channels, stride)
                downsample = nn.Sequential(convolution, nn.BatchNorm2d(self.out_channels))
            self.add_module(str(i), block(inputs, planes, stride, downsample))
            inputs, stride = self.out_channels, 1
        self.attention: nn.Module | None = None

    @property
    def blocks(self) -> list[Block]:
        return [self.get_submodule(str(i)) for i in range(self.depth)]

    def module_of(self, block: int) -> nn.Module | None:
        """The attention module that block may be connected to, or None."""
        if isinstance(self.attention, nn.ModuleDict):
            return dict(self.attention.items()).get(str(block))
        return self.attention

    def forward(self, x: Tensor, gates: Sequence[Gate] | Tensor) -> Tensor:
        state: State = None
        for i, (block, gate) in enumerate(zip(self.blocks, gates, strict=True)):
            y, state = connect(self.module_of(i), gate, block.branch(x), state)
            x = block(x, y)
        return x


class AttentionResNet(nn.Module):
    """A residual network whose blocks can be connected to attention; made by :func:`build_network`.

    Attributes:
        stages: blocks per stage.
        scheme: the connections used when ``forward`` is given none.
    """

    def __init__(self, spec: Backbone, scheme: Scheme, num_classes: int, width: int, stem_stride: int) -> None:
        super().__init__()
        size = 3 if spec.family == "cifar" else 7
        self.conv1 = nn.Conv2d(3, width, size, stem_stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if spec.family == "cifar" else nn.MaxPool2d(3, 2, 1)
        channels = width
        for s, depth in enumerate(scheme.stages):
            stage = Stage(channels, width * 2**s, depth, 2 if s > 0 else 1, spec.block)
            self.add_module(f"layer{s + 1}", stage)
            channels = stage.out_channels
        self.fc = nn.Linear(channels, num_classes)
        self.stages, self.scheme = scheme.stages, scheme

    def stage_modules(self) -> list[Stage]:
        return [self.get_submodule(f"layer{s}") for s in range(1, len(self.stages) + 1)]

    def stem(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) to the first stage's input."""
        expected = "(batch, 3, height, width): add the batch dimension, or convert the images to RGB"
        check("the images' shape", tuple(x.shape), x.dim() == 4 and x.shape[1] == 3, expected)
        return self.maxpool(torch.relu(self.bn1(self.conv1(x))))

    def head(self, x: Tensor) -> Tensor:
        """The last stage's output to class scores (B, num_classes)."""
        return self.fc(x.mean(dim=(2, 3)))

    def gates(self, scheme: Scheme | Sequence[bool] | Tensor | None) -> Sequence[Sequence[Gate] | Tensor]:
        """One gate per block, by stage, checked against the attention that the network has."""
        if isinstance(scheme, Tensor) and scheme.dtype == torch.bool and scheme.shape == (sum(self.stages),):
            # The tensor is not looked into: that would wait for the GPU.
            gates, wanted = scheme.split(self.stages), [True] * len(scheme)
        else:
            scheme = Scheme.parse(self.scheme if scheme is None else scheme, self.stages)
            gates, wanted = scheme.per_stage, scheme.bits
        for (s, i, module), want in zip(self.connections(), wanted, strict=True):
            if want and module is None:
                there = f"no attention module there (it was built or pruned for {self.scheme})"
                advice = "build it with attention, or use the unpruned network"
                raise ValueError(f"the scheme connects block {i} of stage {s}, but the network has {there}; {advice}")
        return gates

    def connections(self) -> Iterator[tuple[int, int, nn.Module | None]]:
        """(stage from 1, block in the stage from 0, its attention module or None) for each block in order."""
        for s, stage in enumerate(self.stage_modules(), start=1):
            for i in range(stage.depth):
                yield s, i, stage.module_of(i)

    def forward(self, x: Tensor, scheme: Scheme | Sequence[bool] | Tensor | None = None) -> Tensor:
        """Class scores (B, num_classes) of images (B, 3, H, W).

        Args:
            x: images.
            scheme: a Scheme (or its bits), which skips the modules that are not connected; or a bool tensor (blocks,),
                which gates them in one graph; None uses ``self.scheme``.
        """
        gates = self.gates(scheme)
        x = self.stem(x)
        for stage, stage_gates in zip(self.stage_modules(), gates, strict=True):
            x = stage(x, stage_gates)
        return self.head(x)

    def prune(self, scheme: Scheme | str | None = None) -> AttentionResNet:
        """A copy that is the plain sparse network of that scheme: attention that no block uses is gone."""
        scheme = self.scheme if scheme is None else Scheme.parse(scheme, self.stages)
        self.gates(scheme)
        net = copy.deepcopy(self)
        for stage, bits in zip(net.stage_modules(), scheme.per_stage, strict=True):
            if isinstance(stage.attention, nn.ModuleDict):
                stage.attention = nn.ModuleDict({str(i): stage.module_of(i) for i, bit in enumerate(bits) if bit})
            if not any(bits):
                stage.attention = None
        net.scheme = scheme
        return net

    def fuse(self) -> AttentionResNet:
        """A copy for deployment, in eval mode, with each BatchNorm folded into the convolution before it."""
        net = copy.deepcopy(self).eval()
        blocks = [block for stage in net.stage_modules() for block in stage.blocks]  # without the attention modules
        for module in [net, *(part for block in blocks for part in block.modules())]:
            for (first, conv), (second, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, first, fuse_conv_bn_eval(conv, norm))
                    setattr(module, second, nn.Identity())
        return net

    def load_backbone(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the backbone's weights, for example torchvision's ImageNet ones; attention keeps its own.

        Raises:
            ValueError: if a backbone weight is missing, foreign or of another shape; then nothing is loaded.
        """
        own = {name: value for name, value in self.state_dict().items() if ".attention." not in name}
        check_state_dict(state_dict, own, "the backbone's weights")
        self.load_state_dict(dict(state_dict), strict=False)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """The network in eval mode; afterwards, and after an error, every module's mode is as it was."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_state_dict(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise a ValueError that names the keys in which given differs from expected, in name or in shape."""
    if problems := mismatches(given, expected):
        advice = "build the network with the backbone, width, classes and attention that the weights were saved from"
        raise ValueError(f"{what} do not fit this network: {problems}; {advice}")


def mismatches(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str:
    """The keys in which given differs from expected, in name or in shape, in words; empty where none does."""
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in given.items()}
    wanted = {key: tuple(value.shape) for key, value in expected.items()}
    missing = [key for key in wanted if key not in shapes]
    unknown = [key for key in shapes if key not in wanted]
    wrong = [f"{k} is {shapes[k]}, expected {wanted[k]}" for k in wanted if shapes.get(k, wanted[k]) != wanted[k]]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": wrong}
    some = {kind: ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "") for kind, keys in kinds.items()}
    return "; ".join(f"{len(keys)} {kind} ({some[kind]})" for kind, keys in kinds.items() if keys)


def build_network(
    backbone: str, attention: str | None = None, share: Literal["stage", "none"] = "stage",
    scheme: Scheme | str | None = None, num_classes: int = 10, *, width: int | None = None,
    stem_stride: int | None = None, blocks: Sequence[int] | None = None,
    attention_kwargs: Mapping[str, Any] | None = None, seed: int | None = None,
) -> AttentionResNet:  # fmt: skip
    """Build a residual network with or without attention.

    Args:
        backbone: ``resnet20/56/110/164`` (for 32x32 images) or ``resnet18/34/50/101`` (ImageNet).
        attention: a name of :func:`ean_lib.attention.list_attentions`, or None for the plain backbone.
        share: ``"stage"`` for one module per stage (Share), ``"none"`` for one per block (Org).
        scheme: the blocks connected by default; None connects all. Use ``.prune()`` to drop what it does not use.
        num_classes: outputs.
        width: channels of the first stage's 3x3 convolutions; 16 for CIFAR, 64 for ImageNet by default.
        stem_stride: stride of the first convolution; 1 for CIFAR, 2 for ImageNet by default.
        blocks: blocks per stage, for smaller or larger networks than the named ones.
        attention_kwargs: for the attention module, for example ``{"rd_ratio": 1 / 8}``.
        seed: initial weights drawn from this seed, with torch's global generator left as it was; None draws from that.
            The backbone is drawn first, so the forms of one seed start from the same backbone weights.

    Raises:
        ValueError: for unknown names and sizes that make no network.
    """
    check_choice("backbone", backbone, BACKBONES)
    check("share", share, share in ("stage", "none"), "'stage' (one module per stage) or 'none' (one per block)")
    spec = BACKBONES[backbone]
    cifar = spec.family == "cifar"
    depths = spec.blocks if blocks is None else tuple(blocks)
    width = (16 if cifar else 64) if width is None else width
    stem_stride = (1 if cifar else 2) if stem_stride is None else stem_stride
    check_number("num_classes", num_classes, low=1, whole=True)
    check_number("stem_stride", stem_stride, low=1, whole=True)
    # The backward pass of narrower strided 1x1 convolutions in channels-last order crashes PyTorch 2.15 on CPUs.
    check_number("width", width, low=8, whole=True)
    default = Scheme.none if attention is None else Scheme.full
    scheme = default(depths) if scheme is None else Scheme.parse(scheme, depths)
    if attention is None and scheme.connected:
        raise ValueError(f"scheme {scheme} connects blocks, but attention is None; name an attention module")
    kwargs = dict(attention_kwargs or {})
    if attention == "dia" and cifar:
        kwargs.setdefault("rd_ratio", 1 / 4)  # DIANet's; its 1 / 20 is for ImageNet

    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        net = AttentionResNet(spec, scheme, num_classes, width, stem_stride)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        if attention is not None:
            for stage in net.stage_modules():
                make = partial(create_attention, attention, stage.out_channels, **kwargs)
                own = share == "none"
                stage.attention = nn.ModuleDict({str(i): make() for i in range(stage.depth)}) if own else make()
    return net

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
import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ean_lib.attention import create_attention
from ean_lib.schemes import Scheme

State = (
    Any  # what a stateful module hands to the next block: None at the start of a stage, a tensor or a tuple of tensors
)
Gate = bool | Tensor


@dataclass(frozen=True)
class Backbone:
    """A residual network without attention: which images it is for, its block and its blocks per stage."""

    family: Literal["cifar", "imagenet"]
    bottleneck: bool
    blocks: tuple[int, ...]


BACKBONES: dict[str, Backbone] = {
    "resnet20": Backbone("cifar", False, (3, 3, 3)),
    "resnet56": Backbone("cifar", False, (9, 9, 9)),
    "resnet110": Backbone("cifar", False, (18, 18, 18)),
    "resnet164": Backbone("cifar", True, (18, 18, 18)),
    "resnet18": Backbone("imagenet", False, (2, 2, 2, 2)),
    "resnet34": Backbone("imagenet", False, (3, 4, 6, 3)),
    "resnet50": Backbone("imagenet", True, (3, 4, 6, 3)),
    "resnet101": Backbone("imagenet", True, (3, 4, 23, 3)),
}

# DIA's reduction ratio depends on the images (r = 4 on CIFAR, 20 on ImageNet); the other modules' does not.
FAMILY_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "cifar": {"dia": {"rd_ratio": 1 / 4}},
    "imagenet": {"dia": {"rd_ratio": 1 / 20}},
}


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1; no bias, since a BatchNorm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class Block(nn.Module):
    """One residual block, basic or bottleneck, with torchvision's parameter names.

    Args:
        inputs: channels that come in.
        planes: channels of the 3x3 convolutions; a bottleneck gives out four times as many.
        stride: of the first 3x3 convolution.
        bottleneck: 1x1, 3x3, 1x1 instead of 3x3, 3x3.
    """

    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        outputs = planes * (4 if bottleneck else 1)
        self.conv1 = conv1x1(inputs, planes) if bottleneck else conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(planes)
        if bottleneck:
            self.conv3 = conv1x1(planes, outputs)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        self.out_channels = outputs

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch f(x), up to and including its last BatchNorm."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.bn3(self.conv3(torch.relu(y))) if self.bottleneck else y

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
        return torch.relu(self.shortcut(x) + attend(self.branch(x)))


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
        return tuple(
            _choose(gate, a, None if before is None else b) for a, b in zip(after, before or after, strict=True)
        )
    return torch.where(gate, after, torch.zeros_like(after) if before is None else before)


class Stage(nn.Module):
    """The blocks between two changes of resolution, and the attention they share.

    ``attention`` is one module (shared), a ModuleDict by block index (Org), or None. It is a child of the stage and of
    nothing else, so every parameter has exactly one key in the state_dict.
    """

    def __init__(self, blocks: Sequence[Block], attention: nn.Module | None) -> None:
        super().__init__()
        for i, block in enumerate(blocks):
            self.add_module(str(i), block)
        self.depth = len(blocks)
        self.attention = attention

    @property
    def blocks(self) -> list[Block]:
        return [self.get_submodule(str(i)) for i in range(self.depth)]

    def module_of(self, block: int) -> nn.Module | None:
        """The attention module that block may be connected to, or None."""
        if isinstance(self.attention, nn.ModuleDict):
            return dict(self.attention.items()).get(str(block))
        return self.attention

    def forward(self, x: Tensor, gates: Sequence[Gate]) -> Tensor:
        state: State = None
        for i, (block, gate) in enumerate(zip(self.blocks, gates, strict=True)):
            module = self.module_of(i)

            def attend(y: Tensor, module: nn.Module | None = module, gate: Gate = gate) -> Tensor:
                nonlocal state
                y, state = connect(module, gate, y, state)
                return y

            x = block(x, attend)
        return x


class AttentionResNet(nn.Module):
    """A residual network whose blocks can be connected to attention; made by :func:`build_network`.

    Attributes:
        stages: blocks per stage.
        scheme: the connections used when ``forward`` is given none.
    """

    def __init__(
        self, stages: Sequence[Stage], stem: Mapping[str, nn.Module], num_classes: int, scheme: Scheme
    ) -> None:
        super().__init__()
        for name, module in stem.items():
            self.add_module(name, module)
        for s, stage in enumerate(stages, start=1):
            self.add_module(f"layer{s}", stage)
        self.fc = nn.Linear(stages[-1].blocks[-1].out_channels, num_classes)
        self.stages = tuple(stage.depth for stage in stages)
        self.scheme = scheme

    def stage_modules(self) -> list[Stage]:
        return [self.get_submodule(f"layer{s}") for s in range(1, len(self.stages) + 1)]

    def stem(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) to the first stage's input."""
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(
                f"the network expects images of shape (batch, 3, height, width), but got {tuple(x.shape)};"
                " add the batch dimension, or convert the image to RGB"
            )
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.maxpool(x) if hasattr(self, "maxpool") else x

    def head(self, x: Tensor) -> Tensor:
        """The last stage's output to class scores (B, num_classes)."""
        return self.fc(x.mean(dim=(2, 3)))

    def gates(self, scheme: Scheme | Sequence[bool] | Tensor | None) -> list[Sequence[Gate]]:
        """One gate per block, by stage, checked against the attention that the network has."""
        if isinstance(scheme, Tensor) and scheme.dtype == torch.bool and scheme.shape == (sum(self.stages),):
            flat: list[Gate] = list(scheme.unbind())
            wanted = [True] * len(flat)  # a tensor is not looked into (that would wait for the GPU)
        else:
            scheme = self.scheme if scheme is None else Scheme.parse(scheme, self.stages)
            if scheme.stages != self.stages:
                raise ValueError(f"scheme {scheme} has stages {scheme.stages}, but the network has {self.stages}")
            wanted = flat = list(scheme.bits)
        bits = iter(flat)
        gates = [[next(bits) for _ in range(depth)] for depth in self.stages]
        for (s, i, module), want in zip(self.connections(), wanted, strict=True):
            if want and module is None:
                raise ValueError(
                    f"the scheme connects block {i} of stage {s}, but the network has no attention module there"
                    f" (it was built or pruned for {self.scheme}); build it with attention, or use the unpruned network"
                )
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
                for i, bit in enumerate(bits):
                    if not bit and str(i) in stage.attention:
                        del stage.attention[str(i)]
            if not any(bits):
                stage.attention = None
        net.scheme = scheme
        return net

    def fuse(self) -> AttentionResNet:
        """A copy for deployment, in eval mode, with each BatchNorm folded into the convolution before it."""
        net = copy.deepcopy(self).eval()
        for module in [net, *(block for stage in net.stage_modules() for block in stage.blocks)]:
            for conv, bn in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
                if isinstance(getattr(module, bn, None), nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, bn)))
                    setattr(module, bn, nn.Identity())
            down = getattr(module, "downsample", None)
            if isinstance(down, nn.Sequential) and isinstance(down[1], nn.BatchNorm2d):
                module.downsample = nn.Sequential(fuse_conv_bn_eval(down[0], down[1]), nn.Identity())
        return net

    def load_backbone(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the backbone's weights, for example torchvision's ImageNet ones; attention keeps its own.

        Raises:
            ValueError: if a backbone weight is missing, foreign or of another shape; then nothing is loaded.
        """
        own = {name: value for name, value in self.state_dict().items() if ".attention." not in name}
        check_state_dict(state_dict, own, "the backbone's weights")
        self.load_state_dict(dict(state_dict), strict=False)


def check_state_dict(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise a ValueError that names the keys in which given differs from expected, in name or in shape."""
    missing = sorted(set(expected) - set(given))
    foreign = sorted(set(given) - set(expected))
    wrong = [k for k in expected if k in given and tuple(given[k].shape) != tuple(expected[k].shape)]
    if not (missing or foreign or wrong):
        return
    parts = [f"{len(missing)} missing ({_some(missing)})"] * bool(missing)
    parts += [f"{len(foreign)} unknown ({_some(foreign)})"] * bool(foreign)
    shapes = [f"{k} is {tuple(given[k].shape)}, expected {tuple(expected[k].shape)}" for k in wrong]
    parts += [f"{len(wrong)} of another shape ({_some(shapes)})"] * bool(wrong)
    raise ValueError(
        f"{what} do not fit this network: {'; '.join(parts)}. Build the network with the backbone, width, classes and"
        " attention that the weights were saved from."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def build_network(
    backbone: str,
    attention: str | None = None,
    share: Literal["stage", "none"] = "stage",
    scheme: Scheme | str | None = None,
    num_classes: int = 10,
    *,
    width: int | None = None,
    stem_stride: int | None = None,
    blocks: Sequence[int] | None = None,
    attention_kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> AttentionResNet:
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
    if backbone not in BACKBONES:
        close = difflib.get_close_matches(str(backbone), BACKBONES, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(BACKBONES)}"
        raise ValueError(f"unknown backbone {backbone!r}; {hint}")
    if share not in ("stage", "none"):
        raise ValueError(f"share must be 'stage' (one module per stage) or 'none' (one per block), got {share!r}")
    spec = BACKBONES[backbone]
    cifar = spec.family == "cifar"
    depths = spec.blocks if blocks is None else tuple(blocks)
    width = (16 if cifar else 64) if width is None else width
    stem_stride = (1 if cifar else 2) if stem_stride is None else stem_stride
    sizes = {"num_classes": num_classes, "width": width, "stem_stride": stem_stride}
    for name, value in [*sizes.items(), *((f"blocks[{i}]", depth) for i, depth in enumerate(depths))]:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    if width < 8:
        raise ValueError(
            f"width must be at least 8, got {width}: the backward pass of narrower strided 1x1 convolutions in"
            " channels-last order crashes PyTorch on CPUs (seen with 2.15)"
        )
    if not depths:
        raise ValueError("blocks must name at least one stage, got an empty sequence")
    if attention is None:
        wanted = Scheme.none(depths) if scheme is None else Scheme.parse(scheme, depths)
        if wanted.connected:
            raise ValueError(f"scheme {wanted} connects blocks, but attention is None; name an attention module")
    else:
        wanted = Scheme.full(depths) if scheme is None else Scheme.parse(scheme, depths)
    kwargs = {**FAMILY_DEFAULTS[spec.family].get(attention or "", {}), **(attention_kwargs or {})}

    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        stem: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, width, 3 if cifar else 7, stem_stride, padding=1 if cifar else 3, bias=False),
            "bn1": nn.BatchNorm2d(width),
        }
        if not cifar:
            stem["maxpool"] = nn.MaxPool2d(3, 2, 1)
        channels, stages = width, []
        for s, depth in enumerate(depths):
            stage_blocks = []
            for i in range(depth):
                stride = 2 if s > 0 and i == 0 else 1
                stage_blocks.append(Block(channels, width * 2**s, stride, spec.bottleneck))
                channels = stage_blocks[-1].out_channels
            stages.append(Stage(stage_blocks, None))
        net = AttentionResNet(stages, stem, num_classes, wanted)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))  # He et al. 2015, as torchvision does
        if attention is not None:
            for stage in net.stage_modules():
                stage.attention = _make_attention(attention, stage, share, kwargs)
    return net


def _make_attention(name: str, stage: Stage, share: str, kwargs: Mapping[str, Any]) -> nn.Module:
    channels = stage.blocks[-1].out_channels
    if share == "stage":
        return create_attention(name, channels, **kwargs)
    return nn.ModuleDict({str(i): create_attention(name, channels, **kwargs) for i in range(stage.depth)})

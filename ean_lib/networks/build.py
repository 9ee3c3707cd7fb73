"""Networks by name: `build_network("resnet20", "se")`.

``share="none"`` gives every block its own attention module M (Org), ``share="stage"`` one M to each stage (Share, the
mechanism of DIANet, arXiv 1905.10671); Share with a sparse scheme is an EAN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ean_lib.attention import create_attention
from ean_lib.attention.identity_start import IdentityStart, Start
from ean_lib.checks import check, check_choice, check_number
from ean_lib.networks.blocks import BasicBlock, Bottleneck
from ean_lib.networks.resnet import AttentionResNet, Stage
from ean_lib.schemes import Scheme

Share = Literal["stage", "none"]

NARROWEST = 8  # channels of the first stage
HIGHEST_SEED = 2**64 - 1  # that torch takes


@dataclass(frozen=True)
class Backbone:
    """A residual network without attention: which images it is for, its kind of block and its blocks per stage."""

    family: Literal["cifar", "imagenet"]
    block: type[BasicBlock] | type[Bottleneck]
    stages: tuple[int, ...]

    @property
    def width(self) -> int:
        """Channels of the first stage's 3x3 convolutions."""
        return 16 if self.family == "cifar" else 64

    @property
    def stem_stride(self) -> int:
        """Stride of the first convolution."""
        return 1 if self.family == "cifar" else 2


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


def build_network(
    backbone: str, attention: str | None = None, share: Share = "stage", scheme: Scheme | str | None = None,
    num_classes: int = 10, *, width: int | None = None, stem_stride: int | None = None,
    stages: Sequence[int] | None = None, attention_kwargs: Mapping[str, Any] | None = None, seed: int | None = None,
    blocks: Sequence[int] | None = None, start: Start = "random",
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
        stages: blocks per stage, for smaller or larger networks than the named ones.
        attention_kwargs: for the attention module, for example ``{"rd_ratio": 1 / 8}``.
        seed: initial weights drawn from this seed on the CPU, the same on every device, with torch's global generators
            left as they were; None draws from those. The backbone is drawn first, so the forms of one seed start from
            the same backbone weights.
        blocks: an older name of ``stages``.
        start: ``"identity"``: attention changes nothing until it is trained, see `IdentityStart`; for trained weights.

    Raises:
        ValueError: for unknown names and sizes that make no network.
    """
    check_choice("backbone", backbone, BACKBONES)
    check("share", share, share in ("stage", "none"), "'stage' (one module per stage) or 'none' (one per block)")
    check("start", start, start in ("random", "identity"), "'random' or 'identity'")
    spec = BACKBONES[backbone]
    if stages is None:
        stages = spec.stages if blocks is None else blocks
    elif blocks is not None:
        raise ValueError("`blocks` is an older name of `stages`; give one of the two")
    width = spec.width if width is None else width
    stem_stride = spec.stem_stride if stem_stride is None else stem_stride
    num_classes = check_number("num_classes", num_classes, low=1, whole=True)
    stem_stride = check_number("stem_stride", stem_stride, low=1, whole=True)
    width = check_number("width", width, low=NARROWEST, whole=True)
    if seed is not None:
        seed = check_number("seed", seed, high=HIGHEST_SEED, whole=True)
    if scheme is not None:
        scheme = Scheme.parse(scheme, stages)
    elif attention is None:
        scheme = Scheme.none(stages)
    else:
        scheme = Scheme.full(stages)
    if attention is None and scheme.connected:
        raise ValueError(f"scheme {scheme} connects blocks, but attention is None; name an attention module")
    options = _checked_options(attention_kwargs)
    if attention == "dia" and spec.family == "cifar":
        options.setdefault("rd_ratio", 1 / 4)  # DIANet's; its 1 / 20 is for ImageNet

    def build() -> AttentionResNet:
        net = AttentionResNet(spec.block, scheme, num_classes, width, stem_stride, spec.family == "imagenet")
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        if attention is not None:
            for stage in net.stage_modules():
                stage.attention = _attention_of(stage, attention, share, start, options)
        return net

    if seed is None:
        return build()
    device = torch.get_default_device()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would reseed every GPU's generator too
        net = build()
    return net.to(device)


def _checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of the attention module's options; which of them it knows, and in what limits, it says itself."""
    if options is None:
        return {}
    by_name = isinstance(options, Mapping) and all(isinstance(key, str) for key in options)
    check("attention_kwargs", options, by_name, "the attention module's options by name, such as {'rd_ratio': 1 / 8}")
    for key in ("name", "channels"):
        if key in options:
            raise ValueError(f"attention_kwargs must not hold {key!r}: that is decided by the network")
    return dict(options)


def _attention_of(stage: Stage, name: str, share: Share, start: Start, options: Mapping[str, Any]) -> nn.Module:
    """The stage's one module, or a module for each block by its index."""

    def create() -> nn.Module:
        module = create_attention(name, stage.out_channels, **options)
        return IdentityStart(module, stage.out_channels) if start == "identity" else module

    if share == "stage":
        return create()
    return nn.ModuleDict({str(i): create() for i in range(stage.depth)})

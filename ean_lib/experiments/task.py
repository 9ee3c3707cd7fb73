"""The task of an experiment: which images to learn, and with which network."""

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ean_lib.attention.identity_start import Start
from ean_lib.checks import check_options
from ean_lib.data import Data, load_data
from ean_lib.networks import Network, build_network, find_branches, plug
from ean_lib.networks.fine_tuning import head_names
from ean_lib.networks.foreign import create_foreign, is_foreign, pretrained_name, torchvision_weights
from ean_lib.runs import load_weights
from ean_lib.schemes import Scheme

Share = Literal["stage", "none"]
OWN_SHAPE = ("blocks", "width", "stem_stride")  # what only this library's own networks can be told
# Every other field of a task is an option of its dataset.
NOT_OF_THE_DATA = (
    "dataset", "subset", "backbone", *OWN_SHAPE, "attention", "attention_module", "attention_options", "rd_ratio",
    "start", "pretrained", "weights", "new_head", "freeze",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Which images to learn, and with which network."""

    dataset: str = "cued_shapes"
    """cued_shapes, cued_photos, cifar10, cifar100 or image_folder:PATH."""
    backbone: str = "resnet20"
    """resnet20/56/110/164 for small images, resnet18/34/50/101 for large ones; or another library's network, into which
    attention is plugged: torchvision:NAME or timm:NAME."""
    attention: str = "se"
    """se, sge, dia, eca, cbam, or timm:NAME."""
    attention_module: str | None = None
    """A module of your own instead, by where it is imported from: mypackage.mymodule:MyAttention."""
    attention_options: tuple[str, ...] = ()
    """The attention module's options, such as groups=8 reduction=4: numbers, true or false, or texts."""
    rd_ratio: float | None = None
    """The bottleneck's share of the channels, for a module that has one; its own default where nothing is given."""
    start: Start = "random"
    """random: attention as it is made; identity: it changes nothing until it is trained, for a trained backbone."""
    pretrained: bool = False
    """Begin with the weights that torchvision or timm offers for the backbone."""
    weights: str | None = None
    """Begin with the backbone's weights in this file, .safetensors or .pt (code in it is not run)."""
    new_head: bool = False
    """Of those weights leave out the last layer, as for other classes."""
    freeze: Literal["backbone"] | None = None
    """backbone: train attention and the last layer only; all else, BatchNorm's statistics too, stays as it is."""
    blocks: tuple[int, ...] | None = None
    """Blocks per stage, for a network smaller than the named one."""
    width: int | None = None
    """Channels of the first stage."""
    stem_stride: int | None = None
    """Stride of the first convolution; 2 on small images makes a network four times as fast."""
    subset: int | None = None
    """Train on this many images only, balanced over the classes."""
    objects: int | None = None
    """cued_shapes: objects in each image, 2 or 3."""
    setting: str | None = None
    """cued_photos: default or easy, what the other options are where they are not given."""
    pictures: int | None = None
    """cued_photos: photographs in each picture, 2 or 3."""
    cue: str | None = None
    """cued_photos: frame, side, patch, corner or none."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.attention_module is not None:
            if self.attention not in (Task.attention, self.attention_module):
                raise ValueError("attention and attention_module name two modules; give one of them")
            object.__setattr__(self, "attention", self.attention_module)  # it is registered by that name
        if self.rd_ratio is not None and "rd_ratio" in parse_options(self.attention_options):
            raise ValueError(f"rd_ratio is given already, as {self.rd_ratio:g}; leave it out of the attention_options")
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights are two ways to begin; give one of them")
        if self.new_head and not self.starts_trained:
            raise ValueError("new_head leaves a layer out of pretrained or weights; give one of these")
        for name in OWN_SHAPE:
            if is_foreign(self.backbone) and getattr(self, name) is not None:
                raise ValueError(f"{name} is for this library's own networks; {self.backbone} is as its library has it")

    def data(self, root: str | None = None) -> Data:
        wanted = {name: value for name, value in vars(self).items() if name not in NOT_OF_THE_DATA}
        options = {name: value for name, value in wanted.items() if value is not None}
        # The same name means other data after a change of directory or of EAN_DATA: both belong to the cache's key.
        place = (os.getcwd(), os.environ.get("EAN_DATA"))
        return _load_data(place, self.dataset, root=root, subset=self.subset, **options)

    def network(self, num_classes: int, scheme: Scheme | None = None, share: Share = "stage", seed: int = 0) -> Network:
        """The network with attention, or the plain backbone where the scheme connects nothing.

        Another library's backbone without attention is a plugged network whose scheme connects nothing.

        Raises:
            ValueError: if it cannot be built, or the weights to begin with do not fit.
            OSError: if those are not there, or cannot be downloaded.
        """
        if is_foreign(self.backbone):
            loaded = {"pretrained": self.pretrained, "new_head": self.new_head}
            net = plug(
                create_foreign(self.backbone, num_classes, seed, **loaded), self.attention, example=self.example,
                share=share, start=self.start, scheme=scheme, attention_kwargs=self.attention_kwargs, seed=seed,
            )  # fmt: skip
        else:
            attention = self.attention if scheme is None or scheme.connected else None
            net = build_network(
                self.backbone, attention, share, scheme, num_classes, start=self.start, seed=seed, **self.options
            )
            if self.pretrained:
                pretrained_name(self.backbone)
                net.load_backbone(torchvision_weights(self.backbone), self.new_head)
        if self.weights is not None:
            net.load_backbone(load_weights(self.weights, "get it again"), self.new_head)
        if scheme is not None:
            net = net.prune()
        if self.freeze is not None:
            net.freeze_backbone()
        return net

    @property
    def starts_trained(self) -> bool:
        """Whether the network begins with weights that were trained before."""
        return self.pretrained or self.weights is not None

    @property
    def initial_weights(self) -> str | None:
        """Which weights the network begins with: the library's name of them, or a file's SHA-256; None: random ones."""
        if self.pretrained:
            return pretrained_name(self.backbone)
        if self.weights is None:
            return None
        load_weights(self.weights, "get it again")  # says what is wrong with it
        return hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()

    def untrained(self) -> "Task":
        """The same task with random weights to begin with, for networks whose weights are loaded or do not matter."""
        return replace(self, pretrained=False, weights=None, new_head=False)

    def classes_of(self, weights: Mapping[str, Tensor]) -> int:
        """The number of classes of a trained network's weights; 1 where they have no last layer."""
        if is_foreign(self.backbone):
            (head, *_) = head_names(create_foreign(self.backbone, 10, seed=0))
        else:
            head = "fc"
        matrix = weights.get(f"{head}.weight")
        return 1 if matrix is None or matrix.dim() == 0 else len(matrix)

    @property
    def attention_kwargs(self) -> dict[str, Any]:
        """The attention module's options."""
        ratio = {} if self.rd_ratio is None else {"rd_ratio": self.rd_ratio}
        return ratio | parse_options(self.attention_options)

    @property
    def options(self) -> dict[str, Any]:
        """What `build_network` is told beside names, scheme and classes."""
        shape = {"width": self.width, "stem_stride": self.stem_stride, "blocks": self.blocks}
        return {"attention_kwargs": self.attention_kwargs, **shape}

    @property
    def example(self) -> Tensor:
        """Images like the dataset's, for the network of another library: 32 x 32, or 224 x 224 of an image folder.

        Where its branches are and how they make stages follows from the order of its layers, their channels and their
        strides, so that this needs no data.
        """
        size = 224 if self.dataset.startswith("image_folder") else 32
        return torch.zeros(2, 3, size, size)

    @property
    def stages(self) -> tuple[int, ...]:
        if is_foreign(self.backbone):
            return _stages_of(self.backbone, tuple(self.example.shape))
        return build_network(self.backbone, width=8, blocks=self.blocks).stages


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """The attention module's options from texts such as ``groups=8``.

    Raises:
        ValueError: if one is not of this form, or is given twice.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.isidentifier() or name in parsed:
            raise ValueError(f"an attention option must be like groups=8, each once, got {option!r:.60}")
        if name in ("name", "channels"):
            raise ValueError(f"{name} is no option of an attention module: that is decided by the network")
        parsed[name] = _value_of(text)
    return parsed


def _value_of(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@functools.lru_cache(maxsize=8)
def _stages_of(backbone: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return find_branches(create_foreign(backbone, 10, seed=0), torch.zeros(shape)).stages


@functools.lru_cache(maxsize=2)
def _load_data(_place: tuple[str, str | None], dataset: str, **options: Any) -> Data:
    return load_data(dataset, **options)

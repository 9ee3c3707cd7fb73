"""The task of an experiment: which images to learn, and with which network."""

import functools
import os
from dataclasses import dataclass
from typing import Any, Literal

from ean_lib.checks import check_options
from ean_lib.data import Data, load_data
from ean_lib.networks import AttentionResNet, build_network
from ean_lib.schemes import Scheme

Share = Literal["stage", "none"]
# Every other field of a task is an option of its dataset.
NOT_OF_THE_DATA = ("dataset", "backbone", "attention", "rd_ratio", "blocks", "width", "stem_stride", "subset")


@dataclass(frozen=True)
class Task:
    """Which images to learn, and with which network."""

    dataset: str = "cued_shapes"
    """cued_shapes, cued_photos, cifar10, cifar100 or image_folder:PATH."""
    backbone: str = "resnet20"
    """resnet20/56/110/164 for small images, resnet18/34/50/101 for large ones."""
    attention: str = "se"
    """se, sge, dia, eca, cbam, or timm:NAME."""
    rd_ratio: float | None = None
    """The bottleneck's share of the channels, for a module that has one; its own default where nothing is given."""
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

    def data(self, root: str | None = None) -> Data:
        wanted = {name: value for name, value in vars(self).items() if name not in NOT_OF_THE_DATA}
        options = {name: value for name, value in wanted.items() if value is not None}
        # The same name means other data after a change of directory or of EAN_DATA: both belong to the cache's key.
        place = (os.getcwd(), os.environ.get("EAN_DATA"))
        return _load_data(place, self.dataset, root=root, subset=self.subset, **options)

    def network(
        self, num_classes: int, scheme: Scheme | None = None, share: Share = "stage", seed: int = 0
    ) -> AttentionResNet:
        """The network with attention, or the plain backbone where the scheme connects nothing."""
        attention = self.attention if scheme is None or scheme.connected else None
        net = build_network(self.backbone, attention, share, scheme, num_classes, seed=seed, **self.options)
        return net if scheme is None else net.prune()

    @property
    def options(self) -> dict[str, Any]:
        """What `build_network` is told beside names, scheme and classes."""
        ratio = {} if self.rd_ratio is None else {"rd_ratio": self.rd_ratio}
        return {"attention_kwargs": ratio, "width": self.width, "stem_stride": self.stem_stride, "blocks": self.blocks}

    @property
    def stages(self) -> tuple[int, ...]:
        return build_network(self.backbone, width=8, blocks=self.blocks).stages


@functools.lru_cache(maxsize=2)
def _load_data(_place: tuple[str, str | None], dataset: str, **options: Any) -> Data:
    return load_data(dataset, **options)

"""Datasets in memory: `Data` (train, search-val, test) and `Split`, its own loader.

Small images are moved to the device once, as uint8, and flipped, cropped and normalised there a batch at a
time: no worker processes, no Python per image. All random numbers of an epoch are drawn at its start from one
CPU generator and divided among the ranks, so that any number of processes sees exactly what one would see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ean_lib.checks import check, check_choice, plain

AUGMENTATIONS = ("flip", "crop")
SPLIT_SEED = 201114058  # the paper's arXiv number: search-val and test parts never depend on the user's seed
Batch = tuple[Tensor, Tensor]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Data:
    """A dataset in three parts. The test part is for one look, at the end; choices are made on `val`.

    `image_size` is (height, width), `mean` and `std` are per colour in 0..1, `augment` names the
    augmentations that suit the dataset. `val` and `test` hold the same images whatever the seed.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    mean: Colour
    std: Colour
    train: Split  # all three are LazySplits, of the same methods, where images do not fit in memory
    val: Split
    test: Split
    augment: tuple[str, ...] = ()


@dataclass(eq=False)
class Split:
    """Images uint8 (N, 3, H, W) in memory, labels int64 (N,); mean and std are of the images scaled to 0..1.

    Use `Split.from_arrays` for your own images.
    """

    images: Tensor
    labels: Tensor
    mean: Colour
    std: Colour
    _on_device: dict[torch.device, Batch] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_arrays(
        cls, images: Any, labels: Any, *, num_classes: int | None = None,
        mean: Colour = (0.5, 0.5, 0.5), std: Colour = (0.25, 0.25, 0.25),
    ) -> Split:  # fmt: skip
        """A split of your own images: (N, 3, H, W), uint8 in 0..255 or float in 0..1 (rounded to 8 bits).

        Raises:
            ValueError: wrong shape, type or length, values that are not finite or out of range, labels not
                whole numbers in 0..num_classes-1, a standard deviation that is not positive.
        """
        images, labels = torch.as_tensor(images), torch.as_tensor(labels)
        is_batch = images.ndim == 4 and images.shape[1] == 3 and 0 not in images.shape
        check("the images' shape", tuple(images.shape), is_batch, "(N, 3, H, W), none of them 0")
        if images.is_floating_point():
            images = to_8_bits(images)
        check("images", images.dtype, images.dtype == torch.uint8, "uint8 (0..255) or float (0..1)")

        what_came = (labels.dtype, tuple(labels.shape))
        one_per_image = labels.dtype in (torch.uint8, torch.int32, torch.int64) and labels.shape == (len(images),)
        expected = f"whole numbers (uint8, int32, int64) of shape ({len(images)},), one per image"
        check("labels", what_came, one_per_image, expected)
        lowest, highest = labels.min().item(), labels.max().item()
        limit = highest + 1 if num_classes is None else num_classes
        check("labels", (lowest, highest), lowest >= 0 and highest < limit, f"numbers from 0 to {limit - 1}")

        per_colour = len(mean) == len(std) == 3 and min(std) > 0
        check("mean and std", (mean, std), per_colour, "three values each, std positive")
        return cls(images, labels.to(torch.int64), tuple(mean), tuple(std))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of images (in height, width, colour order) and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images.permute(0, 2, 3, 1).numpy()))
        digest.update(np.ascontiguousarray(self.labels.numpy()))
        return digest.hexdigest()

    def select(self, indices: Tensor) -> Split:
        """The images at `indices` (int64), in that order, as a split of their own."""
        return Split(self.images[indices], self.labels[indices], self.mean, self.std)

    def join(self, other: Split) -> Split:
        """Both parts' images as one split, as for retraining on train + search-val."""
        ours = (tuple(self.images.shape[1:]), self.mean, self.std)
        theirs = (tuple(other.images.shape[1:]), other.mean, other.std)
        check("size, mean and std of the other part", theirs, ours == theirs, f"those of this one, {ours}")
        images = torch.cat([self.images, other.images])
        labels = torch.cat([self.labels, other.labels])
        return Split(images, labels, self.mean, self.std)

    def on(self, device: torch.device | str) -> Batch:
        """Images as uint8 (N, H, W, 3) and labels on `device`, moved there the first time only."""
        device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        if device not in self._on_device:
            images = self.images.permute(0, 2, 3, 1).contiguous()
            self._on_device[device] = images.to(device), self.labels.to(device)
        return self._on_device[device]

    def batches(
        self, batch_size: int, *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None, augment: Sequence[str] = (), drop_last: bool = False,
        rank: int = 0, world: int = 1,
    ) -> Iterator[Batch]:  # fmt: skip
        """One epoch: images float32 (B, 3, H, W), normalised, channels_last, and labels int64 (B,).

        Args:
            batch_size: images of a global batch, over all ranks; a multiple of `world`.
            generator: on the CPU and in the same state on all ranks; shuffles the epoch and feeds `augment`.
                It is used before the first batch and not after. None: images in order, `augment` empty.
            augment: "flip" (left-right, one half of the images), "crop" (at a random place of the image with
                a black border of an eighth of its size: 4 pixels for 32×32).
            drop_last: leave out the last batch where it is not full. Otherwise its shares can differ by one.
            rank, world: this process and their number; rank r gets the r-th of `world` contiguous slices.
        """
        shares = rank_slices(len(self), batch_size, drop_last, rank, world)
        images, labels = self.on(device)
        device = images.device
        count, height, width, _ = images.shape
        order = epoch_order(count, augment, generator).to(device)
        flip = corner = None
        if "flip" in augment:
            flip = torch.randint(2, (count, 1, 1, 1), generator=generator).to(device).bool()
        if "crop" in augment:
            tops = torch.randint(2 * border(height) + 1, (count,), generator=generator)
            lefts = torch.randint(2 * border(width) + 1, (count,), generator=generator)
            corner = torch.stack([tops, lefts]).to(device)
        # (x / 255 - mean) / std in one multiply-add; a constant per number of the image is far faster than per colour
        std = torch.tensor(self.std, device=device)
        scale = (1 / (255 * std)).repeat(height * width)
        shift = (-torch.tensor(self.mean, device=device) / std).repeat(height * width)

        def epoch() -> Iterator[Batch]:
            for share in shares:
                x = images.index_select(0, order[share])
                y = labels.index_select(0, order[share])
                if flip is not None:
                    x = torch.where(flip[share], x.flip(2), x)
                if corner is not None:
                    x = crop(x, *corner[:, share])
                x = torch.addcmul(shift, x.flatten(1).to(torch.float32), scale)
                x = x.view(len(x), height, width, 3)
                yield x.permute(0, 3, 1, 2), y

        return epoch()


def to_8_bits(images: Tensor) -> Tensor:
    """Float images (N, 3, H, W) in 0..1, rounded to uint8.

    Raises:
        ValueError: if values are not finite, or out of range.
    """
    broken = (~images.flatten(1).isfinite().all(1)).nonzero()
    if len(broken):
        first = f"the first is image {int(broken[0])}; repair those images or leave them out"
        raise ValueError(f"{len(broken)} of {len(images)} images hold NaN or infinite values, {first}")
    lowest, highest = images.min().item(), images.max().item()
    in_range = lowest >= 0 and highest <= 1
    check("values of float images", (lowest, highest), in_range, "in 0..1 (scale them, or pass uint8)")
    return (images * 255).round().to(torch.uint8)


def border(size: int) -> int:
    """Pixels of black border that cropping adds on each side: 4 for 32."""
    return max(1, size // 8)


def crop(x: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    """Windows of x (B, H, W, C), of its size, at row `tops` and column `lefts` (B,) of the bordered x."""
    count, height, width, channels = x.shape
    pad_y, pad_x = border(height), border(width)
    padded = torch.nn.functional.pad(x, (0, 0, pad_x, pad_x, pad_y, pad_y)).flatten(2)
    windows = padded.unfold(1, height, 1).unfold(2, width * channels, channels)  # (B, tops, lefts, H, W·C), a view
    return windows[torch.arange(count, device=x.device), tops, lefts].view(x.shape)


def epoch_order(count: int, augment: Sequence[str], generator: torch.Generator | None) -> Tensor:
    """The order of an epoch's images, int64 (count,): random if there is a generator.

    Raises:
        ValueError: a name that is not in `AUGMENTATIONS`, or an augmentation without a generator.
    """
    for name in augment:
        check_choice("augmentation", name, AUGMENTATIONS)
    if augment and generator is None:
        raise ValueError("augment needs a generator: pass generator=torch.Generator() or augment=()")
    if generator is None:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)


def rank_slices(count: int, batch_size: int, drop_last: bool, rank: int, world: int) -> list[slice]:
    """This rank's contiguous share of each global batch of an epoch of `count` images.

    Raises:
        ValueError: unless batch_size is a positive multiple of world, and rank in 0..world-1.
    """
    divisible = 0 <= rank < world and batch_size >= 1 and batch_size % world == 0
    expected = f"a positive multiple of the number of processes (world={world}), and rank={rank} below that"
    check("batch_size", batch_size, divisible, expected)
    end = count - count % batch_size if drop_last else count
    slices = []
    for first in range(0, end, batch_size):
        size = min(batch_size, count - first)
        start = first + size * rank // world
        stop = first + size * (rank + 1) // world
        slices.append(slice(start, stop))
    return slices


def class_balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of all images, (N,) int64, whose every prefix holds classes as equally as they last."""
    shuffled = torch.randperm(len(labels), generator=generator)
    drawn = pd.DataFrame({"label": labels[shuffled].numpy()})
    drawn["round"] = drawn.groupby("label").cumcount()  # how many images of its own class come before each image
    by_round = drawn.sort_values(["round", "label"])
    return shuffled[torch.tensor(by_round.index)]


def hold_out(split: Split, per_class: int) -> tuple[Split, Split]:
    """The rest of a split, and `per_class` images of each class, both in order, the same for all seeds.

    Raises:
        ValueError: unless 1 <= per_class < the size of the smallest class.
    """
    sizes = torch.bincount(split.labels)
    fewest = int(sizes.min())
    limits = f"in 1..{fewest - 1}, as the smallest class has {fewest} training images and one must be left"
    per_class = plain(per_class)
    check("val_per_class", per_class, type(per_class) is int and 1 <= per_class < fewest, limits)
    order = class_balanced_order(split.labels, torch.Generator().manual_seed(SPLIT_SEED))
    held_out, rest = order.tensor_split([per_class * len(sizes)])
    return split.select(rest.sort().values), split.select(held_out.sort().values)


def take(split: Split, subset: int | None, seed: int) -> Split:
    """`subset` images (None: all) of a split, class-balanced, drawn by `seed`; a smaller one begins a larger.

    Raises:
        ValueError: if `subset` is not in 1..the images there are.
    """
    if subset is None:
        return split
    subset = plain(subset)
    limits = f"in 1..{len(split)}, the training images there are"
    check("subset", subset, type(subset) is int and 1 <= subset <= len(split), limits)
    order = class_balanced_order(split.labels, torch.Generator().manual_seed(seed))
    return split.select(order[:subset])

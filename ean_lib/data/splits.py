"""Datasets in memory: `Data` (train, search-val, test) and `Split`, its own loader.

Small images are moved to the device once, as uint8, and flipped, cropped and normalised there a batch at a
time: no worker processes, no Python per image. All random numbers of an epoch are drawn at its start from one
CPU generator and divided among the ranks, so that any number of processes sees exactly what one would see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ean_lib.data.folder import LazySplit

AUGMENTATIONS = ("flip", "crop")
SPLIT_SEED = 201114058  # the paper's arXiv number: search-val and test parts never depend on the user's seed
Batch = tuple[Tensor, Tensor]


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
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: Split | LazySplit
    val: Split | LazySplit
    test: Split | LazySplit
    augment: tuple[str, ...] = ()

    @property
    def checksum(self) -> str:
        """SHA-256 of the training part, for provenance; computed when first asked for."""
        return self.train.checksum


def check_augment(augment: Sequence[str], generator: torch.Generator | None) -> tuple[str, ...]:
    """The names as a tuple; `ValueError` for one not in `AUGMENTATIONS`, or without a generator for them."""
    names = (augment,) if isinstance(augment, str) else tuple(augment)
    if unknown := [name for name in names if name not in AUGMENTATIONS]:
        raise ValueError(f"Unknown augmentation {unknown[0]!r}; known are {', '.join(AUGMENTATIONS)}.")
    if names and generator is None:
        raise ValueError("augment needs a generator: pass generator=torch.Generator() or augment=().")
    return names


def check_batching(batch_size: int, rank: int, world: int, start: int) -> None:
    """Raises a `ValueError` unless every rank gets an equal share of a whole batch."""
    if batch_size < 1 or start < 0:
        raise ValueError(f"batch_size must be at least 1 and start at least 0, got {batch_size} and {start}.")
    if world < 1 or not 0 <= rank < world:
        raise ValueError(f"rank must be in 0..world-1, got rank {rank} of world {world}.")
    if batch_size % world:
        raise ValueError(
            f"batch_size {batch_size} cannot be divided equally among {world} processes; "
            f"use a multiple of {world}, such as {max(1, batch_size // world) * world}."
        )


def rank_slices(
    count: int, batch_size: int, drop_last: bool, rank: int, world: int, start: int
) -> Iterator[slice]:
    """This rank's contiguous share of each global batch of an epoch, from global batch `start` on."""
    stop = count - count % batch_size if drop_last else count
    for first in range(start * batch_size, stop, batch_size):
        size = min(batch_size, stop - first)
        yield slice(first + size * rank // world, first + size * (rank + 1) // world)


def class_balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of all images, (N,) int64, whose every prefix holds classes as equally as they last."""
    shuffled = torch.randperm(len(labels), generator=generator)
    of_class = labels[shuffled]
    by_class = torch.argsort(of_class, stable=True)
    counts = torch.bincount(of_class)
    round_of = torch.empty_like(of_class)  # how many images of its own class come before each image
    round_of[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return shuffled[torch.argsort(round_of * len(counts) + of_class)]


def hold_out(labels: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    """Indices (the rest, `per_class` images of each class), both in order.

    They are drawn by a fixed constant, so that the search-val part is the same for all seeds and subsets.

    Raises:
        ValueError: unless 1 <= per_class < the size of the smallest class.
    """
    fewest = int(torch.bincount(labels).min())
    if not 1 <= per_class < fewest:
        raise ValueError(
            f"Cannot hold out {per_class} images of each class: the smallest class has {fewest} training "
            "images, and at least one must be held out and one be left (val_per_class sets how many)."
        )
    order = class_balanced_order(labels, torch.Generator().manual_seed(SPLIT_SEED))
    held_out = per_class * len(torch.bincount(labels))
    return order[held_out:].sort().values, order[:held_out].sort().values


def take(labels: Tensor, subset: int | None, seed: int) -> Tensor:
    """Indices of `subset` images, class-balanced, drawn by `seed`; a smaller subset begins a larger one.

    Raises:
        ValueError: if `subset` is not None (all images) and not in 1..the images there are.
    """
    if subset is None:
        return torch.arange(len(labels))
    if not 1 <= subset <= len(labels):
        raise ValueError(f"subset must be in 1..{len(labels)}, the training images there are; got {subset}.")
    return class_balanced_order(labels, torch.Generator().manual_seed(seed))[:subset]


@dataclass(eq=False)
class Split:
    """One part of a dataset, in memory. Use `Split.from_arrays` for your own images.

    Args:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
        mean, std: per colour, of the images scaled to 0..1.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    _on_device: dict[torch.device, Batch] = field(default_factory=dict, init=False, repr=False)
    _checksum: str | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_arrays(
        cls,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int],
        *,
        num_classes: int | None = None,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.25, 0.25, 0.25),
    ) -> Split:
        """A split of your own images: (N, 3, H, W), uint8 in 0..255 or float in 0..1 (rounded to 8 bits).

        Raises:
            ValueError: wrong shape, type or length, values that are not finite or out of range, labels not
                whole numbers in 0..num_classes-1, a standard deviation that is not positive.
        """
        images, labels = torch.as_tensor(images), torch.as_tensor(labels)
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"images must be (N, 3, H, W), none of them 0, got {tuple(images.shape)}.")
        if images.is_floating_point():
            broken = ~torch.isfinite(images).flatten(1).all(1)
            if broken.any():
                raise ValueError(
                    f"images: {int(broken.sum())} of {len(images)} hold NaN or infinite values, the first is "
                    f"image {int(broken.nonzero()[0])}; repair those images or leave them out."
                )
            low, high = float(images.min()), float(images.max())
            if low < 0 or high > 1:
                raise ValueError(
                    f"float images must lie in 0..1, got {low:g} to {high:g}; scale them or pass uint8."
                )
            images = (images * 255).round().to(torch.uint8)
        elif images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (0..255) or float (0..1), got {images.dtype}.")
        if labels.shape != (len(images),):
            raise ValueError(f"labels must be ({len(images)},), one per image, got {tuple(labels.shape)}.")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels must be whole numbers, got {labels.dtype}.")
        labels = labels.to(torch.int64)
        limit = int(labels.max()) + 1 if num_classes is None else num_classes
        if int(labels.min()) < 0 or int(labels.max()) >= limit:
            raise ValueError(
                f"labels must lie in 0..{limit - 1}, got {int(labels.min())} to {int(labels.max())}; "
                "number the classes from 0."
            )
        if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
            raise ValueError(f"mean and std need three values each, std positive, got {mean} and {std}.")
        return cls(images, labels, tuple(mean), tuple(std))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def checksum(self) -> str:
        """SHA-256 of images (in height, width, colour order) and labels."""
        if self._checksum is None:
            digest = hashlib.sha256(np.ascontiguousarray(self.images.permute(0, 2, 3, 1).numpy()))
            digest.update(np.ascontiguousarray(self.labels.numpy()))
            self._checksum = digest.hexdigest()
        return self._checksum

    def select(self, indices: Tensor) -> Split:
        """The images at `indices` (int64), in that order, as a split of their own."""
        return Split(self.images[indices], self.labels[indices], self.mean, self.std)

    def join(self, other: Split) -> Split:
        """Both parts' images as one split, as for retraining on train + search-val."""
        ours, theirs = ((s.images.shape[1:], s.mean, s.std) for s in (self, other))
        if ours != theirs:
            raise ValueError(f"Only parts of one dataset can be joined; size, mean, std: {ours}, {theirs}.")
        images = torch.cat([self.images, other.images])
        return Split(images, torch.cat([self.labels, other.labels]), self.mean, self.std)

    def on(self, device: torch.device | str) -> Batch:
        """Images as uint8 (N, H, W, 3) and labels on `device`, moved there the first time only."""
        device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        if device not in self._on_device:
            images = self.images.permute(0, 2, 3, 1).contiguous()
            self._on_device[device] = images.to(device), self.labels.to(device)
        return self._on_device[device]

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        augment: Sequence[str] = (),
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        """One epoch: images float32 (B, 3, H, W), normalised, channels_last, and labels int64 (B,).

        Args:
            batch_size: images of a global batch, over all ranks; a multiple of `world`.
            generator: on the CPU and in the same state on all ranks; shuffles the epoch and feeds `augment`.
                It is used before the first batch and not after, so an epoch can be taken up at any batch.
                None: the images come in order, and `augment` must be empty.
            augment: "flip" (left-right, one half of the images), "crop" (at a random place of the image with
                a black border of an eighth of its size: 4 pixels for 32×32).
            drop_last: leave out the last batch where it is not full. Otherwise its shares can differ by one.
            rank, world: this process and their number; rank r gets the r-th of `world` contiguous slices.
            start: global batches to leave out at the start.
        """
        check_batching(batch_size, rank, world, start)
        augment, count = check_augment(augment, generator), len(self)
        images, labels = self.on(device)
        device, (height, width) = images.device, images.shape[1:3]
        order = flip = corner = None
        if generator is not None:
            order = torch.randperm(count, generator=generator).to(device)
        if "flip" in augment:
            flip = torch.randint(2, (count,), generator=generator).to(device)
        if "crop" in augment:
            tops = torch.randint(2 * border(height) + 1, (count,), generator=generator)
            lefts = torch.randint(2 * border(width) + 1, (count,), generator=generator)
            corner = torch.stack([tops, lefts]).to(device)
        # one multiply-add; a constant per number of the image is far faster than one per colour
        std = torch.tensor(self.std, device=device)
        scale = (1 / (255 * std)).repeat(height * width)
        shift = (-torch.tensor(self.mean, device=device) / std).repeat(height * width)

        def epoch() -> Iterator[Batch]:
            for share in rank_slices(count, batch_size, drop_last, rank, world, start):
                x = images[share] if order is None else images.index_select(0, order[share])
                y = labels[share] if order is None else labels.index_select(0, order[share])
                if flip is not None:
                    both = torch.cat([x, x.flip(2)])
                    x = both.index_select(0, flip[share] * len(x) + torch.arange(len(x), device=device))
                if corner is not None:
                    x = crop(x, corner[0, share], corner[1, share])
                x = torch.addcmul(shift, x.flatten(1).to(torch.float32), scale)
                yield x.view(len(x), height, width, 3).permute(0, 3, 1, 2), y

        return epoch()


def border(size: int) -> int:
    """Pixels of black border that cropping adds on each side: 4 for 32."""
    return max(1, size // 8)


def crop(x: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    """Windows of x (B, H, W, 3), of its size, at row `tops` and column `lefts` (B,) of the bordered x."""
    count, height, width, _ = x.shape
    pad_y, pad_x = border(height), border(width)
    padded = torch.nn.functional.pad(x, (0, 0, pad_x, pad_x, pad_y, pad_y)).flatten(2)
    windows = padded.unfold(1, height, 1).unfold(2, width * 3, 3)  # (B, tops, lefts, H, W·3), a view
    return windows[torch.arange(count, device=x.device), tops, lefts].view(x.shape)

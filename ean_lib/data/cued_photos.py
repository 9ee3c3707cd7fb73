"""cued_photos: photographs laid over each other, and a cue that says which of them is asked for.

The classic experiment on feature-based attention, made of CIFAR-10: K photographs, each in shades of a colour of its
own, are laid over each other like transparent slides, and a cue in one of the K colours is painted on top. The label is
the class of the photograph in the cue's colour. With the luminance l_k(p), in 0..1, of photograph k at pixel p, its
colour c_k, noise n(p), and photograph 1 as the one asked for, a picture is

    x(p) = c_1                             where p belongs to the cue,
    x(p) = (1/K) sum_k l_k(p) c_k + n(p)   elsewhere, clipped to 0..1.

Which channels matter is known from the whole picture only, and is useful early. A channel gate computes it from the
pooled map; a convolution has to carry it from pixel to pixel.

The photographs of a picture come from one part, and the parts are those of `cifar10`. Training pictures are composed
anew in each epoch, on the device: every photograph is asked for once, beside others that are drawn at random. Those of
search-val and test are always the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from ean_lib.checks import check, check_choice, check_options
from ean_lib.data import splits
from ean_lib.data.cifar import load_cifar
from ean_lib.data.splits import AUGMENTATIONS, SPLIT_SEED, Batch, Colour, Data, Split

LUMINANCE = (299, 587, 114)  # of red, green and blue, in thousandths (ITU-R BT.601)
MEAN, STD = (0.23, 0.23, 0.23), (0.28, 0.28, 0.28)  # of pictures with any of the usual options, rounded
NOISE_FIELDS = 256  # drawn for each epoch; each picture gets one of them
CHUNK = 1_000  # pictures that are composed at once where all of a part are wanted


@dataclass(frozen=True)
class PhotoStyle:
    """How pictures are composed; `load_cued_photos` says what the options mean."""

    pictures: Annotated[int, Interval(ge=2, le=3)]
    hues: Annotated[int, Interval(ge=3, le=24)]
    cue: Literal["frame", "side", "patch", "corner", "none"]
    cue_size: Annotated[int, Interval(ge=1, le=15)]
    contrast: Annotated[float, Interval(ge=0, le=1)] = 1.0
    noise: Annotated[float, Interval(ge=0, le=1)] = 0.0
    lying: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.lying and self.cue == "none":
            raise ValueError("a cue that is not there cannot lie: choose another cue than 'none', or lying=False")

    def palette(self) -> Tensor:
        """The colours of photographs, float32 (hues, 3) in 0..1, evenly spaced around the colour circle."""
        sixths = torch.arange(self.hues) * (6 / self.hues)  # of the circle; red is at 0, green at 2, blue at 4
        distance = ((sixths[:, None] - torch.tensor([0.0, 2.0, 4.0]) + 3) % 6 - 3).abs()
        pure = (2 - distance).clamp(0, 1)
        grey = pure.mean(1, keepdim=True)
        return grey + self.contrast * (pure - grey)


SETTINGS = {
    "default": PhotoStyle(pictures=3, hues=3, cue="frame", cue_size=3),
    "easy": PhotoStyle(pictures=2, hues=3, cue="frame", cue_size=3),
}


@dataclass(frozen=True)
class Composition:
    """What is drawn at random for N pictures of K photographs; the photograph in column 0 is the one asked for."""

    photographs: Tensor  # int64 (N, K), which photographs of the part; all different
    colours: Tensor  # int64 (N, K), their rows in the palette; all different
    cue_colours: Tensor  # int64 (N,), the cue's row in the palette
    rectangles: Tensor  # int64 (N, 4): left, top, right, bottom (exclusive) of the cue, or of the hole in a frame
    noise: Tensor  # int64 (N,), which of the noise fields
    flips: Tensor | None = None  # bool (N, K), which photographs are mirrored
    corners: Tensor | None = None  # int64 (N, K, 2), row and column of each crop in the bordered photograph

    def select(self, pictures: slice | Tensor) -> Composition:
        """Some of the pictures."""
        return self._map(lambda values: values[pictures])

    def to(self, device: torch.device | str) -> Composition:
        """The same on a device."""
        return self._map(lambda values: values.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Composition:
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return Composition(**{name: None if value is None else change(value) for name, value in values.items()})


def draw_compositions(
    asked: Tensor, count: int, size: tuple[int, int], style: PhotoStyle, generator: torch.Generator,
    augment: Sequence[str] = (),
) -> Composition:  # fmt: skip
    """Draw the other photographs, the colours and the cues of N pictures.

    Args:
        asked: the photographs asked for, int64 (N,), each below `count`.
        count: photographs in the part, at least as many as in one picture.
        size: height and width in pixels.
        generator: on the CPU; nothing else is random.
        augment: "flip" and "crop", drawn for each photograph by itself.
    """
    n, k = len(asked), style.pictures

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    # Steps from the asked photograph around the circle of all photographs. None is 0 and no two are equal.
    first = 1 + whole(count - 1, n)
    photographs = [asked, (asked + first) % count]
    if k == 3:
        second = 1 + (first + whole(count - 2, n)) % (count - 1)
        photographs.append((asked + second) % count)
    colours = torch.rand(n, style.hues, generator=generator).argsort(dim=1)[:, :k]
    rectangles = draw_rectangles(n, size, style, generator)
    noise = whole(NOISE_FIELDS, n)
    flips = whole(2, n, k).bool() if "flip" in augment else None
    corners = None
    if "crop" in augment:
        places = [2 * splits.border(side) + 1 for side in size]
        corners = torch.stack([whole(places[0], n, k), whole(places[1], n, k)], dim=2)
    cue_colours = colours[:, 1] if style.lying else colours[:, 0]
    return Composition(torch.stack(photographs, 1), colours, cue_colours, rectangles, noise, flips, corners)


def draw_rectangles(n: int, size: tuple[int, int], style: PhotoStyle, generator: torch.Generator) -> Tensor:
    """Where the cue is, (N, 4) int64: left, top, right, bottom (exclusive) of it, or of the hole in a frame."""
    (height, width), thick = size, style.cue_size
    left = top = torch.zeros(n, dtype=torch.int64)
    right, bottom = left + width, top + height
    if style.cue == "frame":
        left, top, right, bottom = left + thick, top + thick, right - thick, bottom - thick
    elif style.cue == "side":
        side = torch.randint(4, (n,), generator=generator)
        left = torch.where(side == 0, width - thick, left)
        top = torch.where(side == 1, height - thick, top)
        right = torch.where(side == 2, thick, right)
        bottom = torch.where(side == 3, thick, bottom)
    elif style.cue == "patch":
        left = torch.randint(width - thick + 1, (n,), generator=generator)
        top = torch.randint(height - thick + 1, (n,), generator=generator)
        right, bottom = left + thick, top + thick
    elif style.cue == "corner":
        right, bottom = left + thick, top + thick
    return torch.stack([left, top, right, bottom], dim=1)


def cue_masks(rectangles: Tensor, size: tuple[int, int], style: PhotoStyle) -> Tensor:
    """The pixels of each cue, bool (N, H, W)."""
    height, width = size
    if style.cue == "none":
        return torch.zeros(len(rectangles), height, width, dtype=torch.bool, device=rectangles.device)
    left, top, right, bottom = rectangles[:, :, None].unbind(1)  # each (N, 1)
    columns = torch.arange(width, device=rectangles.device)
    rows = torch.arange(height, device=rectangles.device)
    across = (columns >= left) & (columns < right)  # (N, W)
    down = (rows >= top) & (rows < bottom)  # (N, H)
    inside = down[:, :, None] & across[:, None, :]
    return ~inside if style.cue == "frame" else inside


def compose(luminance: Tensor, composition: Composition, style: PhotoStyle, noise: Tensor | None = None) -> Tensor:
    """Pictures float32 (N, H, W, 3) in 0..1: the equation above.

    A picture depends on its own row of the composition only: to the bit the same in any batch.

    Args:
        luminance: of all photographs of the part, uint8 (count, H, W), on the device of the composition.
        noise: fields of noise, float32 (NOISE_FIELDS, H, W, 3), on the same device; None adds none.
    """
    height, width = luminance.shape[1:]
    palette = style.palette().to(luminance.device)
    pictures = torch.zeros(len(composition.noise), height, width, 3, device=luminance.device)
    for k in range(style.pictures):
        layer = luminance.index_select(0, composition.photographs[:, k])[..., None]  # (N, H, W, 1)
        if composition.flips is not None:
            layer = torch.where(composition.flips[:, k, None, None, None], layer.flip(2), layer)
        if composition.corners is not None:
            layer = splits.crop(layer, composition.corners[:, k, 0], composition.corners[:, k, 1])
        colour = palette[composition.colours[:, k]] / (255 * style.pictures)
        pictures.addcmul_(layer.to(torch.float32), colour[:, None, None, :])
    if noise is not None:
        pictures = (pictures + noise[composition.noise]).clamp(0, 1)
    cue = cue_masks(composition.rectangles, (height, width), style)
    return torch.where(cue[..., None], palette[composition.cue_colours][:, None, None, :], pictures)


@dataclass(eq=False)
class CuedPhotos:
    """One part, with the methods of a `Split`.

    Where `anew` is true (the training part), an epoch with a generator composes its own pictures. Everywhere else
    picture i, which asks for photograph i, is always the same one, and augmentations are left out.
    """

    luminance: Tensor  # uint8 (N, H, W)
    labels: Tensor  # int64 (N,), the classes of the photographs
    style: PhotoStyle
    anew: bool
    stream: int  # different ones give unrelated fixed pictures
    mean: Colour = MEAN
    std: Colour = STD
    _on_device: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        least = self.style.pictures
        check("photographs in a part", len(self), len(self) >= least, f"at least {least}, as many as in a picture")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.luminance.shape[1:])

    @cached_property
    def composition(self) -> Composition:
        """What the fixed pictures are made of."""
        everyone = torch.arange(len(self))
        return draw_compositions(everyone, len(self), self.size, self.style, self._fixed_generator(0))

    @cached_property
    def fixed(self) -> Split:
        """The fixed pictures."""
        noise = self._draw_noise(self._fixed_generator(1))
        images = torch.empty(len(self), 3, *self.size, dtype=torch.uint8)
        for first in range(0, len(self), CHUNK):
            chunk = slice(first, first + CHUNK)
            pictures = compose(self.luminance, self.composition.select(chunk), self.style, noise)
            images[chunk] = (255 * pictures).round().to(torch.uint8).permute(0, 3, 1, 2)
        return Split(images, self.labels, self.mean, self.std)

    @property
    def images(self) -> Tensor:
        """The fixed pictures, uint8 (N, 3, H, W)."""
        return self.fixed.images

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the photographs, their labels, and how pictures are composed of them."""
        digest = hashlib.sha256(np.ascontiguousarray(self.luminance.numpy()))
        digest.update(np.ascontiguousarray(self.labels.numpy()))
        digest.update(repr((astuple(self.style), self.anew, self.stream)).encode())
        return digest.hexdigest()

    def select(self, indices: Tensor) -> CuedPhotos | Split:
        """A part of these photographs, in that order; of a part whose pictures are fixed, those pictures."""
        if not self.anew:
            return self.fixed.select(indices)
        return CuedPhotos(self.luminance[indices], self.labels[indices], self.style, True, self.stream)

    def join(self, other: CuedPhotos) -> CuedPhotos:
        """Both parts' photographs as one part, composed anew in each epoch, for retraining on train + search-val."""
        theirs = (other.size, other.style) if isinstance(other, CuedPhotos) else type(other).__name__
        ours = (self.size, self.style)
        check("size and style of the other part", theirs, theirs == ours, f"those of this one, {ours}")
        luminance = torch.cat([self.luminance, other.luminance])
        return CuedPhotos(luminance, torch.cat([self.labels, other.labels]), self.style, True, self.stream)

    def on(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Luminances and labels on `device`, moved there the first time only."""
        device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        if device not in self._on_device:
            self._on_device[device] = self.luminance.to(device), self.labels.to(device)
        return self._on_device[device]

    def batches(
        self, batch_size: int, *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None, augment: Sequence[str] = (), drop_last: bool = False,
        rank: int = 0, world: int = 1,
    ) -> Iterator[Batch]:  # fmt: skip
        """One epoch, as `Split.batches`; the same pictures for any number of ranks.

        All of an epoch is drawn from the generator before the first batch. Photographs are augmented before they are
        laid over each other, so that a cue is never cut off.
        """
        if not self.anew or generator is None:
            splits.epoch_order(0, augment, generator)  # refuses what `Split` would refuse
            return self.fixed.batches(
                batch_size, device=device, generator=generator, drop_last=drop_last, rank=rank, world=world
            )
        shares = splits.rank_slices(len(self), batch_size, drop_last, rank, world)
        luminance, labels = self.on(device)
        device = luminance.device
        order = splits.epoch_order(len(self), augment, generator)
        composition = draw_compositions(order, len(self), self.size, self.style, generator, augment).to(device)
        noise = self._draw_noise(generator)
        noise = None if noise is None else noise.to(device)
        mean, std = torch.tensor(self.mean, device=device), torch.tensor(self.std, device=device)

        def epoch() -> Iterator[Batch]:
            for share in shares:
                part = composition.select(share)
                pictures = (compose(luminance, part, self.style, noise) - mean) / std
                yield pictures.permute(0, 3, 1, 2), labels.index_select(0, part.photographs[:, 0])

        return epoch()

    def _draw_noise(self, generator: torch.Generator) -> Tensor | None:
        if self.style.noise == 0:
            return None
        return self.style.noise * torch.randn(NOISE_FIELDS, *self.size, 3, generator=generator)

    def _fixed_generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(SPLIT_SEED + 10 * self.stream + purpose)


def load_cued_photos(
    directory: Path, /, *, subset: int | None = None, seed: int = 0, val_per_class: int | None = None,
    download: bool = False, setting: str = "default", pictures: int | None = None, hues: int | None = None,
    cue: str | None = None, cue_size: int | None = None, contrast: float | None = None, noise: float | None = None,
    lying: bool = False,
) -> Data:  # fmt: skip
    """The dataset in three parts: the photographs of `load_cifar("cifar10")`, of which pictures are composed.

    Args:
        directory, subset, seed, val_per_class, download: as in `load_cifar`.
        setting: a name of `SETTINGS`, "default" or "easy": the values of all options below that are None.
        pictures: K, the photographs in a picture, 2 or 3.
        hues: colours around the colour circle that those of a picture are drawn from, 3 to 24. 3 are red, green and
            blue, whose photographs lie in channels of their own; of 6, yellow covers both red and green.
        cue: "frame" all around, "side", a band along one of the four sides, drawn at random, "patch", a square at a
            random place, "corner", a square in the left upper corner, or "none": then no network can know
            what is asked for.
        cue_size: thickness of a frame or band, side of a square, in pixels, 1 to 15.
        contrast: how far the colours are from grey, 0 to 1; at 0 they cannot be told apart.
        noise: standard deviation of the noise of each pixel and colour, 0 to 1; full brightness is 1.
        lying: the cue has the colour of another photograph than the one whose class is the label. A network that has
            learned from honest cues, tested on these pictures, shows what it listens to.

    Raises:
        ValueError: an option out of range; damaged data, as in `load_cifar`.
        FileNotFoundError, ConnectionError: as in `load_cifar`.
    """
    check_choice("setting", setting, SETTINGS)
    options = {
        "pictures": pictures, "hues": hues, "cue": cue, "cue_size": cue_size, "contrast": contrast, "noise": noise,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    style = replace(SETTINGS[setting], lying=lying, **given)
    cifar = load_cifar("cifar10", directory, subset=subset, seed=seed, val_per_class=val_per_class, download=download)
    train = CuedPhotos(luminance_of(cifar.train), cifar.train.labels, style, anew=True, stream=0)
    val = CuedPhotos(luminance_of(cifar.val), cifar.val.labels, style, anew=False, stream=1)
    test = CuedPhotos(luminance_of(cifar.test), cifar.test.labels, style, anew=False, stream=2)
    return Data(
        "cued_photos", cifar.num_classes, cifar.class_names, cifar.image_size, MEAN, STD, train, val, test,
        augment=AUGMENTATIONS,
    )  # fmt: skip


def luminance_of(split: Split) -> Tensor:
    """The luminance of a split's images, uint8 (N, H, W)."""
    luminance = torch.empty(len(split), *split.images.shape[2:], dtype=torch.uint8)
    weights = torch.tensor(LUMINANCE, dtype=torch.int32)[:, None, None]
    for first in range(0, len(split), CHUNK):
        chunk = slice(first, first + CHUNK)
        thousandths = (split.images[chunk] * weights).sum(1)  # whole numbers: the same on every machine
        luminance[chunk] = ((thousandths + 500) // 1000).to(torch.uint8)
    return luminance

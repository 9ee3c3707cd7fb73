"""Your own pictures, or ImageNet: `image_folder:PATH`, with one folder of images per class.

PATH/train/<class>/ and PATH/test/<class>/ (or PATH/val/<class>/, as ImageNet calls it) are the training and
the test part; where both exist, val is the search-val part. A part that is missing is held out of the
training images, class-balanced and always the same; so are both, where the class folders lie directly in
PATH. Parts that fit in memory are decoded once (`Split`); larger ones are read when needed (`LazySplit`).
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import center_crop, normalize, pil_to_tensor, resize
from tqdm import tqdm

from ean_lib.checks import check, check_number
from ean_lib.data import splits
from ean_lib.data.directories import absolute_path
from ean_lib.data.splits import Batch, Data, Split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect
LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # in lower case


def load_image_folder(
    path: str | Path, *, subset: int | None = None, seed: int = 0, size: int = 224,
    val_per_class: int | None = None, memory_gb: float = 2.0, workers: int = 2,
) -> Data:  # fmt: skip
    """Images of a folder, in memory where they fit.

    Args:
        path: the folder.
        subset: training images to keep, class-balanced, drawn by `seed`; None keeps all.
        size: height and width in pixels that images are resized and cropped to.
        val_per_class: images of each class in each part that is held out; by default a tenth of the smallest
            class, at most 100 (EAN's number on ImageNet), at least 1.
        memory_gb: decode all parts into memory if they take at most so many gigabytes, otherwise read lazily.
        workers: threads that read and decode images, at least one (0 counts as 1).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no images, a class without images, fewer than two classes, other classes in the test part,
            a file that is not an image, or an option out of range.
    """
    size = check_number("size", size, low=8, whole=True)
    workers = check_number("workers", workers, whole=True)
    check("memory_gb", memory_gb, isinstance(memory_gb, Real) and memory_gb >= 0, "zero or positive")
    root = absolute_path(path)
    if not root.is_dir():
        layout = "PATH/train/<class>/ and PATH/val/<class>/, or PATH/<class>/, with images in each class folder"
        raise FileNotFoundError(f"there is no folder {root}; image_folder:PATH needs {layout}")
    has_parts = (root / "train").is_dir()
    train, classes = scan(root / "train" if has_parts else root, size, workers)
    parts = {}
    if has_parts:
        for part in ("val", "test"):
            if (root / part).is_dir():
                parts[part], _ = scan(root / part, size, workers, classes)
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")  # as on ImageNet, whose val is what networks are tested on
    if val_per_class is None:
        smallest = int(torch.bincount(train.labels).min())
        val_per_class = max(1, min(100, smallest // 10))
    for part in ("test", "val"):
        if part not in parts:
            train, parts[part] = splits.hold_out(train, val_per_class)
    parts["train"] = splits.take(train, subset, seed)
    images = sum(len(part) for part in parts.values())
    if images * 3 * size**2 <= memory_gb * 1e9:
        parts = {name: part.in_memory() for name, part in parts.items()}
    augment = splits.AUGMENTATIONS
    return Data(f"image_folder:{path}", len(classes), classes, (size, size), MEAN, STD, **parts, augment=augment)


class VisibleImages(ImageFolder):
    """torchvision's scan of a folder of class folders, without what programs leave there unseen.

    That is every folder and file that begins with a dot (`.ipynb_checkpoints`, `._cat.jpg`), and the names in `LITTER`.
    """

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The names of the class folders, in order, and their numbers."""
        classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and is_visible(entry.name))
        if not classes:
            raise FileNotFoundError(f"it has no class folders, {directory}/<class>/")
        return classes, {name: number for number, name in enumerate(classes)}


def is_visible(path: str | Path) -> bool:
    """Whether no part of the path begins with a dot, or is a name that programs leave behind."""
    parts = Path(path).parts
    return not any(part.startswith(".") or part.lower() in LITTER for part in parts)


def scan(folder: Path, size: int, workers: int, classes: tuple[str, ...] = ()) -> tuple[LazySplit, tuple[str, ...]]:
    """The image files of a folder of class folders, mixed, and the classes (`classes`, if given).

    Raises:
        ValueError: there are no classes, only one, others than `classes`, or one without images.
    """

    def is_image(file: str) -> bool:
        return is_visible(Path(file).relative_to(folder)) and file.lower().endswith(IMG_EXTENSIONS)

    try:
        images = VisibleImages(folder, is_valid_file=is_image)
    except OSError as error:
        needs = f"each class needs a folder with at least one image ({', '.join(IMG_EXTENSIONS)})"
        raise ValueError(f"{folder} cannot be used as a folder of images by class: {error}; {needs}") from error
    names = tuple(images.classes)
    if len(names) < 2:
        raise ValueError(f"{folder} has one class only, {names[0]!r}; put each class in a folder of its own.")
    different = sorted(set(names) ^ set(classes)) if classes else []
    if different:
        raise ValueError(f"{folder} and the training part have different classes: only one has {different[0]!r}.")
    labels = torch.tensor(images.targets)
    files = LazySplit(tuple(path for path, _ in images.samples), labels, size, workers)
    order = splits.class_balanced_order(labels, torch.Generator().manual_seed(splits.SPLIT_SEED))
    return files.select(order), names


def random_box(width: int, height: int, rng: random.Random) -> tuple[float, float, float, float]:
    """A random part (left, top, right, bottom) of an image, 3/4 to 4/3 as wide as high.

    Its area is 8% of the image's or more, uniform up to the largest part of this shape that fits in.
    """
    ratio = (4 / 3) ** rng.uniform(-1, 1)
    highest = min(height, width / ratio)
    lowest = min(math.sqrt(0.08 * width * height / ratio), highest)
    drawn = math.sqrt(rng.uniform(lowest**2, highest**2))
    box_width, box_height = min(drawn * ratio, width), min(drawn, height)  # not larger by a rounding error
    left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
    return left, top, left + box_width, top + box_height


def read_image(path: str, size: int, augment: Sequence[str] = (), seed: int = 0) -> Tensor:
    """One image, uint8 (3, size, size), augmented by the random numbers of `seed`.

    Raises:
        ValueError: the file is not an image, or its numbers have no known range; it is named.
    """
    try:
        with Image.open(path) as file:
            image = to_rgb(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); repair it or delete it.") from None
    rng = random.Random(seed)
    if "crop" in augment:
        image = image.resize((size, size), Image.Resampling.BILINEAR, random_box(*image.size, rng))
    else:
        image = center_crop(resize(image, round(size * 8 / 7)), size)  # 256 and 224
    if "flip" in augment and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return pil_to_tensor(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8 bits of red, green and blue.

    16-bit grey values, which Pillow would cut off at 255, are scaled: 0..65535 becomes 0..255.

    Raises:
        ValueError: pixels of 32 bits or floating-point numbers, of which nobody knows which value is white.
    """
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if sixteen_bits:
        values = np.asarray(image).astype(np.int64)
        grey = (values * 255 + 32767) // 65535
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {kind}, and which value is white is unknown: save it with 8 or 16 bits")
    return image.convert("RGB")


@dataclass(eq=False)
class LazySplit:
    """A part of a dataset that is read from files as it is needed; used as a `Split`.

    "crop" is a random part of the image (8% to 100% of its area) resized to `size`, as usual on ImageNet;
    without it, the shorter side is resized to 8/7 of `size` and the middle is taken.
    """

    paths: tuple[str, ...]
    labels: Tensor  # int64 (N,)
    size: int
    workers: int = 2

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def checksum(self) -> str:
        """SHA-256 of each file's class folder, name and size and of its label; the contents are not read."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            file = Path(path)
            digest.update(f"{file.parent.name}/{file.name} {file.stat().st_size} {label}\n".encode())
        return digest.hexdigest()

    def select(self, indices: Tensor) -> LazySplit:
        """The images at `indices` (int64), in that order."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices])

    def join(self, other: LazySplit) -> LazySplit:
        """Both parts' images as one split."""
        return replace(self, paths=self.paths + other.paths, labels=torch.cat([self.labels, other.labels]))

    def in_memory(self) -> Split:
        """All images decoded; `ValueError` that names a file that is not an image."""
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            decoded = pool.map(partial(read_image, size=self.size), self.paths)
            for i, image in enumerate(tqdm(decoded, "decoding images", len(self), leave=False, disable=None)):
                images[i] = image
        return Split(images, self.labels, MEAN, STD)

    def batches(
        self, batch_size: int, *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None, augment: Sequence[str] = (), drop_last: bool = False,
        rank: int = 0, world: int = 1,
    ) -> Iterator[Batch]:  # fmt: skip
        """One epoch, as `Split.batches`; the same images for any number of ranks and workers."""
        shares = splits.rank_slices(len(self), batch_size, drop_last, rank, world)
        order = splits.epoch_order(len(self), augment, generator)
        seed = int(torch.randint(2**62, (), generator=generator)) if augment else 0
        none = torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)  # a rank's last share can be empty

        def read(n: int) -> Tensor:  # (1, 3, size, size)
            return read_image(self.paths[order[n]], self.size, augment, seed + n)[None]

        def epoch() -> Iterator[Batch]:
            reading: list[Iterator[Tensor]] = []  # of each batch so far and of the next two, as they become ready
            pool = ThreadPoolExecutor(max(1, self.workers))
            try:
                for n, share in enumerate(shares):
                    for ahead in shares[len(reading) : n + 3]:
                        reading.append(pool.map(read, range(ahead.start, ahead.stop)))
                    x = torch.cat([none, *reading[n]])
                    if torch.device(device).type == "cuda":
                        x = x.pin_memory()
                    x = x.to(device, non_blocking=True, memory_format=torch.channels_last)
                    y = self.labels[order[share]].to(device)
                    yield normalize(x / 255, MEAN, STD), y
            finally:  # whoever stops early does not wait for what was read ahead
                pool.shutdown(cancel_futures=True)

        return epoch()

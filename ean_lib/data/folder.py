"""Your own pictures, or ImageNet: `image_folder:PATH`, with one folder of images per class.

PATH/train/<class>/ and PATH/test/<class>/ (or PATH/val/<class>/, as ImageNet calls it) are the training and
the test part; where both exist, val is the search-val part. A part that is missing is held out of the
training images, class-balanced and always the same; so are both, where the class folders lie directly in
PATH. Parts that fit in memory are decoded once (`Split`); larger ones are read when needed (`LazySplit`).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import center_crop, normalize, pil_to_tensor, resize
from tqdm import tqdm

from ean_lib.checks import check, check_number
from ean_lib.data import splits
from ean_lib.data.splits import Batch, Data, Split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect


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
    check_number("size", size, low=8, whole=True)
    check_number("workers", workers, whole=True)
    check("memory_gb", memory_gb, memory_gb >= 0, "zero or positive")
    root = Path(path).expanduser()
    if not root.is_dir():
        layout = "PATH/train/<class>/ and PATH/val/<class>/, or PATH/<class>/, with images in each class folder"
        raise FileNotFoundError(f"there is no folder {root}; image_folder:PATH needs {layout}")
    has_parts = (root / "train").is_dir()
    train, classes = scan(root / "train" if has_parts else root, size, workers)
    given = [part for part in ("val", "test") if has_parts and (root / part).is_dir()]
    parts = {part: scan(root / part, size, workers, classes)[0] for part in given}
    if given == ["val"]:
        parts = {"test": parts["val"]}
    if val_per_class is None:
        val_per_class = max(1, min(100, int(torch.bincount(train.labels).min()) // 10))
    for part in [part for part in ("test", "val") if part not in parts]:
        train, parts[part] = splits.hold_out(train, val_per_class)
    parts["train"] = splits.take(train, subset, seed)
    if sum(map(len, parts.values())) * 3 * size**2 <= memory_gb * 1e9:
        parts = {name: part.in_memory() for name, part in parts.items()}
    augment = splits.AUGMENTATIONS
    return Data(f"image_folder:{path}", len(classes), classes, (size, size), MEAN, STD, **parts, augment=augment)


def scan(folder: Path, size: int, workers: int, classes: tuple[str, ...] = ()) -> tuple[LazySplit, tuple[str, ...]]:
    """The image files of a folder of class folders, mixed, and the classes (`classes`, if given)."""
    try:
        found = ImageFolder(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} cannot be used as a folder of images by class: {error}") from error
    names = tuple(found.classes)
    if len(names) < 2:
        raise ValueError(f"{folder} has one class only, {names[0]!r}; put each class in a folder of its own.")
    if classes and (odd := sorted(set(names) ^ set(classes))):
        raise ValueError(f"{folder} and the training part have different classes: only one has {odd[0]!r}.")
    labels = torch.tensor(found.targets)
    files = LazySplit(tuple(path for path, _ in found.samples), labels, size, workers)
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
        ValueError: the file is not an image; it is named.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
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
        files = zip(map(Path, self.paths), self.labels.tolist(), strict=True)
        lines = [f"{file.parent.name}/{file.name} {file.stat().st_size} {label}\n" for file, label in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def select(self, indices: Tensor) -> LazySplit:
        """The images at `indices` (int64), in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()), labels=self.labels[indices])

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
            decoded: list[Iterator[Tensor]] = []  # of each batch so far and of the next two, as they become ready
            pool = ThreadPoolExecutor(max(1, self.workers))
            try:
                for n, share in enumerate(shares):
                    for ahead in shares[len(decoded) : n + 3]:
                        decoded.append(pool.map(read, range(ahead.start, ahead.stop)))
                    x = torch.cat([none, *decoded[n]])
                    x = x.pin_memory() if torch.device(device).type == "cuda" else x
                    x = x.to(device, non_blocking=True, memory_format=torch.channels_last)
                    yield normalize(x / 255, MEAN, STD), self.labels[order[share]].to(device)
            finally:  # whoever stops early does not wait for what was read ahead
                pool.shutdown(cancel_futures=True)

        return epoch()

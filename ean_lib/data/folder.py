"""Your own pictures, or ImageNet: `image_folder:PATH`, with one folder of images per class.

PATH/train/<class>/ and PATH/test/<class>/ (or PATH/val/<class>/, as ImageNet calls it) are the training and
the test part; where both exist, val is the search-val part. A part that is missing is held out of the
training images, class-balanced and always the same; so are both, where the class folders lie directly in
PATH. Parts that fit in memory are decoded once (`Split`); larger ones are read when needed (`LazySplit`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import normalize, pil_to_tensor
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

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
        workers: threads that decode into memory, or processes that read lazily (0: none beside the main one).

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
        rest, held_out = splits.hold_out(train.labels, val_per_class)
        train, parts[part] = train.select(rest), train.select(held_out)
    parts["train"] = train.select(splits.take(train.labels, subset, seed))
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


class Files(Dataset):
    """Decodes batches of images from a list of files; picklable, for worker processes."""

    def __init__(self, paths: Sequence[str], size: int, augment: Sequence[str] = ()) -> None:
        self.paths, self.size, self.random = paths, size, bool(augment)
        whole = [transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size)]  # 256 and 224
        steps = [transforms.RandomResizedCrop(size)] if "crop" in augment else whole
        self.transform = transforms.Compose(steps + [transforms.RandomHorizontalFlip()] * ("flip" in augment))

    def read(self, index: int, seed: int = 0) -> Tensor:
        """One image, uint8 (3, size, size); `ValueError` that names a file that is none.

        Torchvision augments by torch's global generator, which is left as it was.
        """
        try:
            with Image.open(self.paths[index]) as image, torch.random.fork_rng([], enabled=self.random):
                if self.random:
                    torch.manual_seed(seed)
                return pil_to_tensor(self.transform(image.convert("RGB")))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            text = f"{self.paths[index]} cannot be read as an image ({error}); repair it or delete it."
            raise ValueError(text) from None

    def __getitem__(self, batch: Sequence[tuple[int, int]]) -> Tensor | str:
        """Images uint8 (B, 3, size, size) of (index, seed)s, or a message: an exception would carry a traceback."""
        images = torch.empty(len(batch), 3, self.size, self.size, dtype=torch.uint8)
        try:
            for image, item in zip(images, batch, strict=True):
                image.copy_(self.read(*item))
        except ValueError as error:
            return str(error)
        return images


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
            digest.update(f"{'/'.join(Path(path).parts[-2:])} {os.path.getsize(path)} {label}\n".encode())
        return digest.hexdigest()

    def select(self, indices: Tensor) -> LazySplit:
        """The images at `indices` (int64), in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()), labels=self.labels[indices])

    def join(self, other: LazySplit) -> LazySplit:
        """Both parts' images as one split."""
        return replace(self, paths=self.paths + other.paths, labels=torch.cat([self.labels, other.labels]))

    def in_memory(self) -> Split:
        """All images decoded; `ValueError` that names a file that is not an image."""
        files = Files(self.paths, self.size)
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        bar = {"desc": "decoding images", "leave": False, "disable": None, "tqdm_class": tqdm}
        thread_map(lambda i: images[i].copy_(files.read(i)), range(len(self)), max_workers=max(1, self.workers), **bar)
        return Split(images, self.labels, MEAN, STD)

    def batches(
        self, batch_size: int, *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None, augment: Sequence[str] = (), drop_last: bool = False,
        rank: int = 0, world: int = 1,
    ) -> Iterator[Batch]:  # fmt: skip
        """One epoch, as `Split.batches`; the same images for any number of ranks and workers."""
        shares = splits.rank_slices(len(self), batch_size, drop_last, rank, world)
        splits.check_augment(augment, generator)
        order, seeds = torch.arange(len(self)), torch.zeros(len(self), dtype=torch.int64)
        if generator is not None:
            order = torch.randperm(len(self), generator=generator)
            seeds = torch.randint(2**62, (len(self),), generator=generator)
        files, device = Files(self.paths, self.size, augment), torch.device(device)
        items = [list(zip(order[s].tolist(), seeds[s].tolist(), strict=True)) for s in shares]
        # Without a generator of its own the loader draws from torch's global one.
        pin, own = device.type == "cuda", torch.Generator()
        loader = DataLoader(
            files, batch_size=None, sampler=items, num_workers=self.workers, pin_memory=pin, generator=own
        )

        def epoch() -> Iterator[Batch]:
            for share, x in zip(shares, loader, strict=True):
                if isinstance(x, str):
                    raise ValueError(x)
                x = x.to(device, non_blocking=True, memory_format=torch.channels_last)
                yield normalize(x / 255, MEAN, STD), self.labels[order[share]].to(device)

        return epoch()

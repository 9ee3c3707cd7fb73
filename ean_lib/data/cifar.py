"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from `cifar10.npz`, torchvision's folder, or a download.

`cifar10.npz` is the offline form: arrays x_train (50000, 32, 32, 3), y_train, x_test, y_test, all uint8, each
checked once by its SHA-256; a marker file beside it remembers that this very file (size, time) was right.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from ean_lib.data.splits import AUGMENTATIONS, Data, Split, hold_out, take

ARRAYS = {  # name -> shape and SHA-256 of the array in cifar10.npz
    "x_train": ((50000, 32, 32, 3), "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"),
    "y_train": ((50000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"),
    "x_test": ((10000, 32, 32, 3), "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"),
    "y_test": ((10000,), "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5"),
}
CLASSES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN_STD = {  # of the training images
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
Arrays = dict[str, np.ndarray]


def load_cifar(
    name: str, directory: Path, *, subset: int | None = None, seed: int = 0,
    val_per_class: int | None = None, download: bool = False,
) -> Data:  # fmt: skip
    """CIFAR-10 or CIFAR-100 in memory.

    Args:
        name: "cifar10" or "cifar100".
        directory: where `cifar10.npz` or torchvision's folder lies, and where a download goes.
        subset: training images to keep, class-balanced, drawn by `seed`; None keeps all.
        val_per_class: images of each class held out of the training part for the search; by default 500 for
            CIFAR-10 and 50 for CIFAR-100, 5,000 images in both.
        download: let torchvision download the dataset (about 170 MB) where it is missing.

    Raises:
        FileNotFoundError: the dataset is not there and `download` is False.
        ValueError: the dataset is there and broken, or an option is out of range.
        ConnectionError: the download failed.
    """
    npz = directory / "cifar10.npz"
    if name == "cifar10" and npz.exists():
        arrays, class_names = read_npz(npz), CLASSES10
    else:
        arrays, class_names = read_torchvision(name, directory, download)
    mean, std = MEAN_STD[name]
    parts = {}
    for part in ("train", "test"):
        images = torch.from_numpy(arrays[f"x_{part}"]).permute(0, 3, 1, 2)
        parts[part] = Split(images, torch.from_numpy(arrays[f"y_{part}"]).long(), mean, std)
    per_class = val_per_class if val_per_class is not None else 5000 // len(class_names)
    rest, val = hold_out(parts["train"].labels, per_class)
    train = rest[take(parts["train"].labels[rest], subset, seed)]
    selected = [parts["train"].select(train), parts["train"].select(val), parts["test"]]
    return Data(name, len(class_names), class_names, (32, 32), mean, std, *selected, augment=AUGMENTATIONS)


def read_npz(path: Path, expected: dict = ARRAYS) -> Arrays:
    """The arrays of `cifar10.npz`; `ValueError` naming the file where they are not the right ones."""
    fix = "Delete it and get it again, or let load_data('cifar10', download=True) get torchvision's form."
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in expected}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path} cannot be read: it is damaged or incomplete ({error}). {fix}") from error
    stat = path.stat()
    fingerprint = f"sha256 right for size {stat.st_size} mtime_ns {stat.st_mtime_ns}\n"
    marker = path.with_name(path.name + ".checked")
    if marker.exists() and marker.read_text() == fingerprint:
        return arrays
    for name, (shape, digest) in expected.items():
        array = np.ascontiguousarray(arrays[name])
        if array.shape != shape or array.dtype != np.uint8:
            raise ValueError(f"{path}: {name} must be uint8 {shape}, got {array.dtype} {array.shape}. {fix}")
        if (got := hashlib.sha256(array).hexdigest()) != digest:
            raise ValueError(f"{path}: {name} is damaged: its SHA-256 is {got}, expected {digest}. {fix}")
    remember(marker, fingerprint)
    return arrays


def remember(marker: Path, text: str) -> None:
    """Writes the marker, where the directory can be written; it only saves the time of the next check."""
    part = marker.with_name(f"{marker.name}.{os.getpid()}")
    try:
        part.write_text(text)
        os.replace(part, marker)
    except OSError:
        part.unlink(missing_ok=True)


def read_torchvision(name: str, directory: Path, download: bool) -> tuple[Arrays, tuple[str, ...]]:
    """Arrays and class names from torchvision's folder in `directory`, downloaded first if asked for."""
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder = directory / kind.base_folder
    if not folder.is_dir() and not download:
        npz = f"{directory / 'cifar10.npz'} and " if name == "cifar10" else ""
        raise FileNotFoundError(
            f"{name} is not there: looked for {npz}{folder}. To download it (about 170 MB): "
            f"python -c \"from ean_lib.data import load_data; load_data('{name}', download=True)\". Where it "
            "lies elsewhere, name its directory by root=... or the environment variable EAN_DATA."
        )
    if download and not folder.is_dir():
        print(f"Downloading {name} from {kind.url} to {directory} ...", file=sys.stderr)
    try:
        parts = {part: kind(directory, part == "train", download=download) for part in ("train", "test")}
    except RuntimeError as error:
        raise ValueError(
            f"{folder} is damaged or incomplete ({error}). Delete it and get it again, for example by "
            f"load_data('{name}', download=True)."
        ) from error
    except OSError as error:
        raise ConnectionError(f"{name} could not be got from {kind.url} to {directory}: {error}.") from error
    arrays = {f"x_{part}": np.ascontiguousarray(data.data) for part, data in parts.items()}
    arrays |= {f"y_{part}": np.array(data.targets, dtype=np.uint8) for part, data in parts.items()}
    return arrays, tuple(parts["train"].classes)

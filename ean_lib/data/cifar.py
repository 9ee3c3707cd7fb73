"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from `cifar10.npz`, torchvision's folder, or a download.

`cifar10.npz` is the offline form: arrays x_train (50000, 32, 32, 3), y_train, x_test, y_test, all uint8, each
checked by its SHA-256.
"""

import hashlib
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
    name: str, directory: Path, /, *, subset: int | None = None, seed: int = 0,
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
    x_train, y_train, x_test, y_test = (torch.from_numpy(arrays[part]) for part in ARRAYS)
    whole = Split(x_train.permute(0, 3, 1, 2), y_train.long(), mean, std)
    test = Split(x_test.permute(0, 3, 1, 2), y_test.long(), mean, std)
    rest, val = hold_out(whole.labels, 5000 // len(class_names) if val_per_class is None else val_per_class)
    train = rest[take(whole.labels[rest], subset, seed)]
    parts = (whole.select(train), whole.select(val), test)
    return Data(name, len(class_names), class_names, (32, 32), mean, std, *parts, augment=AUGMENTATIONS)


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
    for name, (shape, digest) in expected.items():
        array = np.ascontiguousarray(arrays[name])
        got = f"{array.dtype} {array.shape}, SHA-256 {hashlib.sha256(array).hexdigest()}"
        if got != (wanted := f"uint8 {shape}, SHA-256 {digest}"):
            raise ValueError(f"{path}: {name} is damaged: it must be {wanted}, got {got}. {fix}")
    return arrays


def read_torchvision(name: str, directory: Path, download: bool) -> tuple[Arrays, tuple[str, ...]]:
    """Arrays and class names from torchvision's folder in `directory`, downloaded first if asked for."""
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder = directory / kind.base_folder
    if not folder.is_dir() and not download:
        npz = f"{directory / 'cifar10.npz'} and " if name == "cifar10" else ""
        get = f"python -c \"from ean_lib.data import load_data; load_data('{name}', download=True)\""
        where = "Where it lies elsewhere, name its directory by root=... or the environment variable EAN_DATA"
        raise FileNotFoundError(f"{name} is not there: looked for {npz}{folder}. To download 170 MB: {get}. {where}")
    if download and not folder.is_dir():
        print(f"Downloading {name} from {kind.url} to {directory} ...", file=sys.stderr)
    try:
        parts = {part: kind(directory, part == "train", download=download) for part in ("train", "test")}
    except RuntimeError as error:
        fix = f"Delete it and get it again, for example by load_data('{name}', download=True)"
        raise ValueError(f"{folder} is damaged or incomplete ({error}). {fix}") from error
    except OSError as error:
        raise ConnectionError(f"{name} could not be got from {kind.url} to {directory}: {error}.") from error
    arrays = {f"x_{part}": np.ascontiguousarray(data.data) for part, data in parts.items()}
    arrays |= {f"y_{part}": np.array(data.targets, dtype=np.uint8) for part, data in parts.items()}
    return arrays, tuple(parts["train"].classes)

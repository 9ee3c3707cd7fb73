"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from `cifar10.npz`, torchvision's folder, or a download.

`cifar10.npz` is the offline form: arrays x_train (50000, 32, 32, 3), y_train, x_test, y_test, all uint8. Both of
its parts are checked by their SHA-256, as torchvision checks its files.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

from ean_lib.checks import check
from ean_lib.data.splits import AUGMENTATIONS, Data, Split, hold_out, take

CHECKSUMS = {  # of the parts of cifar10.npz
    "train": "67e12c2a5906880a4fe5595fe6d768185ad7ca587f35d3a7ece3c3b8b85035d2",
    "test": "e54a434ec35094516eacbaac0f2f9550358d985e9d1f71b47d41d333c15ba304",
}
CLASSES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN_STD = {  # of the training images
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


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
        whole, test = read_npz(npz)
        class_names = CLASSES10
    else:
        whole, test, class_names = read_torchvision(name, directory, download)
    if val_per_class is None:
        val_per_class = 5000 // len(class_names)
    train, val = hold_out(whole, val_per_class)
    train = take(train, subset, seed)
    mean, std = MEAN_STD[name]
    return Data(name, len(class_names), class_names, (32, 32), mean, std, train, val, test, augment=AUGMENTATIONS)


def to_split(name: str, images: np.ndarray, labels: np.ndarray | list[int]) -> Split:
    """Images (N, 32, 32, 3) and labels (N,) of CIFAR as a split."""
    mean, std = MEAN_STD[name]
    return Split.from_arrays(images.transpose(0, 3, 1, 2), labels, mean=mean, std=std)


def read_npz(path: Path) -> list[Split]:
    """The training and the test part in `cifar10.npz`; `ValueError` naming the file where they are not right."""
    parts = []
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickled object could run code
            for part, checksum in CHECKSUMS.items():
                split = to_split("cifar10", file[f"x_{part}"], file[f"y_{part}"])
                check(f"SHA-256 of the {part} part", split.checksum, split.checksum == checksum, checksum)
                parts.append(split)
    except PermissionError:  # the file may be whole
        raise
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        fix = "Delete it and get it again, or let load_data('cifar10', download=True) get torchvision's form."
        raise ValueError(f"{path} cannot be read: it is damaged or incomplete ({error}). {fix}") from error
    return parts


def read_torchvision(name: str, directory: Path, download: bool) -> tuple[Split, Split, tuple[str, ...]]:
    """The training and the test part and the class names from torchvision's folder, downloaded first if asked for."""
    dataset = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder = directory / dataset.base_folder
    if not folder.is_dir() and not download:
        npz = f"{directory / 'cifar10.npz'} and " if name == "cifar10" else ""
        get = f"python -c \"from ean_lib.data import load_data; load_data('{name}', download=True)\""
        where = "Where it lies elsewhere, name its directory by root=... or the environment variable EAN_DATA"
        raise FileNotFoundError(f"{name} is not there: looked for {npz}{folder}. To download 170 MB: {get}. {where}")
    if download and not folder.is_dir():
        print(f"Downloading {name} from {dataset.url} to {directory} ...", file=sys.stderr)
    try:
        train = dataset(directory, train=True, download=download)
        test = dataset(directory, train=False, download=download)
    except RuntimeError as error:
        fix = f"Delete it and get it again, for example by load_data('{name}', download=True)"
        raise ValueError(f"{folder} is damaged or incomplete ({error}). {fix}") from error
    except OSError as error:
        raise ConnectionError(f"{name} could not be got from {dataset.url} to {directory}: {error}.") from error
    whole = to_split(name, train.data, train.targets)
    return whole, to_split(name, test.data, test.targets), tuple(train.classes)

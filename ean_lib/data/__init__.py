"""Datasets by name: `load_data("cued_shapes" | "cued_photos" | "cifar10" | "cifar100" | "image_folder:PATH")`."""

from pathlib import Path
from typing import Any

from ean_lib.checks import check_keywords, check_number, suggest
from ean_lib.data.cifar import load_cifar
from ean_lib.data.cued_photos import load_cued_photos
from ean_lib.data.cued_shapes import load_cued_shapes
from ean_lib.data.directories import data_directory
from ean_lib.data.folder import load_image_folder
from ean_lib.data.loaders import DatasetSplit, Images, LoaderSplit, as_split, num_classes
from ean_lib.data.splits import Data, Split

DATASETS = ("cued_shapes", "cued_photos", "cifar10", "cifar100", "image_folder:PATH")

__all__ = [
    "DATASETS",
    "Data",
    "DatasetSplit",
    "Images",
    "LoaderSplit",
    "Split",
    "as_split",
    "data_directory",
    "load_data",
    "num_classes",
]


def load_data(
    name: str, root: str | Path | None = None, subset: int | None = None, seed: int = 0, **options: Any
) -> Data:
    """A dataset as train / search-val / test.

    Search-val and test hold the same images whatever the seed, so that runs of different seeds can be
    compared; `seed` decides which training images are drawn (a subset) or generated (cued_shapes).

    Args:
        name: one of `DATASETS`.
        root: directory of the datasets, see `data_directory`.
        subset: number of training images to keep, class-balanced; None keeps all.
        options: passed on to `load_cifar`, `load_cued_shapes`, `load_cued_photos` or `load_image_folder`; see there.

    Raises:
        ValueError: an unknown name or option, an option out of range, or damaged data.
        FileNotFoundError: data that is not there; the message says where it was looked for and how to get it.
    """
    seed = check_number("seed", seed, high=2**63 - 1, whole=True)
    kind, _, path = str(name).partition(":")
    if name in ("cifar10", "cifar100"):
        load, arguments = load_cifar, (name, data_directory(root))
    elif name == "cued_shapes":
        load, arguments = load_cued_shapes, ()
    elif name == "cued_photos":
        load, arguments = load_cued_photos, (data_directory(root),)
    elif kind == "image_folder" and path:
        load, arguments = load_image_folder, (path,)
    else:
        raise ValueError(f"unknown dataset {name!r}. {suggest(str(name), list(DATASETS))}")
    check_keywords(kind, load, options)
    return load(*arguments, subset=subset, seed=seed, **options)

"""Datasets by name: `load_data("cued_shapes" | "cifar10" | "cifar100" | "image_folder:PATH")`."""

from __future__ import annotations

import difflib
import inspect
import os
from pathlib import Path
from typing import Any

from ean_lib.data.splits import Data, Split

DATASETS = ("cued_shapes", "cifar10", "cifar100", "image_folder:PATH")

__all__ = ["DATASETS", "Data", "Split", "data_directory", "load_data"]


def data_directory(root: str | Path | None = None) -> Path:
    """Where datasets lie: `root`, else the environment variable EAN_DATA, else ~/.cache/ean_lib."""
    return Path(root or os.environ.get("EAN_DATA") or "~/.cache/ean_lib").expanduser()


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
        options: passed on to `load_cifar`, `load_cued_shapes` or `load_image_folder`; see there.

    Raises:
        ValueError: an unknown name or option, an option out of range, or damaged data.
        FileNotFoundError: data that is not there; the message says where it was looked for and how to get it.
    """
    if not isinstance(name, str):
        raise ValueError(f"A dataset is named by a string, got {name!r}; there are {', '.join(DATASETS)}.")
    kind, _, path = name.partition(":")
    if name in ("cifar10", "cifar100"):
        from ean_lib.data.cifar import load_cifar as load

        arguments: tuple[Any, ...] = (name, data_directory(root))
    elif name == "cued_shapes":
        from ean_lib.data.cued_shapes import load_cued_shapes as load

        arguments = ()
    elif kind == "image_folder" and path:
        from ean_lib.data.folder import load_image_folder as load

        arguments = (path,)
    else:
        close = difflib.get_close_matches(kind, [known.partition(":")[0] for known in DATASETS], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"There is no dataset {name!r}{hint} There are {', '.join(DATASETS)}.")
    known = [p.name for p in inspect.signature(load).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"{kind} has no option {option!r}{hint} It has {', '.join(known)}.")
    return load(*arguments, subset=subset, seed=seed, **options)

"""Where data lies: names of folders as people write them, made absolute when they are read."""

import os
from pathlib import Path


def absolute_path(path: str | Path) -> Path:
    """The path with `~` replaced by the home directory, and absolute, so that a later `os.chdir` does not move it.

    Raises:
        ValueError: the path begins with `~`, and nobody knows where the home directory is.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        fix = "set the environment variable HOME, or name the data's directory in full by root=... or EAN_DATA"
        raise ValueError(f"{str(path)!r} cannot be found: {error}; {fix}") from None


def data_directory(root: str | Path | None = None) -> Path:
    """Where datasets lie: `root`, else the environment variable EAN_DATA, else ~/.cache/ean_lib."""
    return absolute_path(root or os.environ.get("EAN_DATA") or "~/.cache/ean_lib")

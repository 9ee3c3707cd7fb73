"""Where the work is done and what is shown of it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Runtime:
    """Where the work is done and what is shown; nothing here changes a result."""

    data_dir: str | None = None
    """Where downloaded datasets are; the default is $EAN_DATA or ~/.cache/ean_lib."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    progress: bool = True
    """Show progress bars."""

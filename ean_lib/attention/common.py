"""What several attention modules need: checked sizes, and statistics that are safe in half precision."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

State = Any  # None, a tensor or a tuple of tensors


def check_positive(name: str, value: Any) -> int:
    """Return `value` if it is a positive integer; `ValueError` otherwise."""
    if type(value) is not int or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, but it is {value!r}.")
    return value


def reduced_channels(channels: int, rd_ratio: float, rd_channels: int | None) -> int:
    """Width of a bottleneck: `rd_channels`, or else `channels * rd_ratio` rounded down, at least 1.

    Raises:
        ValueError: if a number of channels is not a positive integer, or `rd_ratio` is not in (0, 1].
    """
    check_positive("channels", channels)
    if rd_channels is not None:
        return check_positive("rd_channels", rd_channels)
    if isinstance(rd_ratio, bool) or not isinstance(rd_ratio, Real) or not 0 < rd_ratio <= 1:
        raise ValueError(
            "`rd_ratio`, the bottleneck's share of the channels, must be above 0 and at most 1, "
            f"such as 1/16, but it is {rd_ratio!r}."
        )
    return max(1, int(channels * rd_ratio))


def statistics_dtype(x: Tensor) -> torch.dtype:
    """float32, or float64 for float64 input: sums over many positions lose too much in half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def average_pool(x: Tensor) -> Tensor:
    """Mean over positions, (B, C, H, W) -> (B, C, 1, 1), in `statistics_dtype`."""
    return x.mean((2, 3), keepdim=True, dtype=statistics_dtype(x))

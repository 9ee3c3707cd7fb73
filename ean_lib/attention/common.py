"""What several attention modules need: checked sizes, and statistics that are safe in half precision."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ean_lib.checks import check, check_number, plain

State = Any  # None, a tensor or a tuple of tensors


def reduced_channels(channels: int, rd_ratio: float, rd_channels: int | None) -> int:
    """Width of a bottleneck: `rd_channels`, or else `channels * rd_ratio` rounded down, at least 1.

    Raises:
        ValueError: if a number of channels is not a positive integer, or `rd_ratio` is not in (0, 1].
    """
    channels = check_number("channels", channels, low=1, whole=True)
    if rd_channels is not None:
        return check_number("rd_channels", rd_channels, low=1, whole=True)
    ratio = plain(rd_ratio)
    is_share = isinstance(ratio, Real) and not isinstance(ratio, bool) and 0 < ratio <= 1
    check("rd_ratio", ratio, is_share, "the bottleneck's share of the channels, above 0 and at most 1, such as 1/16")
    return max(1, int(channels * ratio))


def statistics_dtype(x: Tensor) -> torch.dtype:
    """float32, or float64 for float64 input: sums over many positions lose too much in half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def average_pool(x: Tensor) -> Tensor:
    """Mean over positions, (B, C, H, W) -> (B, C, 1, 1), in `statistics_dtype`."""
    return x.mean((2, 3), keepdim=True, dtype=statistics_dtype(x))

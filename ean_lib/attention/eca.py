"""Efficient Channel Attention (Wang et al., CVPR 2020): a convolution along the channels."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State, average_pool
from ean_lib.attention.registry import register_attention
from ean_lib.checks import check, check_number, check_odd, plain


def paper_kernel_size(channels: int, gamma: float = 2, beta: float = 1) -> int:
    """The odd number next to (log2(C) + beta) / gamma, at least 3.

    Raises:
        ValueError: if gamma is not positive, or beta no finite number.
    """
    gamma, beta = plain(gamma), plain(beta)
    check("gamma", gamma, _is_finite(gamma) and gamma > 0, "positive")
    check("beta", beta, _is_finite(beta), "a finite number")
    size = int(abs(math.log2(channels) + beta) / gamma)
    if size % 2 == 0:
        size += 1
    return max(3, size)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@register_attention("eca")
class ECA(nn.Module):
    """y = x * sigmoid(conv1d(mean(x))), the convolution over neighbouring channels, without bias.

    Args:
        channels: C.
        kernel_size: odd; None takes the paper's odd number next to (log2(C) + beta) / gamma, at least 3.
        gamma, beta: of that formula.
    """

    def __init__(self, channels: int, kernel_size: int | None = None, gamma: float = 2, beta: float = 1) -> None:
        super().__init__()
        channels = check_number("channels", channels, low=1, whole=True)
        if kernel_size is None:
            kernel_size = paper_kernel_size(channels, gamma, beta)
        kernel_size = check_odd("kernel_size", kernel_size)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor, state: State = None) -> Tensor:
        """(B, C, H, W) -> (B, C), between 0 and 1."""
        pooled = average_pool(x).flatten(1)  # (B, C)
        row = pooled.unsqueeze(1).to(self.conv.weight.dtype)  # (B, 1, C): one row of C neighbours
        return torch.sigmoid(self.conv(row)).squeeze(1)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate = self.gate(x)[:, :, None, None].to(x.dtype)
        return x * gate, state

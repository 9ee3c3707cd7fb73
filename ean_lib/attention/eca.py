"""Efficient Channel Attention (Wang et al., CVPR 2020): a convolution along the channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State, average_pool, check_positive
from ean_lib.attention.registry import register_attention


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
        check_positive("channels", channels)
        if kernel_size is None:
            if not gamma > 0:
                raise ValueError(f"`gamma` must be positive, but it is {gamma!r}.")
            size = int(abs(math.log2(channels) + beta) / gamma)
            kernel_size = max(3, size if size % 2 else size + 1)
        elif check_positive("kernel_size", kernel_size) % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd, but it is {kernel_size}.")
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor, state: State = None) -> Tensor:
        """(B, C, H, W) -> (B, C), between 0 and 1."""
        pooled = average_pool(x).flatten(1).unsqueeze(1).to(self.conv.weight.dtype)  # (B, 1, C)
        return torch.sigmoid(self.conv(pooled)).squeeze(1)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.gate(x)[:, :, None, None].to(x.dtype), state

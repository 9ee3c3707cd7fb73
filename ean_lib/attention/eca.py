"""Efficient Channel Attention (Wang et al., CVPR 2020): a convolution along the channels."""

import math

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State, average_pool
from ean_lib.attention.registry import register_attention
from ean_lib.checks import check, check_number, check_odd


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
        check_number("channels", channels, low=1, whole=True)
        check("gamma", gamma, gamma > 0, "positive")
        if kernel_size is None:
            size = int(abs(math.log2(channels) + beta) / gamma)
            kernel_size = max(3, size if size % 2 else size + 1)
        check_odd("kernel_size", kernel_size)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor, state: State = None) -> Tensor:
        """(B, C, H, W) -> (B, C), between 0 and 1."""
        pooled = average_pool(x).flatten(1).unsqueeze(1).to(self.conv.weight.dtype)  # (B, 1, C)
        return torch.sigmoid(self.conv(pooled)).squeeze(1)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.gate(x)[:, :, None, None].to(x.dtype), state

"""Squeeze-and-Excitation (Hu et al., CVPR 2018): a channel gate from the global average of every channel."""

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State, average_pool, reduced_channels
from ean_lib.attention.registry import register_attention


@register_attention("se")
class SE(nn.Module):
    """y = x * sigmoid(fc2(relu(fc1(mean(x))))), fc1: C -> R, fc2: R -> C, both with bias.

    Args:
        channels: C.
        rd_ratio: R / C; R is rounded down and at least 1 (timm rounds to a multiple of 8).
        rd_channels: R itself, instead of `rd_ratio`.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 16, rd_channels: int | None = None) -> None:
        super().__init__()
        reduced = reduced_channels(channels, rd_ratio, rd_channels)
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def gate(self, x: Tensor, state: State = None) -> Tensor:
        """(B, C, H, W) -> (B, C), between 0 and 1."""
        pooled = average_pool(x).to(self.fc1.weight.dtype)  # (B, C, 1, 1)
        hidden = torch.relu(self.fc1(pooled))  # (B, R, 1, 1)
        return torch.sigmoid(self.fc2(hidden)).flatten(1)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate = self.gate(x)[:, :, None, None].to(x.dtype)
        return x * gate, state

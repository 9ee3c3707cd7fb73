"""Spatial Group-wise Enhance (Li, Hu, Yang, arXiv 1905.09646): one spatial gate for each group of channels.

At 32x32 input the last maps of a ResNet-50 are 1x1, and a plain division by their standard deviation gives
NaN. Here they, and all constant maps, get the gate sigmoid(bias), with finite gradients.
"""

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State, average_pool
from ean_lib.attention.registry import register_attention
from ean_lib.checks import check, check_number

EPSILON = 1e-5  # added to the standard deviation, not to the variance


def default_groups(channels: int) -> int:
    """64 groups from 256 channels on, else the most that divide the channels into groups of at least 4."""
    most = max(1, min(64, channels // 4))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def safe_std(t: Tensor) -> Tensor:
    """Unbiased standard deviation of a `t` (B, G, H, W) of mean 0 over positions; at 0 its gradient is 0."""
    positions = t.shape[2] * t.shape[3]
    variance = t.square().sum((2, 3), keepdim=True) / max(positions - 1, 1)
    positive = variance > 0
    # The root's gradient at 0 is infinite, and `where` would multiply it by 0 (NaN): so no root of 0 is taken at all.
    root = torch.where(positive, variance, 1).sqrt()
    return torch.where(positive, root, 0)


@register_attention("sge")
class SGE(nn.Module):
    """The gate of a position says how much its vector agrees with its group's mean vector.

    With t = <vector, mean vector>, y = x * sigmoid(weight * (t - mean(t)) / (std(t) + 1e-5) + bias).
    The weight starts at 0 and the bias at 1: at first the gate is the same everywhere.

    Args:
        channels: C.
        groups: number of groups G, a divisor of C; None takes `default_groups(channels)`.
    """

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        channels = check_number("channels", channels, low=1, whole=True)
        if groups is None:
            groups = default_groups(channels)
        self.groups = check_number("groups", groups, low=1, whole=True)
        divisor = f"a divisor of the {channels} channels, such as {default_groups(channels)}"
        check("groups", self.groups, channels % self.groups == 0, divisor)
        self.weight = nn.Parameter(torch.zeros(1, self.groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, self.groups, 1, 1))

    def gate(self, x: Tensor, state: State = None) -> Tensor:
        """(B, C, H, W) -> (B, G, H, W), between 0 and 1."""
        grouped = x.unflatten(1, (self.groups, -1))  # (B, G, C/G, H, W)
        pooled = average_pool(x).unflatten(1, (self.groups, -1))
        t = (grouped * pooled).sum(2)  # (B, G, H, W): agreement with the group's mean vector
        t = t - t.mean((2, 3), keepdim=True)
        t = t / (safe_std(t) + EPSILON)
        return torch.sigmoid(t * self.weight + self.bias)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate = self.gate(x).unsqueeze(2).to(x.dtype)  # (B, G, 1, H, W)
        grouped = x.unflatten(1, (self.groups, -1))  # (B, G, C/G, H, W)
        return (grouped * gate).flatten(1, 2), state

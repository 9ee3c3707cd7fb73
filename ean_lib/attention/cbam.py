"""CBAM (Woo et al., ECCV 2018): a channel gate, then a spatial gate, each from both mean and maximum.

The authors' code puts a BatchNorm after the spatial convolution. The paper's equation has none, and neither
has this: in a module that blocks share, it would mix the statistics of different blocks.
"""

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State, average_pool, reduced_channels, statistics_dtype
from ean_lib.attention.registry import register_attention
from ean_lib.checks import check_odd


@register_attention("cbam")
class CBAM(nn.Module):
    """x' = x * sigmoid(mlp(mean(x)) + mlp(max(x))) over positions, then
    y = x' * sigmoid(conv([mean(x'), max(x')])) over channels.

    Args:
        channels: C.
        rd_ratio: R / C of the MLP C -> R -> C, which has no bias; R is rounded down and at least 1.
        rd_channels: R itself, instead of `rd_ratio`.
        spatial_kernel_size: of the spatial convolution, odd.
    """

    def __init__(
        self, channels: int, rd_ratio: float = 1 / 16, rd_channels: int | None = None, spatial_kernel_size: int = 7
    ) -> None:
        super().__init__()
        reduced = reduced_channels(channels, rd_ratio, rd_channels)
        size = check_odd("spatial_kernel_size", spatial_kernel_size)
        self.fc1 = nn.Conv2d(channels, reduced, 1, bias=False)
        self.fc2 = nn.Conv2d(reduced, channels, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, size, padding=size // 2, bias=False)

    def _mlp(self, pooled: Tensor) -> Tensor:
        hidden = torch.relu(self.fc1(pooled.to(self.fc1.weight.dtype)))
        return self.fc2(hidden)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W)."""
        # Which channels: (B, C, 1, 1).
        from_mean = self._mlp(average_pool(x))
        from_maximum = self._mlp(x.amax((2, 3), keepdim=True))
        channel_gate = torch.sigmoid(from_mean + from_maximum)
        x = x * channel_gate.to(x.dtype)

        # Which positions: (B, 1, H, W).
        mean = x.mean(1, keepdim=True, dtype=statistics_dtype(x))
        maximum = x.amax(1, keepdim=True).to(mean.dtype)
        maps = torch.cat([mean, maximum], dim=1)  # (B, 2, H, W)
        spatial_gate = torch.sigmoid(self.spatial(maps.to(self.spatial.weight.dtype)))
        return x * spatial_gate.to(x.dtype), state

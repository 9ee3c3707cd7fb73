"""DIA (DIANet: Huang et al., AAAI 2020, arXiv 1905.10671): an LSTM cell along the blocks of a stage.

Its time steps are the blocks: it reads the pooled map of a block, and its hidden state is the block's
channel gate, which so depends on the blocks before it. A block that is not connected is no time step. Two
things differ from an ordinary LSTM cell: the input and the hidden map go through a bottleneck, and the
hidden state is o * sigmoid(c), not o * tanh(c), so that it is a gate between 0 and 1.
"""

import torch
from torch import Tensor, nn

from ean_lib.attention.common import average_pool, reduced_channels
from ean_lib.attention.registry import register_attention


def _bottleneck(channels: int, reduced: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, reduced), nn.ReLU(), nn.Linear(reduced, 4 * channels))


@register_attention("dia")
class DIA(nn.Module):
    """y = x * h with (h, c) = LSTM cell(mean(x), (h, c)); the state is the pair (h, c), each (B, C).

    Args:
        channels: C.
        rd_ratio: R / C of the bottlenecks C -> R -> 4C; the paper takes 1/20 on ImageNet and 1/4 on CIFAR.
        rd_channels: R itself, instead of `rd_ratio`.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 20, rd_channels: int | None = None) -> None:
        super().__init__()
        reduced = reduced_channels(channels, rd_ratio, rd_channels)
        self.ih = _bottleneck(channels, reduced)
        self.hh = _bottleneck(channels, reduced)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The new state (h, c), each (B, C), which is kept in float32 for half precision too."""
        pooled = average_pool(x).flatten(1)  # (B, C)
        if state is None:
            h, c = torch.zeros_like(pooled), torch.zeros_like(pooled)
        else:
            h, c = state
        dtype = self.ih[0].weight.dtype
        signals = self.ih(pooled.to(dtype)) + self.hh(h.to(dtype))  # (B, 4C)
        # In the order of the official checkpoints: input, forget, cell, output.
        enter, forget, cell, leave = signals.to(pooled.dtype).chunk(4, dim=1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(cell)
        h = torch.sigmoid(leave) * torch.sigmoid(c)
        return h, c

    def gate(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C), between 0 and 1: the hidden state h."""
        h, _ = self.step(x, state)
        return h

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, C, H, W) -> (B, C, H, W) and the new state."""
        h, c = self.step(x, state)
        gate = h[:, :, None, None].to(x.dtype)
        return x * gate, (h, c)

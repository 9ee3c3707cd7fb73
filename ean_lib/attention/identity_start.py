"""A start that changes nothing: attention whose gate is 1 until it has learned to differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State

Start = Literal["random", "identity"]


class IdentityStart(nn.Module):
    """x + a · (M(x) − x): a module M whose gate is 1 for every input until the strength a, 0 at first, is learned.

    So a trained network computes exactly what it did before anything was plugged in. As a is 0, M itself gets no
    gradient in the first step; and others report that gates that start as the identity may hardly move afterwards.

    Args:
        attention: M, called as `y, state = M(x, state)`.
        channels: C of the maps; each channel has a strength of its own.
    """

    def __init__(self, attention: nn.Module, channels: int) -> None:
        super().__init__()
        self.attention = attention
        self.strength = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W) and the new state of M."""
        y, state = self.attention(x, state)
        return x + self.strength[:, None, None].to(x.dtype) * (y - x), state

    @property
    def gate(self) -> Callable[..., Tensor]:  # a property, so that there is none where the module has none
        """The function (x, state) -> 1 + a · (g − 1), where g is M's gate: (B, C), or (B, C, H, W)."""
        gate_of = self.attention.gate

        def gate(x: Tensor, state: State = None) -> Tensor:
            """(B, C, H, W) -> (B, C) or (B, C, H, W)."""
            g = gate_of(x, state)
            channels = len(self.strength)
            if g.ndim == 4:  # (B, G, H, W): one map for each group of channels
                g = g.repeat_interleave(channels // g.shape[1], dim=1)
            strength = self.strength if g.ndim == 2 else self.strength[:, None, None]
            return 1 + strength * (g - 1)

        return gate

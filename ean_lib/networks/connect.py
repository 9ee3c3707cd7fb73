"""One connection: attention after a residual branch where the bit is on, and nothing where it is off."""

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State

Bit = bool | Tensor  # a 0-d bool tensor where one graph serves all schemes


def connect(module: nn.Module | None, bit: Bit, y: Tensor, state: State) -> tuple[Tensor, State]:
    """M(y) where the bit is on, y where it is off; a bit that is off leaves the state as it was.

    Args:
        module: the attention module M.
        bit: a bool, or a 0-d bool tensor; then M is always computed and the result chosen by `torch.where`.
        y: the residual branch's output (B, C, H, W).
        state: what the stage's connected blocks before this one left behind; None at the start.
    """
    if bit is False:
        return y, state
    assert module is not None  # `check_scheme` has seen that a connected block has a module
    attended, after = module(y, state)
    if bit is True:
        return attended, after
    return torch.where(bit, attended, y), _choose(bit, after, state)


def _choose(bit: Tensor, after: State, before: State) -> State:
    """`after` where the bit is on, else `before`; a state that has not begun (None) counts as zeros."""
    if after is None:
        return None
    if isinstance(after, tuple):
        parts_before = [None] * len(after) if before is None else before
        return tuple(_choose(bit, *pair) for pair in zip(after, parts_before, strict=True))
    if before is None:
        before = torch.zeros_like(after)
    return torch.where(bit, after, before)

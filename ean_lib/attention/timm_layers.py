"""timm's attention layers as `timm:<name>`, for example `timm:gc` (global context). timm is optional.

Any layer of `timm.layers.create_attn` serves that keeps the shape of its input; a probe with small maps
finds out. Some of these layers hold a BatchNorm (cbam, coord, sk, ...). Where a stage shares its module,
that BatchNorm mixes the statistics of all connected blocks: prefer the layers without one.
"""

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ean_lib.attention.common import State
from ean_lib.checks import check_keywords, suggest

# Of timm 1.0 those that need no further options. Others (bottleneck with feat_size) can be asked for by name.
_KEEP_SHAPE = ["cbam", "ceca", "coord", "eca", "ecam", "ela", "ese", "gc", "gca", "lambda", "lcbam", "nl"]
_KEEP_SHAPE += ["scoord", "se", "sk", "splat", "strip"]
_PROBE_SIZES = ((8, 8), (5, 7), (1, 1))  # even, not square, and the smallest maps of a deep network


class TimmAttention(nn.Module):
    """A timm layer that takes and passes on a state that it does not use."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.layer(x).to(x.dtype), state


def timm_names() -> list[str]:
    """The names of timm's layers that keep the shape; none where timm is not installed."""
    return list(_KEEP_SHAPE) if importlib.util.find_spec("timm") else []


def create_timm(name: str, channels: int, **keywords: Any) -> TimmAttention:
    """Build timm's attention layer `name` and see that it keeps the shape of its input.

    Raises:
        ValueError: if timm is missing, the name or an option is unknown, or the layer does not serve.
    """
    try:
        from timm.layers import create_attn, get_attn
    except ImportError:
        needs = "needs the package timm: install it with `pip install timm`"
        raise ValueError(f"The attention module 'timm:{name}' {needs}.") from None
    try:
        layer_class = get_attn(name)
    except AssertionError:  # timm's way of saying that it has no such layer
        layer_class = None
    if layer_class is None:
        raise ValueError(f"timm has no attention layer {name!r}. {suggest(name, _KEEP_SHAPE)}")
    check_keywords(f"timm's attention layer {name!r}", layer_class, keywords)
    what = f"timm's attention layer {name!r} with {channels} channels and the options {keywords}"
    try:
        layer = create_attn(name, channels, **keywords)
    except Exception as error:  # layers assert, and raise whatever else, on options that they cannot do
        raise ValueError(f"{what} could not be built: {type(error).__name__}: {error}") from error
    # A layer that is told the size of its maps cannot do others.
    sizes = [keywords["feat_size"]] if "feat_size" in keywords else _PROBE_SIZES
    _probe(what, layer, channels, sizes)
    return TimmAttention(layer)


@torch.no_grad()
def _probe(what: str, layer: nn.Module, channels: int, sizes: Iterable[tuple[int, int]]) -> None:
    """Raise a ValueError unless the layer keeps the shape of maps of these sizes."""
    layer.eval()  # BatchNorm statistics must not see the probe
    for height, width in sizes:
        x = torch.zeros(1, channels, height, width)
        try:
            y = layer(x)
        except Exception as error:
            raise ValueError(f"{what} fails on a map of {height}x{width}: {type(error).__name__}: {error}") from error
        before, after = tuple(x.shape), tuple(getattr(y, "shape", ()))
        if after != before:
            raise ValueError(f"{what} turns the shape {before} into {after}; attention must keep the shape.")
    layer.train()

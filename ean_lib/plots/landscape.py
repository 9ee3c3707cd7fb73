"""The value of every scheme in one picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ean_lib.plots.palette import BLUE
from ean_lib.schemes import Scheme

# Of each group: the first stages that belong to it, its colour, its marker, its label in the legend.
Groups = Sequence[tuple[Sequence[int], str, str, str]]


def first_stage(scheme: Scheme) -> int:
    """The first stage, counted from 1, with a connected block; 0 if there is none."""
    for stage, bits in enumerate(scheme.per_stage, start=1):
        if any(bits):
            return stage
    return 0


def jitter(count: int, reach: float = 0.3) -> np.ndarray:
    """Small shifts (count,) that keep points of one place apart; the same ones in every call."""
    return np.random.default_rng(0).uniform(-reach, reach, count)


def landscape(
    axis: Axes,
    values: Mapping[Scheme, float],
    along: str = "connected",
    groups: Groups | None = None,
    medians: bool = False,
) -> None:
    """Draw every scheme as a point.

    Args:
        values: scheme -> accuracy (%).
        along: "connected" places the schemes by their number of connections, "rank" from the best to the worst.
        groups: which first stages share a colour, such as `STAGE_GROUPS`; all schemes look alike where none are given.
        medians: draw a line at the median of each number of connections.

    Raises:
        ValueError: if `along` is neither of the two.
    """
    if along not in ("connected", "rank"):
        raise ValueError(f"schemes are drawn along 'connected' or 'rank', not along {along!r}")
    named = list(values)
    if along == "rank":
        named.sort(key=lambda scheme: -values[scheme])
        places = np.arange(len(named), dtype=float)
    else:
        connected = np.array([scheme.connected for scheme in named])
        places = connected + jitter(len(named))
    heights = np.array([values[scheme] for scheme in named])
    if groups is None:
        axis.plot(places, heights, "o", color=BLUE, ms=3, alpha=0.7)
    else:
        stage = np.array([first_stage(scheme) for scheme in named])
        for members, colour, marker, label in groups:
            chosen = np.isin(stage, members)
            axis.plot(places[chosen], heights[chosen], marker, color=colour, label=label, ms=5)
    if medians and along == "connected":
        for count in np.unique(connected):
            middle = np.median(heights[connected == count])
            axis.plot([count - 0.35, count + 0.35], [middle, middle], color="black", lw=2)
    axis.set_xlabel("connected blocks" if along == "connected" else "rank of the scheme")
    axis.grid(alpha=0.3)

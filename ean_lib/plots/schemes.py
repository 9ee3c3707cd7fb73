"""Connection schemes as rows of squares, block after block."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ean_lib.plots.palette import CONNECTED, GREY
from ean_lib.schemes import Scheme

GAP = 0.7  # between two stages, in squares


def schemes(axis: Axes, named: Mapping[str, Scheme]) -> None:
    """Draw schemes of the same stages below each other; a connected block is filled and has a 1.

    Raises:
        ValueError: if the schemes are of different networks.
    """
    stages = next(iter(named.values())).stages
    other = [name for name, scheme in named.items() if scheme.stages != stages]
    if other:
        raise ValueError(f"schemes of one figure need the same stages {stages}, but {other[0]} has another network")
    starts = [sum(stages[:number]) + GAP * number for number in range(len(stages))]
    for row, (name, scheme) in enumerate(named.items()):
        for start, bits in zip(starts, scheme.per_stage, strict=True):
            for block, connected in enumerate(bits):
                left, fill = start + block, CONNECTED if connected else "white"
                axis.add_patch(Rectangle((left, row), 0.86, 0.8, facecolor=fill, edgecolor=GREY))
                ink = "white" if connected else "black"
                axis.text(left + 0.43, row + 0.43, str(int(connected)), va="center", ha="center", color=ink)
        axis.text(-0.4, row + 0.4, name, ha="right", va="center", fontsize=11)
    for number, (start, depth) in enumerate(zip(starts, stages, strict=True), start=1):
        axis.text(start + depth / 2, -0.3, f"stage {number}", ha="center", fontsize=11)
    axis.set(xlim=(-2, starts[-1] + stages[-1] + 0.1), ylim=(len(named) - 0.1, -0.9))
    axis.axis("off")

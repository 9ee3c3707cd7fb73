"""A search over its steps: what the policy believes, what is drawn, what it is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ean_lib.plots.palette import BLUE, GREEN, GREY, ORANGE, PINK, YELLOW
from ean_lib.schemes import Scheme

BLOCK_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, GREY)
BLOCK_LINES = ("-", "--", ":", "-.")


def steps_of(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of the controller's steps; the last record of a search only says what it ends with."""
    return [record for record in history if "loss" in record]


def policy(axes: Sequence[Axes], history: Sequence[Mapping[str, Any]], stages: Sequence[int]) -> None:
    """The probability of connecting each block, step by step: one panel a stage, one line a block.

    Args:
        axes: as many as there are stages, below each other.
        history: `SearchResult.history`.
    """
    probabilities = np.array([record["probabilities"] for record in steps_of(history)])  # (steps, blocks)
    block = 0
    for number, (axis, depth) in enumerate(zip(axes, stages, strict=True), start=1):
        for place in range(depth):
            style = {"color": BLOCK_COLOURS[place % len(BLOCK_COLOURS)], "ls": BLOCK_LINES[place % len(BLOCK_LINES)]}
            axis.plot(probabilities[:, block], lw=2, label=f"block {place + 1}", **style)
            block += 1
        axis.set_ylim(-0.03, 1.03)
        axis.set_title(f"stage {number}", fontsize=10)
        axis.grid(alpha=0.3)
    figure = axes[0].figure
    deepest = axes[int(np.argmax(stages))]  # it has a line for every place that a block can have
    figure.legend(*deepest.get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=9)
    figure.supylabel("probability of connecting", fontsize=10)
    axes[-1].set_xlabel("step of the controller")


def search_over_time(upper: Axes, lower: Axes, history: Sequence[Mapping[str, Any]], stages: Sequence[int]) -> None:
    """Above: the objectives of the schemes of each step, the baseline, the best so far. Below: what was drawn.

    Below, a row is a block, and the darker a cell the more of the step's schemes connect it; the lines part the stages.
    """
    steps = steps_of(history)
    objectives = np.array([record["objectives"] for record in steps])  # (steps, schemes a step)
    upper.plot(objectives[:, 1:], "o", color=GREY, ms=3)
    upper.plot(objectives[:, 0], "o", color=GREY, ms=3, label="sampled schemes")
    upper.plot([record["baseline"] for record in steps], color=BLUE, lw=2, label="baseline")
    upper.plot([record["best_objective"] for record in steps], "--", color=ORANGE, lw=2, label="best so far")
    upper.set_ylabel("objective (%)")
    upper.legend(loc="lower right")
    upper.grid(alpha=0.3)

    drawn = [[Scheme.parse(text).bits for text in record["schemes"]] for record in steps]
    share = np.array(drawn, dtype=float).mean(axis=1)  # (steps, blocks)
    lower.imshow(share.T, cmap="Blues", aspect="auto", vmin=0, vmax=1)
    blocks = sum(stages)
    lower.set_yticks(range(blocks), range(1, blocks + 1))
    for edge in np.cumsum(stages)[:-1]:
        lower.axhline(edge - 0.5, color=ORANGE, lw=1)
    lower.set_ylabel("block")
    lower.set_xlabel("step of the controller")

"""Networks side by side: backbone, Org-full, Share-full, EAN and the controls of its sparsity."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ean_lib.plots.palette import FORM_COLOURS, FORM_MARKERS, GREY, MODULE_MARKERS


def style_of(form: str) -> dict[str, str]:
    """Colour and marker of a form, also of a label such as "EAN (found)"; an unknown one is a grey hexagon."""
    known = form.lower().split(" (")[0]
    return {"color": FORM_COLOURS.get(known, GREY), "marker": FORM_MARKERS.get(known, "h")}


def forms(
    axis: Axes,
    frame: pd.DataFrame,
    order: Sequence[str] | None = None,
    value: str = "accuracy",
    spread: tuple[str, str] | None = None,
) -> None:
    """Every seed's dot for each form, and a bar at their mean; no box hides that there are two groups of dots.

    Args:
        frame: one row a run, with a column `form` and the column `value`.
        order: the forms from left to right; by default those of the frame, in the order of the paper's tables.
        spread: the columns with the lower and upper end of each dot; then lines are drawn and no mean.
    """
    known = [form for form in FORM_COLOURS if form in set(frame.form)]
    order = order or [*known, *sorted(set(frame.form) - set(known))]
    for place, form in enumerate(order):
        runs = frame[frame.form == form]
        values = runs[value].to_numpy()
        width = 0.25 if spread else 0.15
        aside = np.linspace(-width, width, len(values)) if len(values) > 1 else np.zeros(len(values))
        if spread:
            ends = [values - runs[spread[0]], runs[spread[1]] - values]
            axis.errorbar(place + aside, values, ends, ls="", lw=1, **style_of(form))
            continue
        axis.plot(place + aside, values, ls="", ms=7, alpha=0.8, **style_of(form))
        axis.hlines(values.mean(), place - 0.3, place + 0.3, color="black", lw=1)
    axis.set_xticks(range(len(order)), order)
    axis.grid(axis="y", alpha=0.3)


def time_increments(axis: Axes, medians: Mapping[str, float], quartiles: Mapping[str, tuple[float, float]]) -> None:
    """A bar per form for its relative time increment, and a thin line between the quartiles of the rounds.

    Args:
        medians: form -> fraction of the backbone's time.
        quartiles: form -> (lower, upper), fractions.
    """
    for form, median in medians.items():
        low, high = quartiles[form]
        reach = [[100 * (median - low)], [100 * (high - median)]]
        axis.barh(form, 100 * median, color=style_of(form)["color"], xerr=reach, capsize=4)
    axis.set_xlabel("relative time increment (%)")
    axis.axvline(0, color="black", lw=0.8)
    axis.invert_yaxis()


def accuracy_against_cost(axis: Axes, table: pd.DataFrame) -> None:
    """Mean accuracy ± standard deviation against the time increment, or against connections where no time is known.

    Args:
        table: one row a form, with the columns form, attention, accuracy, std, connected and time_increment.
    """
    timed = bool(table.time_increment.notna().all())
    modules = list(dict.fromkeys(table.attention))
    spare = [marker for marker in "DvP*hX" if marker not in MODULE_MARKERS.values()]
    for row in table.itertuples():
        # The colour says the form and the marker the module.
        marker = MODULE_MARKERS.get(row.attention, spare[modules.index(row.attention) % len(spare)])
        x = 100 * row.time_increment if timed else row.connected
        style = {"color": style_of(row.form)["color"], "marker": marker, "ls": "", "capsize": 3}
        label = f"{row.attention} {row.form} {getattr(row, 'recipe', '')}".strip()
        axis.errorbar(x, row.accuracy, row.std, label=label, **style)
    axis.set_xlabel("relative time increment (%)" if timed else "connected blocks")
    axis.set_ylabel("test accuracy (%), mean ± std")
    axis.grid(alpha=0.3)

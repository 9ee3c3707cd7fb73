"""A figure of the width of the book's column."""

from typing import Any

from matplotlib import pyplot
from matplotlib.figure import Figure

WIDTH = 6.4  # inches; a page shows it as wide as its column


def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A new figure and its axes: one, or an array of them where there are several rows or columns.

    Args:
        height: inches; the width is `WIDTH`.
        options: for `matplotlib.pyplot.subplots`, such as sharex, sharey and width_ratios.
    """
    return pyplot.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **options)

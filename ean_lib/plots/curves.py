"""Lines over steps, pictures seen or a budget."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ean_lib.plots.palette import BLUE, GREEN, GREY, ORANGE, PINK, YELLOW

COLOURS = (BLUE, ORANGE, GREEN, GREY, PINK, YELLOW)
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def curves(
    axis: Axes,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    colours: Mapping[str, str] | None = None,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> None:
    """Draw named curves, each in a colour and a line style of its own.

    Args:
        lines: label -> (x, y).
        colours: label -> colour, where something has a colour of its own in the book; the rest take the palette's.
        bands: label -> (low, high) over the same x, drawn pale behind the curve of that label.
    """
    for number, (label, (x, y)) in enumerate(lines.items()):
        colour = (colours or {}).get(label, COLOURS[number % len(COLOURS)])
        axis.plot(x, y, ls=LINES[number % len(LINES)], color=colour, lw=2, label=label)
        if bands and label in bands:
            low, high = bands[label]
            axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    axis.grid(alpha=0.3)

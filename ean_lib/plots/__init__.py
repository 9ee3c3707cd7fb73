"""Every figure that more than one chapter draws, and `ean report`, with one palette.

A function draws on the axes that it is given, so that a caller decides about sizes and neighbours; `canvas` makes axes
of the book's width. Nothing here trains, scores or reads a file.
"""

from ean_lib.plots.canvas import WIDTH, canvas
from ean_lib.plots.curves import curves
from ean_lib.plots.forms import accuracy_against_cost, forms, time_increments
from ean_lib.plots.landscape import first_stage, jitter, landscape
from ean_lib.plots.palette import (
    BLUE,
    CONNECTED,
    FORM_COLOURS,
    FORM_MARKERS,
    GREEN,
    GREY,
    METHOD_COLOURS,
    MODULE_COLOURS,
    MODULE_MARKERS,
    ORANGE,
    PINK,
    RIGHT,
    SEED_MARKERS,
    SKY,
    STAGE_GROUPS,
    WRONG,
    YELLOW,
)
from ean_lib.plots.pictures import outline, overlay, pictures, pictures_with_maps
from ean_lib.plots.schemes import schemes
from ean_lib.plots.searches import policy, search_over_time

__all__ = [
    "BLUE", "CONNECTED", "FORM_COLOURS", "FORM_MARKERS", "GREEN", "GREY", "METHOD_COLOURS", "MODULE_COLOURS",
    "MODULE_MARKERS", "ORANGE", "PINK", "RIGHT", "SEED_MARKERS", "SKY", "STAGE_GROUPS", "WIDTH", "WRONG", "YELLOW",
    "accuracy_against_cost", "canvas", "curves", "first_stage", "forms", "jitter", "landscape", "outline", "overlay",
    "pictures", "pictures_with_maps", "policy", "schemes", "search_over_time", "time_increments",
]  # fmt: skip

"""The picture of a connection scheme that stands for the explorer where no script runs: as SVG, and as PNG."""

from __future__ import annotations

import html
import io
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ean_lib.schemes import Scheme

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8A8A8A", "#222222"
BLOCK, GAP, HEIGHT = 66, 20, 168


def boxes(scheme: Scheme, attention: str) -> list[tuple[Any, ...]]:
    """The drawing of a network as rectangles: x, y, width, height, fill, edge, text in the middle, its colour.

    The first is the residual stream, as wide as all of it; a line is a thin rectangle.
    """
    drawn: list[tuple[Any, ...]] = [(0, 59, BLOCK * len(scheme) + GAP * len(scheme.stages), 2, INK, INK, "", INK)]
    x = GAP // 2
    for number, bits in enumerate(scheme.per_stage, start=1):
        width = BLOCK * len(bits)
        module = ("#FDF0E7", ORANGE) if any(bits) else ("#F4F4F4", GREY)
        drawn.append((x, 0, width, 24, "none", "none", f"stage {number}", INK))
        drawn.append((x + 4, 120, width - 8, 34, *module, f"shared {attention.upper()}".strip(), INK))
        for bit in bits:
            colour, ink = (ORANGE, ORANGE) if bit else (GREY, INK)
            drawn.append((x + 3, 28, 60, 32, "none", GREY, "", INK))  # the shortcut; the stream is its lower edge
            drawn.append((x + 31, 85, 4, 35 if bit else 19, colour, colour, "", ink))
            drawn.append((x + 8, 35, 50, 50, "#E8F1F8", BLUE, str(int(bit)), ink))
            x += BLOCK
        x += GAP
    return drawn


def draw_svg(scheme: Scheme, attention: str, description: str) -> str:
    """The network as an inline SVG; the same scheme gives the same text."""
    drawn = boxes(scheme, attention)
    width = drawn[0][2]
    parts = [
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{fill}" stroke="{edge}"/>'
        f'<text x="{x + w / 2}" y="{y + h / 2 + 6}" fill="{ink}">{html.escape(text)}</text>'
        for x, y, w, h, fill, edge, text, ink in drawn
    ]
    start = f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{html.escape(description)}"'
    font = 'font-family="sans-serif" font-size="16" text-anchor="middle"'
    return f'{start} {font} style="width:100%;max-width:{width}px;background:#fff">{"".join(parts)}</svg>'


def draw_png(scheme: Scheme, attention: str) -> bytes:
    """The network as a PNG, for what shows no HTML, such as LaTeX."""
    drawn = boxes(scheme, attention)
    width = drawn[0][2]
    figure = Figure(figsize=(width / 100, HEIGHT / 100), dpi=90)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(HEIGHT, 0))
    axes.axis("off")
    for x, y, w, h, fill, edge, text, ink in drawn:
        axes.add_patch(Rectangle((x, y), w, h, facecolor=fill, edgecolor=edge))
        axes.text(x + w / 2, y + h / 2, text, color=ink, ha="center", va="center", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

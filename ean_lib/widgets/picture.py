"""The picture of a connection scheme that stands for the explorer where no script runs."""

import html

from ean_lib.schemes import Scheme

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8A8A8A", "#222222"
BLOCK, GAP, HEIGHT = 66, 20, 168


def draw_scheme(scheme: Scheme, attention: str, description: str) -> str:
    """The network as an SVG, a square for each block and its bit in it; the same scheme gives the same text."""
    width = BLOCK * len(scheme) + GAP * len(scheme.stages)
    parts = [box(0, 59, width, 2, INK, INK)]  # the residual stream
    x = GAP // 2
    for number, bits in enumerate(scheme.per_stage, start=1):
        stage = BLOCK * len(bits)
        fill, edge = ("#FDF0E7", ORANGE) if any(bits) else ("#F4F4F4", GREY)
        parts.append(box(x, 0, stage, 24, text=f"stage {number}"))
        parts.append(box(x + 4, 120, stage - 8, 34, fill, edge, f"shared {attention.upper()}".strip()))
        for bit in bits:
            colour = ORANGE if bit else GREY
            parts.append(box(x + 3, 28, 60, 32, edge=GREY))  # the shortcut; the stream is its lower edge
            parts.append(box(x + 31, 85, 4, 35 if bit else 19, colour, colour))  # to the module, or broken off
            parts.append(box(x + 8, 35, 50, 50, "#E8F1F8", BLUE, str(int(bit))))
            x += BLOCK
        x += GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img"'
        f' aria-label="{html.escape(description)}" font-family="sans-serif" font-size="16" text-anchor="middle"'
        f' style="width:100%;max-width:{width}px;background:#fff">{"".join(parts)}</svg>'
    )


def box(x: int, y: int, width: int, height: int, fill: str = "none", edge: str = "none", text: str = "") -> str:
    """A rectangle with a text in its middle; a line is a thin one."""
    middle = f'x="{x + width / 2}" y="{y + height / 2 + 6}"'
    label = f'<text {middle} fill="{INK}">{html.escape(text)}</text>' if text else ""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="{edge}"/>{label}'

"""Draw book/_static/method.svg, the picture of a connection scheme that the README and the intro show.

    python tools/draw_method.py

Written as plain SVG so that it is small, sharp and the same everywhere; the scheme is drawn from the text below.
"""

from __future__ import annotations

from pathlib import Path

SCHEME = "110-0011-100"
TARGET = Path(__file__).resolve().parent.parent / "book" / "_static" / "method.svg"
BLUE, ORANGE, GREY, INK = (
    "#0072B2",
    "#D55E00",
    "#8a8a8a",
    "#222222",
)  # Okabe-Ito: safe for colour-blind readers

BLOCK, GAP, STAGE_GAP, TOP, MODULE_TOP = 50, 16, 44, 62, 168


def draw(scheme: str) -> str:
    """The SVG text: blocks in a row, one module under each stage, a line for every 1 and a dashed stub for every 0."""
    parts: list[str] = []
    x = 66
    line = f'<line x1="20" y1="{TOP + BLOCK / 2}" x2="{{end}}" y2="{TOP + BLOCK / 2}" stroke="{INK}" stroke-width="2"/>'
    for number, bits in enumerate(scheme.split("-"), start=1):
        left = x
        width = len(bits) * BLOCK + (len(bits) - 1) * GAP
        middle = left + width / 2
        parts.append(text(middle, TOP - 18, f"stage {number}", INK, 15))
        for bit in bits:
            centre = x + BLOCK / 2
            connected = bit == "1"
            colour, dash = (ORANGE, "") if connected else (GREY, ' stroke-dasharray="3 5"')
            end = MODULE_TOP if connected else MODULE_TOP - 28
            parts.append(
                f'<line x1="{centre}" y1="{TOP + BLOCK}" x2="{centre}" y2="{end}" stroke="{colour}" '
                f'stroke-width="{4 if connected else 2}"{dash}/>'
            )
            parts.append(
                f'<rect x="{x}" y="{TOP}" width="{BLOCK}" height="{BLOCK}" rx="6" fill="#e8f1f8" stroke="{BLUE}" '
                'stroke-width="2"/>'
            )
            parts.append(text(centre, TOP + 33, bit, ORANGE if connected else GREY, 20, "bold"))
            x += BLOCK + GAP
        parts.append(
            f'<rect x="{left}" y="{MODULE_TOP}" width="{width}" height="40" rx="6" fill="#fdf0e7" stroke="{ORANGE}" '
            'stroke-width="2"/>'
        )
        parts.append(text(middle, MODULE_TOP + 26, "one shared module", INK, 14))
        x += STAGE_GAP - GAP
    end = x - STAGE_GAP + 46
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {end + 20} 262" font-family="sans-serif" role="img" '
        f'aria-label="Residual blocks in three stages with the connection scheme {scheme}">'
        f'<rect width="{end + 20}" height="262" rx="8" fill="#ffffff"/>'
    )
    arrow = f'<path d="M{end} {TOP + BLOCK / 2} l-10 -5 v10 z" fill="{INK}"/>'
    foot = text(
        (end + 20) / 2,
        242,
        f"connection scheme {scheme}: which blocks call the module of their stage",
        INK,
        15,
    )
    return "\n".join([head, line.format(end=end - 8), arrow, *parts, foot, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, colour: str, size: int, weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="middle">{words}</text>'
    )


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(draw(SCHEME), encoding="utf-8")

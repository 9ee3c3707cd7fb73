"""How long each chapter is: lines of code in view and folded away, words of prose, figures, widgets, exercises.

    python tools/chapter_sizes.py
    python tools/chapter_sizes.py book/03_supernet.ipynb

A cell with the tag `hide-input` (or `hide-cell`) is folded: its output is in view, its code one click away. Words are
those of the running text: formulas, code, options of directives and the folded solutions are not counted.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import nbformat

BOOK = Path(__file__).resolve().parent.parent / "book"
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
# What stands in a Markdown cell and is no running text, in the order in which it is taken out.
NOT_PROSE = (
    r"^````\{solution\}.*?^````$",  # folded
    r"^```\w+\n.*?^```$",  # code
    r"^:\w[\w-]*:.*$",  # an option of a directive
    r"^(`{3,}|:{3,})(\{\w[\w-]*\})?",  # the fence of a directive; its title and text stay
    r"\$\$.*?\$\$",
    r"\$[^$\n]+\$",
    r"\{[a-z]+(:[a-z]+)?\}`[^`]*`",  # a role, such as a citation
    r"(?<=\])\([^)]*\)",  # where a link leads
)


@dataclass(frozen=True)
class Size:
    """What a reader of a chapter meets."""

    visible: int  # lines of code that a reader sees
    folded: int  # lines of code one click away
    words: int  # of the running text
    figures: int
    widgets: int
    exercises: int


def prose(markdown: str) -> str:
    """The running text of a Markdown cell."""
    for pattern in NOT_PROSE:
        markdown = re.sub(pattern, " ", markdown, flags=re.M | re.S)
    return markdown


def is_widget(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell shows something to play with."""
    return bool(re.search(r"\b(SchemeExplorer|MapViewer)\(", cell.source))


def size_of(notebook: nbformat.NotebookNode) -> Size:
    visible = folded = words = figures = widgets = exercises = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words += len(re.findall(r"\w[\w'’.,-]*", prose(cell.source)))
        if cell.cell_type != "code":
            continue
        tags = set(cell.metadata.get("tags", []))
        lines = sum(bool(line.strip()) for line in cell.source.splitlines())
        if tags & FOLDED:
            folded += lines
        else:
            visible += lines
        figures += "figure" in cell.metadata.get("mystnb", {})
        widgets += is_widget(cell)
        exercises += "exercise" in tags
    return Size(visible, folded, words, figures, widgets, exercises)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", type=Path, help="notebooks; all of book/ if none is named")
    paths = parser.parse_args().chapters or sorted(BOOK.glob("[0-9]*.ipynb"))
    names = [field.name for field in fields(Size)]
    print(f"{'chapter':24}" + "".join(f"{name:>10}" for name in names))
    sizes = [size_of(nbformat.read(path, as_version=4)) for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        print(f"{path.stem:24}" + "".join(f"{number:10,}" for number in astuple(size)))
    totals = [sum(column) for column in zip(*map(astuple, sizes), strict=True)]
    print(f"{'all':24}" + "".join(f"{number:10,}" for number in totals))
    return 0


if __name__ == "__main__":
    sys.exit(main())

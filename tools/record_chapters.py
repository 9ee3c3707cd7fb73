"""Keep what a long execution of the chapters printed, and show how long it took on the book's status page.

    make book DATASET=cifar10 PRESET=full
    python tools/record_chapters.py _build/executed --into book/results/cifar10_chapters

Chapters may be executed one by one: those that were recorded before stay. Of each executed chapter its printed output
is kept as text, and of the execution its run times, parameters, machine and versions. Figures and widgets are left out:
they are large, and the same command draws them again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

import nbformat
from execute_book import BOOK, show_in_status

from ean_lib.runs import to_json, write_atomically

PAGE = BOOK / "status.md"
BEGIN, END = "% recorded chapters: written by tools/record_chapters.py", "% end of the recorded chapters"


def printed(notebook: nbformat.NotebookNode) -> str:
    """What the code cells printed, in order, and the text form of the tables that they showed."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            if text and not re.match(r"<.*>$|\w+\(", text.strip()):  # the repr of a figure, an animation or a widget
                texts.append(text.rstrip() + "\n")
    return "\n".join(texts)


def table(rows: dict[str, dict[str, str | float]], into: Path) -> list[str]:
    """The lines of the record's table on the status page."""
    folder = os.path.relpath(into.resolve(), PAGE.parent)
    lines = ["| chapter | min | date | printed |", "|---|---:|---|---|"]
    for name, row in rows.items():
        text = f"{{download}}`{name[:2]}.txt <{folder}/{name}.txt>`"  # narrow enough for a phone
        lines.append(f"| [](./{name}.ipynb) | {row['seconds'] / 60:.1f} | {row['date']} | {text} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executed", type=Path, help="the build folder of the execution")
    parser.add_argument("--into", type=Path, required=True, help="the folder of the record, below book/results/")
    arguments = parser.parse_args()

    status = json.loads((arguments.executed / "status.json").read_text())
    rows = {name: row for name, row in status.items() if row["parameters"] != "as they stand"}
    if not rows:
        print(f"No chapter in {arguments.executed} was executed with parameters of its own.", file=sys.stderr)
        return 2
    arguments.into.mkdir(parents=True, exist_ok=True)
    record = arguments.into / "status.json"
    for name in rows:
        notebook = nbformat.read(arguments.executed / f"{name}.ipynb", as_version=4)
        write_atomically(arguments.into / f"{name}.txt", printed(notebook))
    rows = (json.loads(record.read_text()) if record.exists() else {}) | rows
    rows = dict(sorted(rows.items()))
    write_atomically(record, to_json(rows))
    facts = ("parameters", "machine", "versions")
    show_in_status(PAGE, BEGIN, END, table(rows, arguments.into), rows, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())

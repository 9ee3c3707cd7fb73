"""Execute the book's chapters with papermill: into a build folder, or in place to commit their outputs.

    python tools/execute_book.py --into _build/executed PRESET=full DATASET=cifar10
    python tools/execute_book.py --in-place book/00_ten_minutes.ipynb

A parameter with an empty value keeps the chapter's own. Without chapters all are executed, ordered by name, each in an
empty working directory, because a chapter runs alone from wherever it is. How long each took, and on what, is written
into the book's status page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
from traitlets.config import Config

from ean_lib.runs import environment

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BEGIN, END = "% run times: written by tools/execute_book.py", "% end of the run times"


def parse_parameters(words: list[str]) -> dict[str, str | int]:
    """`["SEED=1", "DATASET="]` -> `{"SEED": 1}`: what papermill is to set in a chapter."""
    pairs = (word.split("=", 1) for word in words)
    return {name: int(value) if value.isdecimal() else value for name, value in pairs if value}


def join_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Put together what a cell printed: a kernel sends it in pieces, wherever its buffer happened to end."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.get("name") == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def strip_execution_traces(path: Path) -> None:
    """Remove what differs from run to run but is no result, so that a diff shows results."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)  # it would look for a state that is not kept
    nbformat.write(notebook, path)


def execute(chapter: Path, output: Path, parameters: dict[str, str | int], folder: str) -> float:
    """Run one chapter with this working directory and return the seconds that it took."""
    known = papermill.inspect_notebook(str(chapter))
    chosen = {name: value for name, value in parameters.items() if name in known}
    options = {"kernel_name": "python3", "cwd": folder, "progress_bar": False}
    # A pipe of this machine instead of a network port, about which the kernel would warn.
    options["config"] = Config(KernelManager={"transport": "ipc"})
    start = time.perf_counter()
    papermill.execute_notebook(str(chapter), str(output), parameters=chosen, **options)
    return time.perf_counter() - start


def write_status(book: Path, seconds: dict[str, float], parameters: dict[str, str | int]) -> None:
    """Put these run times into status.json, beside those of other chapters, and draw the table of status.md from it."""
    record = book / "status.json"
    rows = json.loads(record.read_text()) if record.exists() else {}
    here = environment()
    versions = ", ".join(f"{name} {here['versions'][name]}" for name in ("torch", "torchvision", "numpy"))
    machine = f"{here['device']}, threads: {here['threads']}"
    for chapter, time_taken in seconds.items():
        rows[chapter] = {
            "seconds": time_taken,
            "date": here["started"][:10],
            "parameters": " ".join(f"{name}={value}" for name, value in parameters.items()) or "as they stand",
            "machine": machine,
            "versions": f"Python {here['python']}, {versions}",
        }
    rows = {path.stem: rows[path.stem] for path in sorted(book.glob("[0-9]*.ipynb")) if path.stem in rows}
    record.write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| chapter | seconds | executed on | parameters |", "|---|---:|---|---|"]
    for name, row in rows.items():
        lines.append(f"| [](./{name}.ipynb) | {row['seconds']:.0f} | {row['date']} | {row['parameters']} |")
    for label, key in (("Machine", "machine"), ("Versions", "versions")):
        lines += ["", f"{label}: {'; '.join(dict.fromkeys(row[key] for row in rows.values()))}."]
    page = book / "status.md"
    before, after = page.read_text().split(BEGIN)[0], page.read_text().split(END)[1]
    page.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--into", type=Path, help="copy book/ to this folder and execute the chapters there")
    where.add_argument("--in-place", action="store_true", help="execute the chapters where they lie")
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE or CHAPTER")
    arguments = parser.parse_args()

    parameters = parse_parameters([word for word in arguments.words if "=" in word])
    chapters = [Path(word).resolve() for word in arguments.words if "=" not in word]
    chapters = chapters or sorted(BOOK.glob("[0-9]*.ipynb"))
    unknown = [str(chapter) for chapter in chapters if chapter.parent != BOOK or not chapter.is_file()]
    if unknown:
        print(f"These are not chapters in {BOOK.name}/: {', '.join(unknown)}.", file=sys.stderr)
        return 2
    target = BOOK
    if arguments.into:
        target = arguments.into.resolve()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(BOOK, target, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "_build"))

    seconds = {}
    for chapter in chapters:
        print(f"{chapter.name} ...", end=" ", flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                seconds[chapter.stem] = round(execute(chapter, target / chapter.name, parameters, folder), 1)
        except papermill.PapermillExecutionError as error:
            print(f"failed.\n{error}", file=sys.stderr)
            return 1
        strip_execution_traces(target / chapter.name)
        print(f"{seconds[chapter.stem]} s", flush=True)
    write_status(target, seconds, parameters)
    return 0


if __name__ == "__main__":
    sys.exit(main())

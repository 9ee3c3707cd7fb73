"""Execute the book's chapters with papermill: into a build folder, or in place to commit their outputs.

    python tools/execute_book.py --into _build/executed PRESET=full DATASET=cifar10
    python tools/execute_book.py --in-place book/00_ten_minutes.ipynb

The build folder must be new, empty, or an earlier one of this program: of that, only what the program put there is
replaced. A parameter with an empty value keeps the chapter's own. Without chapters all are executed, each in an empty
working directory, because a chapter runs alone from wherever it is. Small networks gain little from a second thread, so
into a build folder as many chapters run at once as there are cores, the longest first; in place they run one by one,
because the times that they measure are committed. How long each took, and on what, is written into the book's status
page.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import nbformat
import papermill
from traitlets.config import Config

from ean_lib.runs import environment, write_atomically

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# Lies in a build folder, and lists the files that were put there: nothing else in it is ever deleted.
MARKER = ".execute_book"
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


def copy_book(book: Path, target: Path) -> None:
    """Copy the book into a build folder, in place of what an earlier call put there.

    Raises:
        ValueError: if the folder is the book, is around or inside it, or holds something and was not made by this
            function; nothing has been touched then.
    """
    if target == book or target in book.parents or book in target.parents:
        raise ValueError(f"{target} is not a place for built chapters: it is, contains or lies in {book}")
    marker = target / MARKER
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; give a folder that is new or empty")
    if target.is_dir() and any(target.iterdir()) and not marker.is_file():
        raise ValueError(
            f"{target} holds files that this program did not put there; give a folder that is new or empty, "
            "or remove them yourself"
        )
    if marker.is_file():
        for name in marker.read_text().splitlines():
            copied_before = (target / name).resolve()
            if copied_before.is_relative_to(target.resolve()):  # a marker written by hand may point elsewhere
                copied_before.unlink(missing_ok=True)
    ignored = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "_build")
    shutil.copytree(book, target, ignore=ignored, dirs_exist_ok=True)
    copied = sorted(path.relative_to(book) for path in book.rglob("*") if path.is_file())
    write_atomically(marker, "".join(f"{path.as_posix()}\n" for path in copied if (target / path).is_file()))


def execute(chapter: Path, output: Path, parameters: dict[str, str | int], threads: int) -> float:
    """Run one chapter in an empty folder, with that many threads, and return the seconds that it took."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    known = papermill.inspect_notebook(str(chapter))
    chosen = {name: value for name, value in parameters.items() if name in known}
    # A pipe of this machine instead of a network port, about which the kernel would warn.
    options = {"kernel_name": "python3", "config": Config(KernelManager={"transport": "ipc"}), "progress_bar": False}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        papermill.execute_notebook(str(chapter), str(output), parameters=chosen, cwd=folder, **options)
    seconds = round(time.perf_counter() - start, 1)
    strip_execution_traces(output)
    return seconds


def recorded(book: Path) -> dict[str, dict[str, str | float]]:
    """What status.json says of each chapter's last execution."""
    record = book / "status.json"
    return json.loads(record.read_text()) if record.exists() else {}


def show_in_status(
    page: Path, begin: str, end: str, table: list[str], rows: dict[str, dict[str, str | float]], facts: tuple[str, ...]
) -> None:
    """Put a table between two comment lines of the status page, and below it the facts of its rows, each once."""
    lines = list(table)
    for fact in facts:
        lines += ["", f"{fact.capitalize()}: {'; '.join(dict.fromkeys(row[fact] for row in rows.values()))}."]
    before, after = page.read_text().split(begin)[0], page.read_text().split(end)[1]
    write_atomically(page, before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + after)


def write_status(
    book: Path, seconds: dict[str, float], parameters: dict[str, str | int], threads: int, at_once: int
) -> None:
    """Put these run times into status.json, beside those of other chapters, and draw the table of status.md from it."""
    rows = recorded(book)
    here = environment()
    versions = ", ".join(f"{name} {here['versions'][name]}" for name in ("torch", "torchvision", "numpy"))
    machine = f"{here['device']}, threads: {threads}" + (f", {at_once} chapters at once" if at_once > 1 else "")
    for chapter, time_taken in seconds.items():
        rows[chapter] = {
            "seconds": time_taken,
            "date": here["started"][:10],
            "parameters": " ".join(f"{name}={value}" for name, value in parameters.items()) or "as they stand",
            "machine": machine,
            "versions": f"Python {here['python']}, {versions}",
        }
    rows = {path.stem: rows[path.stem] for path in sorted(book.glob("[0-9]*.ipynb")) if path.stem in rows}
    (book / "status.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| chapter | seconds | executed on | parameters |", "|---|---:|---|---|"]
    for name, row in rows.items():
        lines.append(f"| [](./{name}.ipynb) | {row['seconds']:.0f} | {row['date']} | {row['parameters']} |")
    show_in_status(book / "status.md", BEGIN, END, lines, rows, ("machine", "versions"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--into", type=Path, help="copy book/ to this folder and execute the chapters there")
    where.add_argument("--in-place", action="store_true", help="execute the chapters where they lie")
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE or CHAPTER")
    arguments = parser.parse_args(arguments)

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
        try:
            copy_book(BOOK, target)
        except ValueError as error:
            print(f"Nothing was done: {error}.", file=sys.stderr)
            return 2

    rows, cores = recorded(BOOK), environment()["threads"]
    chapters.sort(key=lambda chapter: -rows.get(chapter.stem, {}).get("seconds", 0))
    at_once = min(cores, len(chapters)) if arguments.into else 1
    threads = max(1, cores // at_once)
    seconds = {}
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(execute, c, target / c.name, parameters, threads): c for c in chapters}
        for future in as_completed(futures):
            chapter = futures[future]
            try:
                seconds[chapter.stem] = future.result()
            except papermill.PapermillExecutionError as error:
                print(f"{chapter.name} failed.\n{error}", file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                return 1
            print(f"{chapter.name} took {seconds[chapter.stem]} s", flush=True)
    write_status(target, seconds, parameters, threads, at_once)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Execute the book's chapters with papermill: into a build folder, or in place to commit their outputs.

    python tools/execute_book.py --into _build/executed PRESET=full DATASET=cifar10
    python tools/execute_book.py --in-place book/00_ten_minutes.ipynb

A parameter with an empty value keeps the chapter's own. Without chapters all are executed, ordered by name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"


def parse_parameters(words: list[str]) -> dict[str, str | int]:
    """`["SEED=1", "DATASET="]` -> `{"SEED": 1}`: what papermill is to set in a chapter."""
    pairs = (word.split("=", 1) for word in words)
    return {name: int(value) if value.isdecimal() else value for name, value in pairs if value}


def strip_execution_traces(path: Path) -> None:
    """Remove what differs from run to run but is no result, so that a diff shows results."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    nbformat.write(notebook, path)


def execute(chapter: Path, output: Path, parameters: dict[str, str | int]) -> float:
    """Run one chapter with its own folder as working directory and return the seconds that it took."""
    known = papermill.inspect_notebook(str(chapter))
    chosen = {name: value for name, value in parameters.items() if name in known}
    start = time.perf_counter()
    papermill.execute_notebook(
        str(chapter),
        str(output),
        parameters=chosen,
        kernel_name="python3",
        cwd=str(output.parent),
        progress_bar=False,
    )
    return time.perf_counter() - start


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
            seconds[chapter.stem] = round(execute(chapter, target / chapter.name, parameters), 1)
        except papermill.PapermillExecutionError as error:
            print(f"failed.\n{error}", file=sys.stderr)
            return 1
        strip_execution_traces(target / chapter.name)
        print(f"{seconds[chapter.stem]} s", flush=True)
    if arguments.into:
        (target / "run_times.json").write_text(json.dumps(seconds, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

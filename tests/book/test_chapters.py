"""What every chapter promises, read from the committed notebook; `pytest --nbval book/` compares outputs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

BOOK = Path(__file__).resolve().parent.parent.parent / "book"
CHAPTERS = sorted(BOOK.glob("[0-9]*.ipynb"))
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list[nbformat.NotebookNode]:
    """The cells of one kind that are not empty."""
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind and cell.source.strip()]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def images(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that are shown as a picture."""
    return [o for o in cell.outputs if any(mime.startswith("image/") for mime in o.get("data", {}))]


def test_there_are_chapters():
    assert CHAPTERS


@every_chapter
def test_a_chapter_is_a_valid_notebook(path):
    nbformat.validate(nbformat.read(path, as_version=4))


@every_chapter
def test_a_chapter_starts_with_bootstrap_parameters_and_header_card(path):
    bootstrap, parameters = cells(path)[:2]
    assert 'find_spec("ean_lib")' in bootstrap.source
    assert "parameters" in tags(parameters)
    names = {target.id for node in ast.parse(parameters.source).body for target in node.targets}
    assert {"PRESET", "DATASET", "SEED", "DEVICE"} <= names
    card = "\n".join(cell.source for cell in cells(path, "markdown")[:4])
    for word in ("will be able to", "Prerequisites", "2 CPU cores", "GPU", "Download"):
        assert word in card, f"the header card does not say '{word}'"


@every_chapter
def test_the_bootstrap_cell_finds_a_clone_that_is_not_installed(path):
    """In the folder of the chapter, with an environment in which ean_lib is not installed."""
    hide = "import sys; root = sys.argv[1]; sys.path = [p for p in sys.path if p != root]\n"
    hide += "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in str(finder)]\n"
    check = "\nimport ean_lib; assert ean_lib.__file__.startswith(root)"
    command = [sys.executable, "-I", "-c", hide + cells(path)[0].source + check, str(BOOK.parent)]
    done = subprocess.run(command, cwd=BOOK, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@every_chapter
def test_a_chapter_was_executed_in_order_without_an_error(path):
    code = cells(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs), "a warning or a progress bar was committed"


@every_chapter
def test_at_least_half_of_the_code_cells_are_compared_strictly(path):
    code = cells(path)
    ignored = [cell for cell in code if {"nbval-ignore-output", "nbval-skip"} & set(tags(cell))]
    assert 2 * len(ignored) <= len(code), f"{len(ignored)} of {len(code)} are ignored"


@every_chapter
def test_an_ignored_cell_is_followed_by_a_visible_check(path):
    code = cells(path)
    for number, cell in enumerate(code):
        if "nbval-ignore-output" in tags(cell) and not images(cell):
            following = "\n".join(later.source for later in code[number : number + 3])
            assert re.search(r"\bassert\b|\bcheck", following), f"no check after: {cell.source[:80]}"


@every_chapter
def test_every_figure_has_a_number_a_caption_and_alt_text(path):
    for cell in cells(path):
        if images(cell):
            options = cell.metadata.get("mystnb", {})
            figure, alt = options.get("figure", {}), options.get("image", {}).get("alt", "")
            assert len(images(cell)) == 1, f"one figure per cell: {cell.source[:80]}"
            assert len(figure.get("caption", "")) > 20, f"no caption: {cell.source[:80]}"
            assert figure.get("name", "").startswith("fig-"), f"no name: {cell.source[:80]}"
            assert len(alt) > 20, f"no alt text: {cell.source[:80]}"


@every_chapter
def test_a_committed_chapter_is_small_and_carries_no_widget_state(path):
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in json.loads(path.read_text())["metadata"]

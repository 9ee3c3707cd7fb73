"""What every chapter promises, read from the committed notebook; `pytest --nbval book/` compares outputs."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent.parent
BOOK = ROOT / "book"
CHAPTERS = sorted(BOOK.glob("[0-9]*.ipynb"))
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list[nbformat.NotebookNode]:
    """The cells of one kind that are not empty."""
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind and cell.source.strip()]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def exercises(path: Path) -> list[tuple[nbformat.NotebookNode, nbformat.NotebookNode]]:
    """Of each exercise the folded cell with its check, and the cell that a reader writes in."""
    return [pair for pair in pairwise(cells(path)) if "exercise" in tags(pair[1])]


def repository() -> str:
    """The address that the chapters install from, or nothing."""
    found = re.search(r"%pip install --quiet git\+(\S+)", cells(CHAPTERS[0])[0].source)
    return found[1] if found else ""


def solutions(path: Path) -> dict[str, str]:
    """The code of each solution of a chapter, by the label of its exercise."""
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    blocks = re.findall(r"^````{solution} (\S+)\n(.*?)^````$", text, flags=re.M | re.S)
    return {label: "\n".join(re.findall(r"^```python\n(.*?)^```$", body, flags=re.M | re.S)) for label, body in blocks}


def images(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that are shown as a picture, which those that have an HTML form are not."""
    data = [(output, output.get("data", {})) for output in cell.outputs]
    return [o for o, d in data if "text/html" not in d and any(mime.startswith("image/") for mime in d)]


def test_there_are_chapters():
    assert CHAPTERS


@every_chapter
def test_a_chapter_is_a_valid_notebook(path):
    nbformat.validate(nbformat.read(path, as_version=4))


@every_chapter
def test_a_chapter_starts_with_bootstrap_parameters_and_header_card(path):
    bootstrap, parameters = cells(path)[:2]
    assert 'find_spec("ean_lib")' in bootstrap.source and len(bootstrap.source.splitlines()) == 3
    assert "parameters" in tags(parameters)
    names = {target.id for node in ast.parse(parameters.source).body for target in node.targets}
    assert {"PRESET", "DATASET", "SEED", "DEVICE"} <= names
    card = "\n".join(cell.source for cell in cells(path, "markdown")[:4])
    for word in ("will be able to", "Prerequisites", "2 CPU cores", "GPU", "Download"):
        assert word in card, f"the header card does not say '{word}'"


@pytest.mark.parametrize("installed", [True, False])
def test_the_bootstrap_cell_installs_the_library_only_where_it_is_missing(monkeypatch, installed):
    """From the clone around the chapter, or from the repository, where one is set; all chapters have the same cell."""
    magics = []
    shell = SimpleNamespace(run_line_magic=lambda name, line: magics.append(f"{name} {line}"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    code = TransformerManager().transform_cell(cells(CHAPTERS[0])[0].source)
    exec(code, {"get_ipython": lambda: shell})
    source = f"git+{repository()}" if repository() else ".."
    assert magics == ([] if installed else [f"pip install --quiet {source} anywidget"])
    assert (BOOK / ".." / "pyproject.toml").is_file()  # a chapter in a clone is started in its own folder


@every_chapter
def test_a_chapter_imports_only_what_the_bootstrap_cell_brings(path):
    """The library's dependencies and anywidget; IPython is there wherever a notebook runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = {re.split(r"[<>=!]", entry)[0] for entry in project["dependencies"]}
    brought = {"PIL" if name == "pillow" else name for name in brought} | {"ean_lib", "anywidget", "IPython"}
    imported = set()
    for cell in cells(path)[1:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) <= brought


@every_chapter
def test_what_only_imports_draws_or_checks_an_exercise_is_folded(path):
    """Its output is in view, its code one click away."""
    code = cells(path)
    folded = [cell for cell in code if "hide-input" in tags(cell)]
    assert code[0] in folded and code[2] in folded  # the bootstrap and the imports, around the parameters
    for cell in code:
        draws = images(cell) or re.search(r"\b(SchemeExplorer|MapViewer)\(", cell.source)
        if draws or "exercise-check" in tags(cell) or re.search(r"\bload_record\(|\bload_bench\(", cell.source):
            assert cell in folded, f"not folded: {cell.source[:80]}"
        if "exercise" in tags(cell):
            assert cell not in folded, "an exercise is there to be written in"


@every_chapter
def test_a_chapter_was_executed_in_order_without_an_error(path):
    code = cells(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs), "a warning or a progress bar was committed"


@every_chapter
def test_what_a_cell_printed_is_in_one_piece(path):
    """A page shows every piece of a stream on a line of its own."""
    for cell in cells(path):
        kinds = [output.get("name", number) for number, output in enumerate(cell.outputs)]
        assert all(one != next_one for one, next_one in pairwise(kinds)), cell.source[:80]


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
    """A widget's view without its state shows nothing; its text/html form is complete."""
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in json.loads(path.read_text())["metadata"]
    assert "application/vnd.jupyter.widget-view" not in path.read_text()


@every_chapter
def test_a_chapter_reads_records_by_their_names_only(path):
    """So it needs no clone, and no chapter parses the files of a run."""
    code = "\n".join(cell.source for cell in cells(path))
    files = r"\b(config|result|provenance|measure)\.json\b|\bmetrics\.jsonl\b|\bresults\b.*/|load_network\("
    assert not re.search(files, code)


def test_all_chapters_start_with_the_same_bootstrap_cell():
    assert len({cells(path)[0].source for path in CHAPTERS}) == 1


@every_chapter
def test_each_exercise_fails_on_its_stub_and_passes_on_its_solution(path, monkeypatch):
    """What a reader sees who runs the cell untouched, and who runs it with the printed solution."""
    monkeypatch.chdir(BOOK)
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    labels = re.findall(r"^```{exercise}.*\n:label: (\S+)$", text, flags=re.M)
    answers = solutions(path)
    assert len(labels) >= 2, "a chapter has at least two exercises"
    assert sorted(labels) == sorted(answers) and len(labels) == len(exercises(path))
    for label, (check, cell) in zip(labels, exercises(path), strict=True):
        assert "exercise-check" in tags(check), f"{label}: its check must stand before it"
        body, last = cell.source.rsplit("\n", 1)
        assert re.fullmatch(r"check_(\w+)\(\1\)", last), f"{label}: the last line must check the answer, not '{last}'"
        names: dict = {}
        exec(check.source, names)  # nothing else of the chapter is needed
        exec(body, names)
        stub = eval(last, names)
        assert stub.startswith("not yet"), f"{label} accepts its stub: {stub}"
        exec(answers[label], names)
        for seed in range(5):  # some checks build a module with random weights
            torch.manual_seed(seed)
            assert eval(last, names) == "right", f"{label} refuses its solution, seed {seed}"


def test_the_cell_for_a_readers_own_picture_works(monkeypatch, tmp_path):
    """Without the download: a ResNet-50 of random weights, and a picture that is neither square nor RGB."""
    import torchvision.models
    from matplotlib import pyplot
    from PIL import Image

    import ean_lib
    from ean_lib import plots

    code = [cell.source for cell in cells(BOOK / "06_grad_cam.ipynb")]
    (look_at,) = (source for source in code if "def look_at" in source)
    monkeypatch.setattr(pyplot, "show", lambda: None)
    build = torchvision.models.resnet50
    monkeypatch.setattr(torchvision.models, "resnet50", lambda weights: build())
    Image.new("LA", (300, 240), (90, 255)).save(tmp_path / "mine.png")
    names = {"torch": torch, "plt": pyplot, "grad_cam": ean_lib.grad_cam, "plots": plots}
    exec(look_at.replace('MY_PICTURE = ""', f"MY_PICTURE = {str(tmp_path / 'mine.png')!r}"), names)
    axes = pyplot.gcf().axes
    pyplot.close("all")
    known = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    titles = [axis.get_title() for axis in axes]
    assert len(set(titles)) == 2 and set(titles) <= set(known)
    assert all(len(axis.images) == 2 for axis in axes)  # the picture and the map over it
    maps = [axis.images[1].get_array() for axis in axes]
    assert all(cam.shape == (224, 224) and cam.min() >= 0 and cam.max() <= 1 for cam in maps)


@every_chapter
def test_an_exercise_does_not_show_its_solution(path):
    """Solutions stand at the end, folded."""
    last = cells(path, "markdown")[-1].source
    for label in solutions(path):
        assert f"````{{solution}} {label}\n:class: dropdown\n" in last


def test_one_command_sets_the_repository_everywhere_and_removes_it_again(tmp_path):
    files = ("_config.yml", "README.md", "pyproject.toml", "CITATION.cff")
    (tmp_path / "book").mkdir()
    for name in files:
        shutil.copy(ROOT / name, tmp_path)
    for path in CHAPTERS:
        shutil.copy(path, tmp_path / "book")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import set_repository, pathlib\n"
    program += "sys.exit(set_repository.main(pathlib.Path(sys.argv[1]), sys.argv[2:]))"

    def call(url: str) -> int:
        return subprocess.run([sys.executable, "-c", program, tmp_path, url], capture_output=True).returncode

    url = "https://github.com/somebody/attention-book"
    assert call(url) == 0
    for path in before:
        assert path.read_text().count(url.removeprefix("https://")) >= 1 or "colab" in path.read_text(), path.name
    chapter = tmp_path / "book" / CHAPTERS[0].name
    assert f"%pip install --quiet git+{url} anywidget" in cells(chapter)[0].source
    link = f"(https://colab.research.google.com/github/somebody/attention-book/blob/main/book/{chapter.name})"
    assert link in cells(chapter, "markdown")[0].source
    set_once = {path: path.read_bytes() for path in before}
    assert call(url) == 0 and {path: path.read_bytes() for path in before} == set_once
    assert call("not a repository") == 2 and {path: path.read_bytes() for path in before} == set_once
    assert call("") == 0 and {path: path.read_bytes() for path in before} == before


def test_all_places_name_the_same_repository():
    url = repository()
    for name in ("_config.yml", "README.md", "pyproject.toml", "CITATION.cff"):
        text = (ROOT / name).read_text()
        part = re.search(r"repository \(tools/set_repository.py\)(.*?)/repository", text, flags=re.S)[1]
        assert (url.removeprefix("https://github.com/") in part) if url else ("http" not in part), name
    for path in CHAPTERS:
        badges = re.findall(r"colab\.research\.google\.com/github/(\S+?)/blob", cells(path, "markdown")[0].source)
        assert badges == ([url.removeprefix("https://github.com/")] if url else []), path.name


def test_the_status_page_has_the_run_time_of_every_chapter():
    """Written by the program that executed them; a chapter that ran in no time did not run."""
    record = json.loads((BOOK / "status.json").read_text())
    assert list(record) == [path.stem for path in CHAPTERS]
    assert all(row["seconds"] > 1 for row in record.values())
    page = (BOOK / "status.md").read_text()
    for name, row in record.items():
        assert f"| [](./{name}.ipynb) | {row['seconds']:.0f} | {row['date']} |" in page


def test_the_status_page_shows_the_recorded_chapters():
    folder = BOOK / "results" / "cifar10_chapters"
    record = json.loads((folder / "status.json").read_text())
    assert {path.stem for path in folder.glob("*.txt")} == set(record) == {path.stem for path in CHAPTERS}
    page = (BOOK / "status.md").read_text()
    for name, row in record.items():
        assert row["parameters"] == "DATASET=cifar10 PRESET=full"
        assert f"| [](./{name}.ipynb) | {row['seconds'] / 60:.1f} | {row['date']} |" in page


def test_of_an_executed_chapter_the_printed_text_is_recorded(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    printed = importlib.import_module("record_chapters").printed
    output = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell("a secret of the source")
    cell.outputs = [
        output("stream", text="50% right\n"),
        output("display_data", data={"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": ""}),
        output("execute_result", data={"text/plain": "   accuracy\nean  99.0", "text/html": "<table></table>"}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text"), cell])
    assert printed(notebook) == "50% right\n\n   accuracy\nean  99.0\n"


@pytest.fixture
def execute_book(monkeypatch, tmp_path):
    """The program that executes the chapters, as if the project were a small copy: nothing real can be deleted."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    module = importlib.import_module("execute_book")
    book = tmp_path / "project" / "book"
    book.mkdir(parents=True)
    (book / "intro.md").write_text("# A book")
    monkeypatch.setattr(module, "BOOK", book)
    monkeypatch.setattr(module, "ROOT", book.parent)
    return module


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("where", ["book", ".", "..", "book/chapters", "theirs"])
def test_an_execution_deletes_nothing_that_it_did_not_make(execute_book, tmp_path, capsys, where):
    """The book's source, the repository, what holds it, a folder in the book, a folder with a stranger's file."""
    project = tmp_path / "project"
    for file in (project / "README.md", project / "theirs" / "thesis.tex", project / "book" / "chapters" / "01.md"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("not to be lost")
    before = contents(tmp_path)
    assert execute_book.main(["--into", str(project / where)]) == 2
    assert contents(tmp_path) == before
    error = capsys.readouterr().err
    assert error.startswith(f"Nothing was done: {(project / where).resolve()} ") and error.endswith(".\n")


@pytest.mark.parametrize("state", ["missing", "empty"])
def test_an_execution_takes_a_new_or_an_empty_folder(execute_book, tmp_path, state):
    target = tmp_path / "built" / "executed"
    if state == "empty":
        target.mkdir(parents=True)
    execute_book.copy_book(execute_book.BOOK, target)
    assert contents(target) == {"intro.md": "# A book", ".execute_book": "intro.md\n"}


def test_an_execution_replaces_what_an_earlier_one_put_there_and_nothing_else(execute_book, tmp_path):
    book, target = execute_book.BOOK, tmp_path / "executed"
    (book / "old.md").write_text("a page that goes")
    execute_book.copy_book(book, target)
    (target / "mine.txt").write_text("not to be lost")
    (target / "intro.md").write_text("executed")
    (book / "old.md").unlink()
    (book / "results").mkdir()
    (book / "results" / "new.json").write_text("{}")
    execute_book.copy_book(book, target)
    assert contents(target) == {
        "intro.md": "# A book",
        "results/new.json": "{}",
        "mine.txt": "not to be lost",
        ".execute_book": "intro.md\nresults/new.json\n",
    }


def test_the_sizes_of_a_chapter_count_what_a_reader_sees(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sizes = importlib.import_module("chapter_sizes")
    text = "# Four words of prose\n\n```python\nnot = these\n```\n\n$$\nx = 1\n$$\n\n"
    text += "and $y$ [two](there.md) {cite:p}`more`"
    shown = nbformat.v4.new_code_cell("a = 1\n\nb = 2")
    drawn = nbformat.v4.new_code_cell("draw()", metadata={"tags": ["hide-input"], "mystnb": {"figure": {}}})
    exercise = nbformat.v4.new_code_cell("check_it(it)", metadata={"tags": ["exercise"]})
    cells = [nbformat.v4.new_markdown_cell(text), shown, drawn, exercise]
    measured = sizes.size_of(nbformat.v4.new_notebook(cells=cells))
    assert measured == sizes.Size(visible=3, folded=1, words=6, figures=1, widgets=0, exercises=1)

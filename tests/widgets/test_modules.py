"""The JavaScript of the widgets: files that stand alone, and the one module that is made of them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from ean_lib.widgets import SchemeExplorer
from ean_lib.widgets.modules import CSS, JS, join_modules, join_styles

WIDGETS = ["scheme_explorer.js", "map_viewer.js"]


def bare(text: str) -> str:
    """Lines that are neither imports nor empty."""
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("import "))


def test_each_file_can_be_read_by_itself():
    files = [*JS.iterdir(), *CSS.iterdir()]
    assert len(files) > 15
    for path in files:
        lines = path.read_text().splitlines()
        assert len(lines) <= 500, path.name
        assert max(map(len, lines)) <= 140, path.name
        assert lines[0].startswith(("/*", "//")), f"{path.name} does not say what it is for"


def imported_from(name: str) -> set[str]:
    """A file and all that it imports."""
    found = {name}
    for other in re.findall(r'from "\./([\w.]+)"', (JS / name).read_text()):
        found |= imported_from(other)
    return found


@pytest.mark.parametrize("entry", WIDGETS)
def test_the_joined_module_is_its_files_and_nothing_else(entry):
    joined = join_modules(entry)
    names = imported_from(entry)
    rest = bare(joined)
    for name in names:
        text = bare((JS / name).read_text())
        assert rest.count(text) == 1, name
        rest = rest.replace(text, "")
    assert rest.strip() == ""
    assert "import " not in re.sub(r"/\*.*?\*/", "", joined, flags=re.DOTALL)


def test_a_page_carries_the_joined_module_and_styles():
    page = SchemeExplorer({"stages": [2, 1]}).to_html()
    assert join_modules("scheme_explorer.js") in page
    assert all(path.read_text() in page for path in CSS.glob("explorer_*.css"))
    assert join_styles("map_viewer.css") not in page


@pytest.mark.parametrize("entry", WIDGETS)
def test_the_joined_module_runs_in_node_as_the_files_do(entry, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    (tmp_path / "joined.mjs").write_text(join_modules(entry))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for path in JS.iterdir():
        shutil.copy(path, tmp_path)
    script = (
        f"const [a, b] = await Promise.all([import('./joined.mjs'), import('./{entry}')]);"
        "console.log(typeof a.default.render, typeof b.default.render)"
    )
    done = subprocess.run([node, "--input-type=module", "-e", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "function function", done.stderr


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.js").write_text(text)


def test_what_breaks_the_rules_is_refused(tmp_path):
    write(tmp_path, a='import { b } from "./b.js";\nconst x = 1;\n', b="const x = 2;\nexport const b = 1;\n")
    with pytest.raises(ValueError, match=r"b\.js and a\.js both declare x"):
        join_modules("a.js", tmp_path)
    write(tmp_path, b='import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(ValueError, match=r"in a circle: a\.js -> b\.js -> a\.js"):
        join_modules("a.js", tmp_path)
    write(tmp_path, b="export default 1;\n")
    with pytest.raises(ValueError, match=r"b\.js has a default export"):
        join_modules("a.js", tmp_path)
    write(tmp_path, b="export const b = 1;\n", a='import * as b from "./b.js";\n')
    with pytest.raises(ValueError, match=r"not of the form"):
        join_modules("a.js", tmp_path)
    write(tmp_path, a='import { c } from "./c.js";\n')
    with pytest.raises(FileNotFoundError, match=r"c\.js"):
        join_modules("a.js", tmp_path)

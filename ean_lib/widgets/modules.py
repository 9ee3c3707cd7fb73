"""Joins the files of a widget's JavaScript into the one ES module that anywidget and a page without a kernel need.

In js/ every file is a module of its own with `import` lines, as editors, node and the tests read it. A page has no
files beside it, so here the imported files are put in front of the one that imports them, and the import lines are
dropped. No bundler: the files keep to three rules, and a file that breaks one raises.

1. An import is one line: `import { name, other } from "./file.js";`.
2. Two files of one widget have no top-level name in common.
3. The widget's own file alone has a default export.
"""

import re
from pathlib import Path

JS = Path(__file__).parent / "js"
CSS = Path(__file__).parent / "css"
IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./([\w.-]+)";\n', re.MULTILINE)
TOP_LEVEL_NAME = re.compile(
    r"^(?:export )?(?:async )?(?:const|let|var|class|function\*?) (?P<name>\w+|\{[^}]*\}|\[[^\]]*\])", re.MULTILINE
)


def join_modules(entry: str, folder: Path = JS) -> str:
    """The text of one ES module that holds a file and all that it imports, what is imported first.

    Args:
        entry: name of the widget's own file in the folder.
        folder: where the files lie.

    Raises:
        FileNotFoundError: if an imported file does not exist.
        ValueError: if a file breaks one of the rules at the top of this file.
    """
    ordered: dict[str, str] = {}
    _add(entry, folder, ordered, ())
    owners: dict[str, str] = {}
    for name, text in ordered.items():
        if name != entry and "export default" in text:
            raise ValueError(f"{name} has a default export, which only {entry} may have: name what it exports.")
        for match in TOP_LEVEL_NAME.finditer(text):
            for declared in re.findall(r"\w+", match["name"]):
                other = owners.setdefault(declared, name)
                if other != name:
                    raise ValueError(f"{other} and {name} both declare {declared}: rename one of them.")
    return "\n".join(ordered.values())


def join_styles(*names: str, folder: Path = CSS) -> str:
    """The text of one style sheet, from files in the order given."""
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _add(name: str, folder: Path, ordered: dict[str, str], waiting: tuple[str, ...]) -> None:
    """Put a file, without its import lines, behind all that it imports."""
    if name in ordered:
        return
    if name in waiting:
        raise ValueError(f"These files import each other in a circle: {' -> '.join((*waiting, name))}.")
    text = (folder / name).read_text(encoding="utf-8")
    for match in IMPORT.finditer(text):
        _add(match[2], folder, ordered, (*waiting, name))
    body = IMPORT.sub("", text)
    if leftover := re.search(r"^(import\b.*|export .* from\b.*)", body, re.MULTILINE):
        expected = 'import { name } from "./file.js";'
        raise ValueError(f"{name} has an import that is not of the form {expected}: {leftover[0]}")
    ordered[name] = re.sub(r"\n{3,}", "\n\n", body)

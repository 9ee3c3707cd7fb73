"""Say where the project is published; or nothing, and then no link to a repository appears anywhere.

    python tools/set_repository.py https://github.com/OWNER/NAME
    python tools/set_repository.py ""

It writes the address into _config.yml (the launch button of each page), README.md and the chapters (the Colab badge,
and what a chapter installs where ean_lib is missing: without an address, the clone that it lies in), pyproject.toml and
CITATION.cff. A test keeps all places equal.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
# The lines between these two marks belong to this program.
BEGIN, END = "repository (tools/set_repository.py)", "/repository"


def badge(url: str, path: str, picture: str) -> str:
    """A Markdown link that opens a notebook of the repository in Colab; the picture is a file of this project."""
    return f"[![Open in Colab]({picture})]({COLAB}/github/{url.removeprefix('https://github.com/')}/blob/main/{path})"


def between_marks(text: str, content: str, comment: str) -> str:
    """The text with other content between the marks, which are comments: `# {}` or `<!-- {} -->`."""
    begin, end = comment.format(BEGIN), comment.format(END)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the lines '{begin}' and '{end}' must stand in the file once each")
    before, rest = text.split(begin)
    return before + begin + "\n" + content + end + rest.split(end)[1]


def set_in_documents(root: Path, url: str) -> None:
    config = f"""repository:
  url: {url}
  path_to_book: book
  branch: main
launch_buttons:
  notebook_interface: classic
  colab_url: {COLAB}
"""
    first = "book/00_ten_minutes.ipynb"
    contents = {
        "_config.yml": (config, "# {}"),
        "README.md": (badge(url, first, "book/_static/colab.svg") + "\n", "<!-- {} -->"),
        "pyproject.toml": (f'[project.urls]\nRepository = "{url}"\n', "# {}"),
        "CITATION.cff": (f"repository-code: {url}\n", "# {}"),
    }
    for name, (content, comment) in contents.items():
        path = root / name
        path.write_text(between_marks(path.read_text(), content if url else "", comment))


def set_in_chapter(path: Path, url: str) -> None:
    """What the bootstrap cell installs, and the badge below the title."""
    notebook = nbformat.read(path, as_version=4)
    title, bootstrap = notebook.cells[:2]
    source = f"git+{url}" if url else ".."
    bootstrap.source, count = re.subn(r"(%pip install --quiet) \S+", rf"\1 {source}", bootstrap.source)
    if count != 1:
        raise ValueError(f"{path.name}: the second cell must have the line %pip install --quiet ...")
    text = re.sub(r"\n\n\[!\[Open in Colab\].*", "", title.source)
    heading, _, rest = text.partition("\n")
    link = f"\n\n{badge(url, f'book/{path.name}', '_static/colab.svg')}" if url else ""
    title.source = f"{heading}{link}\n{rest}"
    nbformat.write(notebook, path)


def main(root: Path = ROOT, arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="https://github.com/OWNER/NAME, or an empty text")
    url = parser.parse_args(arguments).url.removesuffix("/").removesuffix(".git")
    if url and not ADDRESS.fullmatch(url):
        print(f"The repository must be like https://github.com/OWNER/NAME, but it is {url!r}.", file=sys.stderr)
        return 2
    set_in_documents(root, url)
    for chapter in sorted((root / "book").glob("[0-9]*.ipynb")):
        set_in_chapter(chapter, url)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The built pages of the book, from the outputs that are committed, made once for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Built:
    """What `make html` makes."""

    html: Path  # the folder of the pages
    exit_code: int
    log: str


@pytest.fixture(scope="session")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The book's HTML with every warning an error, in a temporary folder."""
    out = tmp_path_factory.mktemp("book")
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", "--all", "-n", "-W", "--keep-going", "--config", root / "_config.yml"]
    command += ["--toc", root / "book" / "_toc.yml", "--path-output", out, root / "book"]
    environment = os.environ | {"NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    return Built(out / "_build" / "html", done.returncode, done.stdout + done.stderr)

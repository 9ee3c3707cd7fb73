"""What holds the project together: package lists, versions, licences, size, and the promises of the style."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import ean_lib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIBRARY = sorted((ROOT / "ean_lib").rglob("*.py"))


def tracked_files() -> list[Path]:
    """The files of the project: what git tracks, or everything but built things where there is no git."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    hidden = {".venv", "_build", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.relative_to(ROOT).parts)]


def listed_packages() -> set[str]:
    """Every requirement of pyproject.toml: of the library, the book and the tests."""
    extras = PROJECT["optional-dependencies"]
    return {*PROJECT["dependencies"], *extras["book"], *extras["test"]}


def test_requirements_name_the_same_packages_as_pyproject():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == listed_packages()


def test_environment_names_the_same_packages_as_pyproject():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert set(pip) == listed_packages()
    assert f"python{PROJECT['requires-python']}" in dependencies


def test_only_the_command_line_knows_tyro():
    users = {path.relative_to(ROOT / "ean_lib").parts[0] for path in LIBRARY if "tyro" in path.read_text()}
    assert users == {"cli"}


def test_every_import_of_the_library_is_a_declared_dependency():
    """Also the lazy ones; timm is optional and declared for the tests, and widgets need what the book needs."""
    declared = {re.split(r"[<>=!]", entry)[0] for entry in PROJECT["dependencies"]} | {"timm", "ean_lib"}
    modules = {"pillow": "PIL"}  # a package whose module has another name
    declared = {modules.get(name, name.replace("-", "_")) for name in declared}
    book = {re.split(r"[<>=!]", entry)[0] for entry in PROJECT["optional-dependencies"]["book"]}
    imported = set()
    for path in LIBRARY:
        widget = path.parent.name == "widgets"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {node.module.split(".")[0]}
            else:
                continue
            imported |= names - book if widget else names
    assert imported - set(sys.stdlib_module_names) - {"__future__"} <= declared


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert ean_lib.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    try:
        installed = importlib.metadata.version("ean-lib")
    except importlib.metadata.PackageNotFoundError:
        return  # a clone that is used without being installed
    assert installed == version


def test_no_tracked_file_carries_a_path_of_somebodys_machine():
    # Put together here, so that this file does not match itself.
    folders = "|".join(["home/[a-z]", "Users/[A-Za-z]", "root/", "tmp/", "work/", "mnt/", "scratch/"])
    pattern = re.compile(rf"(?<![\w.~}}\])-])/(?:{folders})[\w.-]*")
    allowed = {ROOT / "tests" / "test_project.py"}
    found = {}
    for path in tracked_files():
        if path in allowed or path.suffix in {".png", ".npz", ".safetensors", ".pt"}:
            continue
        for match in pattern.finditer(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(str(path.relative_to(ROOT)), []).append(match.group())
    assert not found, found


def test_the_licences_are_there_and_say_what_they_cover():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    text = (ROOT / "LICENSE-text").read_text()
    assert "Creative Commons Attribution 4.0 International Public License" in text
    assert "Section 8 – Interpretation" in text  # the whole licence, not a summary
    assert PROJECT["license"] == "MIT" and PROJECT["license-files"] == ["LICENSE"]


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "Makefile", ".ci/run"]
)
def test_the_files_of_an_open_project_are_there(name):
    assert len((ROOT / name).read_text()) > 200


def test_links_between_the_projects_documents_lead_somewhere():
    broken = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|\bsrc=\"([^\"]+)\"", path.read_text()):
            target = "".join(target)
            if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
    assert not broken


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_are_typed_and_documented(path):
    """Whatever has a public name; a method may do with its class's docstring."""
    tree = ast.parse(path.read_text())
    wanting = [] if ast.get_docstring(tree) else ["the module has no docstring"]
    inner = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for child in ast.walk(node)
        if isinstance(child, ast.FunctionDef) and child is not node
    }
    methods = {item for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body}
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_") or node in inner:
            continue
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in {"self", "cls"}]
            if untyped or node.returns is None:
                wanting.append(f"{node.name} (line {node.lineno}) lacks type hints")
        if not ast.get_docstring(node) and node not in methods:
            wanting.append(f"{node.name} (line {node.lineno}) has no docstring")
    assert not wanting, wanting


def test_the_public_names_of_the_library_have_docstrings():
    names = getattr(ean_lib, "__all__", [])
    assert names
    assert [name for name in names if not name.startswith("_") and not inspect.getdoc(getattr(ean_lib, name))] == []


def test_the_workflows_follow_githubs_schema():
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert len(files) >= 3
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *map(str, files),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_has_what_a_citation_file_needs():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert any("2011.14058" in json.dumps(reference) for reference in citation["references"])


def test_the_ci_script_only_prepares_and_calls_make_test():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.rstrip().endswith("exec make test")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_examples_of_the_readme_run(capsys):
    """The first with fewer images and epochs than it has."""
    example, plugged, of_the_table = readme_blocks("python")
    assert len(example.strip().splitlines()) <= 22
    example = re.sub(r"epochs=\d+", "epochs=1", example).replace('"cued_shapes"', '"cued_shapes", subset=256')
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    # A smaller network, without a download, and generated pictures in place of a folder.
    for there, here in {
        '"image_folder:PATH"': '"cued_shapes", subset=256',
        '"resnet50d", pretrained=True': '"test_resnet"',
        "epochs=4": "epochs=1",
    }.items():
        assert there in plugged
        plugged = plugged.replace(there, here)
    exec(compile(plugged, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(1, 1, 1, 1) ['layer1.0.bn2', ")
    exec(compile(of_the_table, "README.md", "exec"), {})
    scheme, accuracy = capsys.readouterr().out.split()
    assert len(scheme) == 8 and 50 < float(accuracy) < 100


def test_every_command_of_the_readme_exists_with_its_options(capsys):
    from ean_lib.cli import main

    commands = [line.split("#")[0].split() for block in readme_blocks("sh") for line in block.splitlines()]
    commands = [words for words in commands if words[:1] == ["ean"]]
    assert {words[1] for words in commands} == {"supernet", "search", "retrain", "measure", "run", "report", "bench"}
    for words in commands:
        with pytest.raises(SystemExit) as stopped:
            main([words[1], "--help"])
        assert not stopped.value.code
        usage = capsys.readouterr().out
        for word in words:
            assert not word.startswith("--") or word in usage, f"{' '.join(words)}: {word}"

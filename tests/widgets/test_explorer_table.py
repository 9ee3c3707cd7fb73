"""The tables of the scheme explorer: made from recorded runs, and nothing in them is invented."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from statistics import stdev

import pytest

from ean_lib import Scheme, SearchConfig, search
from ean_lib.experiments.task import Task
from ean_lib.learning.measure import count_macs, count_parameters

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = sorted((ROOT / "book" / "results" / "explorer").glob("*.json"))
spec = importlib.util.spec_from_file_location("make_explorer_table", ROOT / "tools" / "make_explorer_table.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

TASK = Task("cued_shapes", "resnet20", "se", blocks=(2, 1), width=8)
SCHEMES = [str(scheme) for scheme in Scheme.all_of((2, 1))]


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def retrain(top: Path, scheme: str, seed: int, accuracy: float, name: str = "", **changes: object) -> Path:
    """The folder of a finished retraining."""
    folder = top / (name or f"{scheme}-{seed}")
    share, task = changes.pop("share", "stage"), asdict(TASK) | changes.pop("task", {})
    config = {"kind": "retrain", "task": task, "seed": seed, "train": {"epochs": 3, "seed": seed} | changes}
    write(folder, config=config | {"scheme": scheme, "share": share}, result={"test_accuracy": accuracy})
    return folder


@pytest.fixture
def runs(tmp_path) -> Path:
    """A search that scored all 2^3 schemes of a small network, and some retrainings."""
    found = search(lambda asked: [50.0 + s.connected for s in asked], (2, 1), SearchConfig(steps=4))
    write(tmp_path / "search", config={"kind": "search", "task": asdict(TASK), "seed": 0})
    (tmp_path / "search" / "result.json").write_text(found.to_json())
    write(tmp_path / "supernet", config={"train": {"epochs": 7}})
    (tmp_path / "search" / "provenance.json").write_text(json.dumps({"sessions": [{"device": "a machine"}]}))
    lines = [json.dumps({"scheme": text, "accuracy": 50.0 + text.count("1")}) for text in SCHEMES]
    (tmp_path / "search" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for seed, accuracy in enumerate((60.0, 62.0, 61.0)):
        retrain(tmp_path, "10-0", seed, accuracy)
    retrain(tmp_path, "00-0", 0, 55.5, task={"attention": "sge"})  # the backbone has no attention, whatever is named
    return tmp_path


def table_of(runs: Path) -> dict:
    return tool.make_table(runs / "search", [runs])


def test_a_table_has_what_was_recorded_and_nothing_else(runs):
    retrain(runs, "11-1", 0, 99.0, share="none")  # Org-full is another network
    retrain(runs, "01-0", 0, 99.0, task={"dataset": "cifar10"})
    unfinished = retrain(runs, "00-1", 0, 99.0)
    (unfinished / "result.json").unlink()
    retrain(runs, "10-0", 0, 60.0, name="again")  # the same seed counts once
    table = table_of(runs)
    assert table["supernet"] == [50.0 + text.count("1") for text in SCHEMES]
    assert table["alone"] == {"00-0": [55.5, None, 1], "10-0": [61.0, round(stdev((60, 62, 61)), 3), 3]}
    assert table["time"] == {}
    assert "parameters" not in table
    assert "7 epochs" in table["note"] and "3 epochs, seeds 0, 1, 2." in table["note"]
    assert "Time" not in table["note"]


def test_costs_are_those_of_every_pruned_network(runs):
    table = table_of(runs)
    full = TASK.network(10, Scheme.full((2, 1)))

    def cost(text: str) -> tuple[int, int]:
        pruned = full.prune(Scheme.parse(text))
        return count_parameters(pruned), count_macs(pruned.fuse(), (1, 3, 32, 32))

    parameters, macs = cost("00-0")
    for index, text in enumerate(SCHEMES):
        expected = (parameters + table["extra_parameters"][index], macs + table["extra_macs"][index])
        assert cost(text) == expected


def test_recorded_costs_must_be_those_counted_now(runs):
    table = table_of(runs)
    index = SCHEMES.index("10-0")
    record = {"input_shape": [64, 3, 32, 32], "device": "a machine", "threads": 1, "parameters": 1000, "macs": 5000}
    record |= {"extra_parameters": table["extra_parameters"][index], "extra_macs": table["extra_macs"][index]}
    for seed, increment in enumerate((0.3, 0.1, 0.2)):
        text = json.dumps(record | {"time_increment": increment})
        (runs / f"10-0-{seed}" / "measure.json").write_text(text)
    timed = table_of(runs)
    assert timed["time"] == {"10-0": [0.2, 3]}  # the median
    assert timed["parameters"] == 1000 - record["extra_parameters"]
    assert "a machine, 1 thread;" in timed["note"]
    (runs / "10-0-2" / "measure.json").write_text(json.dumps(record | {"extra_macs": 1, "time_increment": 0.2}))
    with pytest.raises(ValueError, match="recorded costs of 10-0"):
        table_of(runs)


def test_several_recipes_are_not_averaged(runs):
    retrain(runs, "11-1", 0, 99.0, epochs=30)
    with pytest.raises(ValueError, match="2 recipes"):
        table_of(runs)


def test_a_search_must_have_scored_every_scheme(runs):
    metrics = runs / "search" / "metrics.jsonl"
    metrics.write_text("\n".join(metrics.read_text().splitlines()[1:]))
    with pytest.raises(ValueError, match="no score of 1 schemes, such as 00-0"):
        table_of(runs)
    shutil.rmtree(runs / "search")
    with pytest.raises(FileNotFoundError, match="search"):
        table_of(runs)


@pytest.mark.slow
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_committed_table_is_what_the_recorded_runs_give(path, monkeypatch):
    """Where this fails after runs were recorded, make the tables anew: see tools/make_explorer_table.py."""
    monkeypatch.chdir(ROOT)
    table = json.loads(path.read_text())
    sources = table["provenance"]
    if "bench" in sources:
        kind, seed = sources["supernet"].rsplit("_", 1)
        made = tool.from_bench(sources["bench"], kind, int(seed))
    else:
        made = tool.make_table(Path(sources["search"]), [Path(folder) for folder in sources["retrained"]])
    assert json.loads(json.dumps(made)) == table


def test_a_committed_small_page_shows_its_table():
    page, table = (
        ROOT / "book" / "_static" / "explorer.html",
        ROOT / "book" / "results" / "explorer" / "cued_shapes.json",
    )
    assert page.read_text(encoding="utf-8") == tool.small_page(json.loads(table.read_text()))

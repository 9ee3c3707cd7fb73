"""The tables of the scheme explorer: made from recorded runs, and nothing in them is invented."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import stdev

import pytest

from ean_lib import Scheme, SearchConfig, search
from ean_lib.experiments.task import Task
from ean_lib.learning.measure import count_macs, count_parameters

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = sorted((ROOT / "ean_lib" / "recorded" / "explorer").glob("*.json"))


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


tool = load_tool("make_explorer_table")
timing = load_tool("time_schemes")

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
    config = {
        "format": 1,
        "kind": "retrain",
        "task": task,
        "seed": seed,
        "train": {"epochs": 3, "seed": seed} | changes,
    }
    write(folder, config=config | {"scheme": scheme, "share": share}, result={"test_accuracy": accuracy})
    return folder


@pytest.fixture
def runs(tmp_path) -> Path:
    """A search that scored all 2^3 schemes of a small network, and some retrainings."""
    found = search(lambda asked: [50.0 + s.connected for s in asked], (2, 1), SearchConfig(steps=4))
    write(tmp_path / "search", config={"format": 1, "kind": "search", "task": asdict(TASK), "seed": 0})
    (tmp_path / "search" / "result.json").write_text(found.to_json())
    write(tmp_path / "supernet", config={"format": 1, "kind": "supernet", "train": {"epochs": 7}}, result={})
    (tmp_path / "search" / "provenance.json").write_text(json.dumps({"sessions": [{"device": "a machine"}]}))
    lines = [json.dumps({"scheme": text, "accuracy": 50.0 + text.count("1")}) for text in SCHEMES]
    (tmp_path / "search" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for seed, accuracy in enumerate((60.0, 62.0, 61.0)):
        retrain(tmp_path, "10-0", seed, accuracy)
    retrain(tmp_path, "00-0", 0, 55.5, task={"attention": "sge"})  # the backbone has no attention, whatever is named
    return tmp_path


def table_of(runs: Path) -> dict:
    return tool.make_table(runs, "search")


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


def measurement(table: dict, scheme: str, paired: float) -> dict:
    """What ``ean measure`` writes of a run, whose increment of the medians is another than the paired one."""
    place = SCHEMES.index(scheme)
    return {
        "input_shape": [64, 3, 32, 32], "device": "a machine", "threads": 2, "parameters": 1000, "macs": 5000,
        "extra_parameters": table["extra_parameters"][place], "extra_macs": table["extra_macs"][place],
        "time_increment": 0.9, "paired_increment": paired,
    }  # fmt: skip


def measure_runs(runs: Path, increments: dict[str, float]) -> None:
    table = table_of(runs)
    for folder, paired in increments.items():
        scheme = json.loads((runs / folder / "config.json").read_text())["scheme"]
        (runs / folder / "measure.json").write_text(json.dumps(measurement(table, scheme, paired)))


def test_a_time_is_the_median_of_all_runs_paired_increments_two_of_one_seed_included(runs):
    retrain(runs, "10-0", 0, 60.0, name="random-1")  # found by chance, with the seed of another run
    measure_runs(runs, {"10-0-0": 0.30, "10-0-1": 0.08, "10-0-2": 0.10, "random-1": 0.20})
    table = table_of(runs)
    assert table["time"] == {"10-0": [0.15, None, None]}
    assert table["alone"]["10-0"][2] == 3  # one training is one training, however often it was run
    assert table["parameters"] == 1000 - table["extra_parameters"][SCHEMES.index("10-0")]
    assert "a machine, 2 threads; median of the runs' paired increments" in table["note"]


def test_recorded_costs_must_be_those_counted_now(runs):
    record = measurement(table_of(runs), "10-0", 0.2)
    (runs / "10-0-2" / "measure.json").write_text(json.dumps(record | {"extra_macs": 1}))
    with pytest.raises(ValueError, match="recorded costs of 10-0"):
        table_of(runs)


def test_two_runs_of_one_scheme_and_seed_must_agree(runs):
    retrain(runs, "10-0", 0, 61.0, name="again")
    with pytest.raises(ValueError, match=r"again retrained 10-0 with seed 0 to 61.0%, another run to 60.0%"):
        table_of(runs)


def test_all_times_come_from_one_measurement_where_there_is_one(runs, tmp_path):
    measure_runs(runs, {"10-0-0": 0.30, "10-0-1": 0.08, "10-0-2": 0.10})
    increments = {text: [0.01 * n, 0.0, 0.1] for n, text in enumerate(SCHEMES)}
    record = {"input_shape": [64, 3, 32, 32], "device": "another", "threads": 1, "turns": 100}
    record |= {"task": asdict(TASK), "increments": increments}
    file = tmp_path / "times.json"
    file.write_text(json.dumps(record))
    result = json.loads((runs / "search" / "result.json").read_text())
    (runs / "search" / "result.json").write_text(json.dumps(result | {"scheme": "10-0"}))
    table = tool.make_table(runs, "search", file)
    assert table["time"] == increments
    assert "another, 1 thread; each scheme in 100 turns" in table["note"]
    assert "In the recorded runs, on a machine, 2 threads, 10-0 took +10.0 % (median of 3 runs)." in table["note"]
    file.write_text(json.dumps(record | {"task": asdict(TASK) | {"rd_ratio": 0.25}}))
    with pytest.raises(ValueError, match=r"times of a network with rd_ratio 0\.25"):
        tool.make_table(runs, "search", file)


def test_the_schemes_of_a_network_are_timed(tmp_path):
    increments = timing.time_schemes(TASK, batch=2, image_size=8, passes=2, rounds=3, seed=0)
    assert list(increments) == SCHEMES
    assert all(low <= median <= high for median, low, high in increments.values())
    text = timing.to_text({"threads": 1}, increments)
    assert json.loads(text) == {"threads": 1, "increments": increments}
    assert len(text.splitlines()) == 5 + len(SCHEMES)


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
    with pytest.raises(FileNotFoundError, match="has no finished run search"):
        table_of(runs)


@pytest.mark.slow
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_committed_table_is_what_the_recorded_runs_give(path, monkeypatch):
    """Where this fails after runs were recorded, make the tables anew: see tools/make_explorer_table.py."""
    monkeypatch.chdir(ROOT)
    table = json.loads(path.read_text())
    sources = table["provenance"]
    times = sources["times"] and Path(sources["times"])
    if "bench" in sources:
        kind, seed = sources["supernet"].rsplit("_", 1)
        remade = tool.from_bench(sources["bench"], kind, int(seed), times)
    else:
        remade = tool.make_table(sources["record"], sources["search"], times)
    assert json.loads(json.dumps(remade)) == table


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_scheme_of_a_small_network_was_timed_and_has_quartiles(path):
    table = json.loads(path.read_text())
    if table["provenance"]["times"] is None:
        assert len(table["supernet"]) > 64  # where timing all would take an hour, few have a time, and no quartiles
        return
    assert len(table["time"]) == len(table["supernet"])
    for median, low, high in table["time"].values():
        assert low <= median <= high


def test_the_intro_page_says_what_its_explorer_shows():
    """One number, one source: what the text says of a scheme is what the table has."""
    table = json.loads((ROOT / "ean_lib" / "recorded" / "explorer" / "cued_shapes.json").read_text())
    text = " ".join((ROOT / "book" / "intro.md").read_text().split())
    every = [str(scheme) for scheme in Scheme.all_of(table["stages"])]
    first, last, full = (every.index(scheme) for scheme in ("10-00-00", "00-00-01", "11-11-11"))
    supernet, parameters, alone = table["supernet"], table["extra_parameters"], table["alone"]
    assert f"the first block alone (`10-00-00`) reaches {supernet[first]:.2f}%" in text
    assert f"the last one alone (`00-00-01`) {supernet[last]:.2f}%" in text
    costs = f"{parameters[full]:,} parameters instead of {parameters[first]:,}"
    assert f"connected gives {supernet[full]:.2f}%, for {costs}" in text
    names = {3: "three", 5: "five"}
    (one, _, one_runs), (six, _, six_runs) = alone["10-00-00"], alone["11-11-11"]
    trained = f"{one:.2f}% (mean of {names[one_runs]} seeds) and all six {six:.2f}% (mean of {names[six_runs]})"
    assert f"Trained alone, the first block reached {trained}" in text


def test_the_readme_says_of_all_connected_what_the_explorer_shows():
    table = json.loads((ROOT / "ean_lib" / "recorded" / "explorer" / "cued_shapes.json").read_text())
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| cued_shapes")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    row = next(row for row in rows if "`11-11-11`" in row)
    mean, std, _ = table["alone"]["11-11-11"]
    assert f"{mean:.2f} ± {std:.2f}" in row
    assert f"{table['extra_parameters'][-1]:,}" in row

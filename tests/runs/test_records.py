"""Recorded experiments: nothing of the run folders is lost, and a damaged or foreign file is refused in a sentence."""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ean_lib import Scheme, list_records, load_network, load_record, recorded_file
from ean_lib.cli import main as ean
from ean_lib.experiments.report import collect
from ean_lib.experiments.steps import read_scheme
from ean_lib.experiments.task import Task
from ean_lib.runs.records import RECORDED, read_runs

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--subset", "64", "--blocks", "1", "1", "--width", "8", "--no-progress", "--device", "cpu", "--epochs", "2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet, its search, and two retrainings of seed 0, one of them measured; and an unfinished one."""
    top = tmp_path_factory.mktemp("runs") / "tiny"
    seed = top / "seed-0"
    quiet = ["--no-progress", "--device", "cpu"]
    commands = [
        ["supernet", *TINY, "--out", str(seed / "supernet")],
        ["search", "--supernet", str(seed / "supernet"), *quiet, "--steps", "2", "--out", str(seed / "search")],
        ["retrain", *TINY, "--scheme", "1-0", "--out", str(seed / "ean")],
        ["retrain", *TINY, "--scheme", "none", "--out", str(seed / "backbone")],
        ["measure", str(seed / "ean"), *quiet, "--batch-size", "2", "--rounds", "2"],
    ]
    for command in commands:
        assert ean(command) == 0, command
    (seed / "unfinished").mkdir()
    shutil.copy(seed / "ean" / "config.json", seed / "unfinished")
    return top


def pack(monkeypatch: pytest.MonkeyPatch, folder: Path, into: Path, *options: str) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("pack_record")
    words = ["pack_record.py", str(folder), "--name", "tiny", "--what", "a test", "--into", str(into), *options]
    monkeypatch.setattr("sys.argv", words)
    tool.main()


@pytest.mark.parametrize("name", list_records())
def test_every_record_that_comes_with_the_library_can_be_read_whole(name: str) -> None:
    record = load_record(name)
    assert len(record.runs) == record.card["runs"] == len(record.finished)
    assert record.seeds == record.card["seeds"] and record.commands == record.card["commands"]
    assert record.runs.kind.isin(["supernet", "search", "retrain"]).all()
    assert all(path.is_file() for path in record.files.values())
    assert list(record.searches) == list(record.scores.columns)
    for run in record.finished:
        if run.weights is not None:
            parameters = run.network().state_dict()
            assert all(torch.isfinite(value).all() for value in parameters.values())


def test_nothing_of_a_run_folder_is_lost_in_a_record(folders: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    pack(monkeypatch, folders, tmp_path, "--weights", "seed-0/ean", "seed-0/supernet")
    assert "left out, not finished" in capsys.readouterr().out
    record = load_record(tmp_path / "tiny.jsonl.gz")
    runs = {run.path: run for run in record.finished}
    assert sorted(runs) == [f"seed-0/{name}" for name in ("backbone", "ean", "search", "supernet")]
    for path, run in runs.items():
        folder = folders / path
        assert run.config == json.loads((folder / "config.json").read_text())
        assert run.result == json.loads((folder / "result.json").read_text())
        assert run.sessions == json.loads((folder / "provenance.json").read_text())["sessions"]
        assert run.metrics == [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        measured = folder / "measure.json"
        assert run.measure == (json.loads(measured.read_text()) if measured.exists() else None)
    assert runs["seed-0/ean"].weights.read_bytes() == (folders / "seed-0/ean/weights.safetensors").read_bytes()
    assert runs["seed-0/backbone"].weights is None

    assert record.run(form="ean", seed=0) is record.run("seed-0/ean") is runs["seed-0/ean"]
    net, same = record.network(form="ean", seed=0), load_network(folders / "seed-0/ean")
    assert net.scheme == same.scheme
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in net.state_dict().items())
    assert record.runs.loc["seed-0/ean"].accuracy == runs["seed-0/ean"].result["test_accuracy"]
    assert record.runs.loc["seed-0/ean"].connected == 1 and np.isnan(record.runs.loc["seed-0/search"].accuracy)
    assert list(record.scores.index) == [str(s) for s in Scheme.all_of((1, 1))]
    assert list(record.curves.columns[:6]) == ["path", "group", "kind", "form", "scheme", "seed"]
    assert len(record.curves) == 3 * 2
    assert str(record.searches["seed-0"].scheme) == record.run("seed-0/search").result["scheme"]


def test_a_report_of_a_record_is_the_report_of_its_folders(folders: Path, tmp_path: Path, monkeypatch) -> None:
    pack(monkeypatch, folders, tmp_path)
    record = load_record(tmp_path / "tiny.jsonl.gz")
    expected = collect([folders])
    assert collect([record]).equals(expected) and collect([tmp_path / "tiny.jsonl.gz"]).equals(expected)
    assert [run.path for run in read_runs(folders)] == [run.path for run in record.finished]
    assert len(collect(["cifar10"])) == 39


def test_packing_twice_gives_the_same_bytes(folders: Path, tmp_path: Path, monkeypatch) -> None:
    for copy in ("one", "two"):
        pack(monkeypatch, folders, tmp_path / copy, "--weights", "all")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / c).rglob("*") if p.is_file()} for c in ("one", "two"))
    assert one == two and {"tiny.json", "tiny.jsonl.gz", "ean.safetensors"} <= set(one)


def test_the_records_are_packed_as_the_tool_packs_them(tmp_path: Path) -> None:
    """So none was edited by hand: what is read is written again with the same bytes."""
    from ean_lib.runs.records import write_record

    for name in ("cued_shapes_gates", "cifar10_six_epochs"):
        record = load_record(name)
        pictures = {k: v for k, v in record.files.items() if not k.endswith(".safetensors")}
        write_record(tmp_path / name, record.finished, record.card["what"], pictures)
        for suffix in (".json", ".jsonl.gz"):
            assert (tmp_path / f"{name}{suffix}").read_bytes() == (RECORDED / f"{name}{suffix}").read_bytes()


def test_what_is_no_record_is_refused_in_a_sentence(folders: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"there is no record 'cued_shape'; known are cifar10, .*cued_shapes"):
        load_record("cued_shape")
    with pytest.raises(FileNotFoundError, match="a record is a file and its card"):
        load_record(tmp_path / "absent.jsonl.gz")
    with pytest.raises(ValueError, match="has no run with path 'seed-9/ean'; expected one of seed-0/backbone"):
        load_record("cued_shapes").run("seed-9/ean")
    with pytest.raises(ValueError, match="has 5 runs with form 'ean'; expected one of seed-0/ean, seed-1/ean"):
        load_record("cued_shapes").run(form="ean")
    with pytest.raises(ValueError, match=r"no weights are kept of the retrain run seed-4/ean; redo it: ean run"):
        load_record("cued_shapes").network("seed-4/ean")
    with pytest.raises(ValueError, match=r"no recorded file 'explorer/x.json'; there are explorer/"):
        recorded_file("explorer/x.json")
    with pytest.raises(FileNotFoundError, match="there is no folder absent, and no record of that name"):
        list(read_runs("absent"))

    pack(monkeypatch, folders, tmp_path)
    file, card = tmp_path / "tiny.jsonl.gz", tmp_path / "tiny.json"
    good = file.read_bytes()
    file.write_bytes(good[:-20])
    with pytest.raises(ValueError, match="is damaged"):
        load_record(file)
    file.write_bytes(gzip.compress(gzip.decompress(good) + b"{}\n"))
    with pytest.raises(ValueError, match="not the file that its card describes"):
        load_record(file)
    card.write_text(card.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="has format 2, and this ean_lib reads up to 1; update ean_lib"):
        load_record(file)
    with pytest.raises(ValueError, match="no weights of seed-0/search"):
        pack(monkeypatch, folders, tmp_path, "--weights", "seed-0/search")


def test_a_recorded_search_can_be_retrained() -> None:
    task = Task("cued_shapes", blocks=(2, 2, 2))
    assert str(read_scheme("cued_shapes:seed-0/search", task)) == "10-00-00"


def test_commands_that_differ_in_seeds_only_are_one() -> None:
    assert load_record("cifar10").commands[1] == (
        "ean run --dataset cifar10 --attention dia --seeds 1 2 --forms org-full share-full ean random"
        " --retrain.epochs 2 --scheme runs/cifar10-dia/seed-0/search --no-progress --out runs/cifar10-dia"
    )
    plain = [c for c in load_record("cued_shapes_supernets").commands if "narrow-plain" in c and "ean supernet" in c]
    assert plain == [
        "ean supernet --dataset cued_shapes --rd-ratio 0.0625 --warmup 0.0 --seed SEED --no-progress --out"
        " runs/cued_shapes_supernets/narrow-plain/seed-SEED/supernet  # SEED: 0 1 2 3 4 5 6 7 8 9 10 11"
    ]
    assert "--scheme cifar10:cifar10-se/seed-0/search" in load_record("cifar10_six_epochs").commands[0]


def test_a_part_of_a_record_is_one() -> None:
    record = load_record("cued_shapes_supernets")
    part = record.select("wide-plain/")
    assert list(part.scores) == [f"wide-plain/seed-{n}" for n in (0, 1, 10, 11, *range(2, 10))]
    assert len(part.runs) == 24
    with pytest.raises(ValueError, match="no run below 'wide/'"):
        record.select("wide/")

"""The truth table: made once, shared, continued, and read back with its checksum."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from runs.test_resume import start

from ean_lib import load_bench
from ean_lib.cli import main
from ean_lib.experiments.bench import TABLES, spread
from ean_lib.schemes import Scheme

SMALL = ["--subset", "256", "--blocks", "1", "1", "--width", "8", "--no-progress", "--device", "cpu"]
SMALL += ["--seeds", "0", "1", "--supernets", "uniform", "--train.epochs", "4", "--supernet.epochs", "2"]


def command(out: Path) -> list[str]:
    return ["bench", *SMALL, "--workers", "1", "--out", str(out)]


def deterministic(out: Path) -> str:
    """The table without its times."""
    return load_bench(out).table.drop(columns="median_ms").to_csv()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that was made in one go."""
    out = tmp_path_factory.mktemp("bench") / "whole"
    assert main(command(out)) == 0
    return out


def test_the_table_holds_what_its_runs_recorded(made):
    bench = load_bench(made)
    assert [str(s) for s in bench.schemes] == ["0-0", "0-1", "1-0", "1-1"] == list(bench.table.index)
    assert bench.columns == ["val", "test", "uniform", "uniform_recalibrated"]
    for seed in (0, 1):
        for scheme in bench.schemes:
            folder = made / "alone" / f"{scheme}-{seed}"
            result = json.loads((folder / "result.json").read_text())
            assert bench.values("test").loc[str(scheme), seed] == result["test_accuracy"]
            assert bench.values("val").loc[str(scheme), seed] == result["val_accuracy"]
            assert not (folder / "weights.safetensors").exists()
        scores = json.loads((made / "supernets" / f"uniform-{seed}" / "scores" / "result.json").read_text())
        own, recalibrated = scores["own"], scores["recalibrated"]
        assert bench.values("uniform")[seed].to_dict() == own
        assert bench.values("uniform_recalibrated")[seed].to_dict() == recalibrated
        assert own != recalibrated
    assert bench.table.connected.to_dict() == {"0-0": 0, "0-1": 1, "1-0": 1, "1-1": 2}
    assert bench.table.parameters["0-0"] < bench.table.parameters["1-0"] < bench.table.parameters["1-1"]
    assert (bench.table.median_ms > 0).all()
    assert bench.card["seeds"] == [0, 1] and bench.card["task"]["blocks"] == [1, 1] and bench.card["rows"] == 4


def test_a_finished_table_is_not_made_again(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("result.json")}
    text = deterministic(made)
    assert main(command(made)) == 0
    assert {path: path.stat().st_mtime_ns for path in made.rglob("result.json")} == before
    assert deterministic(made) == text


@pytest.mark.slow
def test_killed_and_restarted_it_goes_on_to_the_table_of_a_fresh_run(made, tmp_path):
    out, kept = tmp_path / "killed", {}
    for _ in range(3):
        process, before = start(command(out)), len(kept)
        while process.is_alive() and len(kept) <= before:  # until one more run is finished
            time.sleep(0.05)
            kept |= {p: p.stat().st_mtime_ns for p in out.rglob("result.json") if p not in kept}
        process.kill()
        process.join()
    assert main(command(out)) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert deterministic(out) == deterministic(made)


@pytest.mark.slow
def test_two_processes_share_the_work(made, tmp_path):
    """Each run is done by one of them, and both end with the whole table."""
    out = tmp_path / "shared"
    both = [start(command(out)) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    workers = []
    for path in [*(out / "alone").rglob("provenance.json"), *(out / "supernets").rglob("provenance.json")]:
        (session,) = json.loads(path.read_text())["sessions"]
        workers.append(session["started"].rsplit("-", 1)[1])
    assert len(workers) == 12 and len(set(workers)) == 2  # 8 alone, 2 supernets, 2 scorings
    assert deterministic(out) == deterministic(made)


def test_several_workers_give_the_same_table(made, tmp_path):
    out = tmp_path / "pool"
    assert main([*command(out), "--workers", "2"]) == 0
    assert deterministic(out) == deterministic(made)
    assert not multiprocessing.active_children()


def test_some_of_the_schemes_alone_and_all_of_them_scored(tmp_path):
    few = ["--seeds", "0", "--schemes", "2", "--train.epochs", "1", "--supernet.epochs", "1"]
    assert main([*command(tmp_path / "few"), *few]) == 0
    bench = load_bench(tmp_path / "few")
    assert len(bench.values("test")) == 2 and len(bench.values("uniform")) == 4
    (missing, *_) = set(bench.table.index) - set(bench.values("test").index)
    with pytest.raises(ValueError, match=f"has no test of scheme {missing}"):
        bench.reward("test")([Scheme.parse(missing)])


def test_the_reward_of_a_table_is_looked_up(made):
    bench = load_bench(made)
    schemes = bench.schemes[::-1]
    assert bench.reward("val", seed=1)(schemes) == [bench.table.val_1[str(s)] for s in schemes]
    mean = (bench.table.val_0 + bench.table.val_1) / 2
    assert bench.reward("val")(schemes) == [mean[str(s)] for s in schemes]
    for call, message in (
        (lambda: bench.reward("val", seed=7), "seed must be None or one of 0, 1, got 7"),
        (lambda: bench.values("tests"), "unknown column 'tests'. Did you mean 'test'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_table_that_was_changed_is_refused(made, tmp_path):
    for name in ("table.csv", "table.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    assert load_bench(tmp_path).table.equals(load_bench(made).table)
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "table.csv").write_text(text.replace("0-1,1,", "0-1,2,"))
    with pytest.raises(ValueError, match="not the file that its card describes"):
        load_bench(tmp_path)
    (tmp_path / "table.json").unlink()
    with pytest.raises(ValueError, match=r"has no table\.json"):
        load_bench(tmp_path)
    with pytest.raises(ValueError, match="unknown table 'cued'"):
        load_bench("cued")


def test_another_configuration_in_the_same_folder_is_refused(made, capsys):
    assert main([*command(made), "--train.epochs", "5"]) == 2
    assert "holds a run of another configuration: train.epochs was 4, now 5" in capsys.readouterr().err


def test_the_chosen_schemes_are_spread_over_all_numbers_of_connections():
    every = list(Scheme.all_of((3, 3, 3)))
    chosen = spread(every, 40)
    counts = [sum(s.connected == k for s in chosen) for k in range(10)]
    assert len(set(chosen)) == sum(counts) == 40
    assert counts[0] == counts[9] == 1 and set(counts[1:9]) == {4, 5}  # there is one scheme of none, and one of all
    assert chosen[:20] == spread(every, 20)
    with pytest.raises(ValueError, match=r"schemes must be a whole number in 1\.\.512"):
        spread(every, 513)


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.csv")), ids=lambda path: path.stem)
def test_the_tables_of_the_library_are_whole_and_small(path):
    bench = load_bench(path.stem)
    assert path.stat().st_size + path.with_suffix(".json").stat().st_size < 1_000_000
    assert len(bench.table) == bench.card["rows"] == 2 ** len(bench.schemes[0])
    assert bench.card["licence"] == "CC BY 4.0" and bench.card["hardware"] and bench.card["command"]
    for column in bench.columns:
        values = bench.values(column)
        assert list(values) == bench.card["seeds"] and values.stack().between(0, 100).all()
    assert len(bench.values("test")) == bench.card["trained_alone"]

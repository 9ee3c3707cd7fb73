"""A report: which runs share a row, and what the row says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ean_lib import load_record
from ean_lib.experiments.report import collect, summarise, to_markdown, write_report

ROOT = Path(__file__).resolve().parents[2]
TASK = {"dataset": "cued_shapes", "backbone": "resnet20", "attention": "se", "rd_ratio": 0.5, "blocks": [2, 2, 2]}


def retraining(
    folder: Path, accuracy: float, seed: int = 0, form: str = "share-full", scheme: str = "11-11-11",
    task: dict[str, Any] | None = None, train: dict[str, Any] | None = None, finished: bool = True, **more: Any,
) -> Path:  # fmt: skip
    """A folder as `ean retrain` leaves it."""
    folder.mkdir(parents=True)
    named = {"scheme": scheme, "share": "stage", "form": form}
    config = {"kind": "retrain", "task": TASK | (task or {}), "seed": seed, "data": "abcdef0123"}
    config |= {"train": {"epochs": 4, "seed": seed} | (train or {})} | named | more
    (folder / "config.json").write_text(json.dumps(config))
    result = named | {"connected": scheme.count("1"), "test_accuracy": accuracy, "test_images": 2000}
    if finished:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def rows(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[float, int, int]]:
    """(form, recipe) -> (accuracy, runs, seeds)."""
    table = summarise(frame)
    return {(row.form, row.recipe): (row.accuracy, row.runs, row.seeds) for row in table.itertuples()}


def test_runs_that_differ_in_more_than_the_seed_are_rows_that_say_in_what(tmp_path: Path) -> None:
    """Four runs of one form: before, one row of two of them, which two depending on the order of the arguments."""
    folders = [
        retraining(tmp_path / "a", 20.0, train={"epochs": 1}),
        retraining(tmp_path / "b", 26.0, train={"epochs": 3}),
        retraining(tmp_path / "c", 50.0, train={"epochs": 1}, task={"objects": 2}),
        retraining(tmp_path / "d", 30.0, seed=1, train={"epochs": 3}),
    ]
    expected = {
        ("share-full", "objects default, epochs 1"): (20.0, 1, 1),
        ("share-full", "objects default, epochs 3"): (28.0, 2, 2),
        ("share-full", "objects 2, epochs 1"): (50.0, 1, 1),
    }
    assert rows(collect([tmp_path])) == expected
    shown = set()
    for number, order in enumerate(itertools.permutations(folders)):
        if number % 6 == 0:
            shown.add(write_report(order, tmp_path / "report"))
            assert rows(collect(order)) == expected
    assert len(shown) == 1
    assert "| share-full | objects default, epochs 3 | `11-11-11` | 6 | 28.00 ± 2.83 | 2 (2) |" in shown.pop()


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({"train": {"lr": 0.1}}, {"train": {"lr": 0.2}}, {"lr 0.1", "lr 0.2"}),
        ({"task": {"subset": 64}}, {}, {"subset 64", "subset default"}),
        ({"data": "0123456789"}, {}, {"data 01234567", "data abcdef01"}),
        ({"test_data": "0123456789"}, {"test_data": "9876543210"}, {"test_data 01234567", "test_data 98765432"}),
        ({"share": "none"}, {}, {"share none", "share stage"}),
        ({"task": {"blocks": [1, 1]}, "scheme": "1-1"}, {}, {"1-1", "2-2-2"}),
        ({"scoring": 2}, {}, {"scoring 2", "scoring default"}),
    ],
)
def test_any_difference_counts(tmp_path: Path, one: dict, other: dict, says: set[str]) -> None:
    retraining(tmp_path / "one", 90.0, form="ean", **one)
    retraining(tmp_path / "other", 80.0, form="ean", **other)
    recipes = [recipe for _, recipe in rows(collect([tmp_path]))]
    assert len(recipes) == 2
    assert all(any(text in recipe for recipe in recipes) for text in says)


def test_an_option_that_an_older_run_lacks_is_at_its_default(tmp_path: Path) -> None:
    retraining(tmp_path / "old", 90.0)
    new = {"train": {"warmup": 0.0}, "task": {"width": None}, "format": 2, "val_data": "0123", "test_data": "4567"}
    retraining(tmp_path / "new", 92.0, seed=1, **new)
    assert rows(collect([tmp_path])) == {("share-full", ""): (91.0, 2, 2)}


def test_what_is_found_with_each_seed_shares_a_row_and_what_one_seed_was_told_does_not(tmp_path: Path) -> None:
    retraining(tmp_path / "found" / "0", 90.0, form="ean", scheme="10-00-00")
    retraining(tmp_path / "found" / "1", 92.0, form="ean", scheme="01-00-00", seed=1)
    assert rows(collect([tmp_path / "found"])) == {("ean", ""): (91.0, 2, 2)}
    retraining(tmp_path / "told", 50.0, form="ean", scheme="00-00-01")
    table = summarise(collect([tmp_path]))
    assert dict(zip(table.scheme, table.accuracy, strict=True)) == {"10-00-00": 90, "01-00-00": 92, "00-00-01": 50}
    for index, scheme in enumerate(("10-00-00", "00-00-01")):
        retraining(tmp_path / f"random-{index}", 60.0 + index, form="random", scheme=scheme)
    assert rows(collect([tmp_path]))[("random", "")] == (60.5, 2, 1)


def test_a_row_of_a_truth_table_is_not_ean(tmp_path: Path) -> None:
    retraining(tmp_path / "run", 90.0, form="ean", scheme="10-00-00")
    retraining(tmp_path / "bench" / "1", 80.0, form="ean", scheme="10-00-00", hold_out=True)
    retraining(tmp_path / "bench" / "2", 70.0, form="ean", scheme="00-00-01", hold_out=True)
    table = summarise(collect([tmp_path]))
    shown = list(zip(table.form, table.scheme, table.accuracy, strict=True))
    assert shown == [("ean", "10-00-00", 90.0), ("bench", "00-00-01", 70.0), ("bench", "10-00-00", 80.0)]


def test_nothing_is_left_out_without_a_word(tmp_path: Path) -> None:
    first = retraining(tmp_path / "run", 90.0)
    copy = retraining(tmp_path / "copy", 90.0)
    for name in ("se", "sge"):  # the backbone is the same, whatever it is the backbone of
        retraining(tmp_path / name, 45.0, form="backbone", scheme="00-00-00", task={"attention": name})
    retraining(tmp_path / "half", 0.0, seed=7, finished=False)
    table = write_report((tmp_path, first, copy), tmp_path / "report")
    assert "Counted once: 4 more with the configuration, seed and result of one that is shown." in table
    assert f"Left out, as they are not finished: {tmp_path / 'half'}." in table
    assert rows(collect([tmp_path])) == {("backbone", ""): (45.0, 1, 1), ("share-full", ""): (90.0, 1, 1)}
    (copy / "measure.json").write_text(json.dumps({"extra_parameters": 5, "macs": 7e6, "device": "cpu"}))
    assert collect([tmp_path]).extra_parameters.max() == 5, "of two that are the same, the measured one is shown"


def test_two_results_of_one_configuration_are_two_runs_of_one_seed(tmp_path: Path) -> None:
    """As two machines may give."""
    retraining(tmp_path / "here", 90.0)
    retraining(tmp_path / "there", 91.0)
    assert rows(collect([tmp_path])) == {("share-full", ""): (90.5, 2, 1)}


def test_a_table_of_one_recipe_has_no_column_for_differences(tmp_path: Path) -> None:
    retraining(tmp_path / "run", 90.0)
    assert "differs in" not in to_markdown(collect([tmp_path]))


@pytest.mark.parametrize(
    ("name", "missing"), [("config.json", "train"), ("result.json", "test_accuracy"), ("result.json", "connected")]
)
def test_a_run_that_lacks_a_part_is_named(tmp_path: Path, name: str, missing: str) -> None:
    file = retraining(tmp_path / "broken", 90.0) / name
    record = json.loads(file.read_text())
    del record[missing]
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"'?{missing}'?"):
        collect([tmp_path])


def test_the_time_increment_of_a_report_and_of_the_readme_is_the_paired_one() -> None:
    table = summarise(collect(["cued_shapes"])).set_index("form")
    runs = load_record("cued_shapes").runs.query("kind == 'retrain'")
    readme = (ROOT / "README.md").read_text().splitlines()
    for form in ("share-full", "ean", "late"):
        median = runs[runs.form == form].paired_increment.median()
        assert table.loc[form, "time_increment"] == median
        line = next(line for line in readme if line.startswith("| cued_shapes") and f"| {form} |" in line)
        assert line.split(" | ")[-1] == f"{100 * median:.1f} |"


def test_a_report_replaces_its_own_files_only(tmp_path: Path) -> None:
    retraining(tmp_path / "run", 90.0)
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    write_report((tmp_path / "run",), own)
    write_report((tmp_path / "run",), own)
    foreign.mkdir()
    (foreign / "report.md").write_text("mine")
    with pytest.raises(ValueError, match=r"report\.md is no report of ours"):
        write_report((tmp_path / "run",), foreign)
    assert [path.name for path in foreign.iterdir()] == ["report.md"]
    assert (foreign / "report.md").read_text() == "mine"

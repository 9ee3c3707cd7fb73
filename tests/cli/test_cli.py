"""The command line: what it does, and what it says to bad input (exit code 2, one sentence, no traceback)."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ean_lib import Scheme, evaluate, load_network
from ean_lib.cli import COMMANDS, main
from ean_lib.data import cifar
from ean_lib.experiments.report import collect, summarise
from ean_lib.experiments.steps import read_scheme
from ean_lib.experiments.task import Task
from ean_lib.learning import fold_constant_gates

TASK = ["--subset", "64", "--blocks", "1", "1", "--width", "8", "--no-progress", "--device", "cpu"]
TRAIN = [*TASK, "--epochs", "1", "--batch-size", "32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished `ean run`: supernet, search and four retrainings, measured."""
    out = tmp_path_factory.mktemp("runs") / "all"
    options = ["--supernet.epochs", "1", "--supernet.batch-size", "32", "--retrain.epochs", "1"]
    options += ["--retrain.batch-size", "32", "--search.steps", "4", "--forms", "backbone", "share-full", "ean", "late"]
    options += ["constant"]
    assert main(["run", *TASK, *options, "--out", str(out)]) == 0
    return out


def test_run_leaves_a_whole_record(runs: Path) -> None:
    seed = runs / "seed-0"
    for name in ("backbone", "share-full", "ean", "late"):
        files = {p.name for p in (seed / name).iterdir() if p.name != ".lock"}
        assert files == {
            "config.json", "provenance.json", "metrics.jsonl", "weights.safetensors", "result.json", "measure.json",
        }  # fmt: skip
    session = json.loads((seed / "ean" / "provenance.json").read_text())["sessions"][0]
    assert {"python", "versions", "device", "threads", "seed", "git", "data", "started", "seconds", "command"} <= set(
        session
    )
    assert len((seed / "search" / "metrics.jsonl").read_text().splitlines()) == 4  # all schemes of two blocks
    assert (runs / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert "| backbone | `0-0` |" in (runs / "report.md").read_text()


def test_a_finished_run_is_read_back_and_not_done_again(runs: Path, capsys: pytest.CaptureFixture) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file() and "report" not in p.name and p.name != ".lock"
    }
    options = ["--supernet.epochs", "1", "--supernet.batch-size", "32", "--retrain.epochs", "1"]
    options += ["--retrain.batch-size", "32", "--search.steps", "4", "--forms", "backbone", "share-full", "ean", "late"]
    options += ["constant"]
    assert main(["run", *TASK, *options, "--out", str(runs)]) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "share-full" in capsys.readouterr().out


def test_the_constant_form_is_the_folded_network_of_the_scheme_found(runs: Path) -> None:
    constant, ean = (runs / "seed-0" / form for form in ("constant", "ean"))
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (constant, ean))
    assert ours["form"] == "constant" and ours["scheme"] == theirs["scheme"]
    folded = load_network(constant)
    data = Task(subset=64).data()
    expected = load_network(ean)
    if theirs["connected"]:
        expected = fold_constant_gates(expected, data.train.join(data.val), device="cpu")
    assert ours["test_accuracy"] == evaluate(folded, data.test, device="cpu")
    assert ours["test_accuracy"] == evaluate(expected, data.test, device="cpu")
    cost = json.loads((constant / "measure.json").read_text())
    assert cost["extra_parameters"] == 0


def test_the_constant_form_needs_the_form_that_it_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", *TASK, "--forms", "constant", "--out", str(tmp_path / "new")]) == 2
    assert "the form constant is made of the form ean: name ean too" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_run_with_a_scheme_searches_for_none(tmp_path: Path) -> None:
    options = ["--retrain.epochs", "1", "--retrain.batch-size", "32", "--forms", "backbone", "ean", "--scheme", "1-0"]
    assert main(["run", *TASK, *options, "--out", str(tmp_path)]) == 0
    assert {p.name for p in (tmp_path / "seed-0").iterdir()} == {"backbone", "ean"}
    assert json.loads((tmp_path / "seed-0" / "ean" / "result.json").read_text())["scheme"] == "1-0"


def test_single_commands_chain_by_their_folders(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    supernet = str(runs / "seed-0" / "supernet")
    found = str(tmp_path / "search")
    assert main(["search", "--supernet", supernet, "--method", "exhaustive", "--no-progress", "--out", found]) == 0
    assert main(["retrain", *TRAIN, "--scheme", found, "--out", str(tmp_path / "ean")]) == 0
    assert main(["retrain", *TRAIN, "--scheme", "full", "--share", "none", "--out", str(tmp_path / "org")]) == 0
    assert main(["measure", str(tmp_path / "ean"), str(tmp_path / "org"), "--rounds", "2", "--batch-size", "4"]) == 0
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert "org-full" in capsys.readouterr().out
    frame = collect([tmp_path])
    assert set(frame.form) == {"org-full", json.loads((tmp_path / "ean" / "result.json").read_text())["form"]}


def test_networks_of_one_backbone_are_measured_together_whatever_their_attention(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """On cued_shapes SE has a bottleneck by default, and SGE has none; the subset changes no network either."""
    quick = ["--rounds", "2", "--batch-size", "4"]
    se, sge, wide = (str(tmp_path / name) for name in ("se", "sge", "wide"))
    assert main([*RETRAIN, "--scheme", "1-1", "--out", se]) == 0
    assert main([*RETRAIN, "--scheme", "1-1", "--attention", "sge", "--subset", "32", "--out", sge]) == 0
    assert main(["measure", se, sge, *quick]) == 0
    assert main([*RETRAIN, "--scheme", "1-1", "--width", "16", "--out", wide]) == 0
    fails(["measure", se, wide, *quick], "has another backbone than", capsys)
    fails(["measure", wide, se, *quick], "width is 8, not 16; measure networks of one backbone together", capsys)


def test_bits_are_bits_though_a_folder_has_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*RETRAIN, "--scheme", "1-0", "--out", "1-0"]
    assert main(command) == 0
    assert main(command) == 0, "a second time"
    with pytest.raises(ValueError, match="holds a retrain run, expected a search run"):
        read_scheme("./1-0", Task(blocks=(1, 1)))


def test_a_report_keeps_bottlenecks_apart(tmp_path: Path) -> None:
    for ratio in ("0.25", "0.5"):
        options = ["--scheme", "full", "--rd-ratio", ratio, "--out", str(tmp_path / ratio)]
        assert main(["retrain", *TRAIN, *options]) == 0
    assert sorted(collect([tmp_path]).attention) == ["se (rd_ratio 0.25)", "se (rd_ratio 0.5)"]


def test_the_summary_is_the_mean_and_sample_deviation_over_seeds() -> None:
    rows = [("share-full", 0, 90.0), ("share-full", 1, 92.0), ("ean", 0, 91.0)]
    frame = pd.DataFrame(rows, columns=["form", "seed", "accuracy"]).assign(
        dataset="d",
        backbone="b",
        attention="se",
        scheme="1",
        connected=1,
        extra_parameters=5,
        macs=7,
        time_increment=0.1,
    )
    table = summarise(frame).set_index("form")
    assert list(table.index) == ["share-full", "ean"]
    assert table.loc["share-full", "accuracy"] == 91 and table.loc["share-full", "std"] == pytest.approx(2**0.5)
    assert table.loc["share-full", "seeds"] == 2 and pd.isna(table.loc["ean", "std"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_shows_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert exit.value.code == 0
    assert f"Example: ean {command}" in shown and "(default:" in shown
    assert ("--preset" in shown) == ("--epochs" in shown or ".epochs" in shown)  # what trains has presets


@pytest.mark.parametrize("command", ["supernet", "retrain", "run", "bench"])
def test_a_preset_and_a_dataset_set_the_defaults(command: str, capsys: pytest.CaptureFixture) -> None:
    def help_of(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main([command, *arguments, "--help"])
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    quick, paper = help_of(), help_of("--dataset", "cifar10", "--preset", "paper")
    assert "quick takes a CPU minutes" in quick
    for default in ("resnet164", "step"):
        assert f"(default: {default})" in paper and f"(default: {default})" not in quick


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_of_few_letters_get_all_output(
    encoding: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*arguments: str) -> str:
        """What the command writes; an unknown letter would be an error, as it is in such a terminal."""
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        monkeypatch.setattr(sys, "stderr", sys.stdout)
        with contextlib.suppress(SystemExit):
            main(arguments)
        sys.stdout.flush()
        return raw.getvalue().decode(encoding)

    for command in COMMANDS:
        assert f"Example: ean {command}" in shown(command, "--help")
    assert "mean +- std" in shown("report", str(runs), "--out", str(tmp_path)).replace("±", "+-")
    assert "Did you mean" in shown("supernet", "--dataset", "cüed_shapes", "--no-progress")
    assert "retrain" in shown("报告")
    assert "no folder" in shown("report", "Läufe/λ")


def test_the_package_is_the_command() -> None:
    help_of_it = subprocess.run([sys.executable, "-m", "ean_lib", "--help"], capture_output=True, text=True, check=True)
    assert help_of_it.stdout.startswith("usage: ean COMMAND")


def test_help_alone_lists_the_commands(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert main([]) == 2


BOTTLENECKS = {
    "se": (["--width", "16"], (8, 16, 1, 1)),  # of cued_shapes: C/2
    "another ratio": (["--width", "16", "--rd-ratio", "0.25"], (4, 16, 1, 1)),
    "dia": (["--width", "16", "--attention", "dia"], (4, 16)),
    "sge": (["--width", "16", "--attention", "sge"], None),  # it has none, and the default does not disturb it
}


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_the_bottleneck_is_as_wide_as_asked(name: str, tmp_path: Path) -> None:
    arguments, shape = BOTTLENECKS[name]
    assert main(["supernet", *TRAIN, *arguments, "--out", str(tmp_path / "out")]) == 0
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    first = [weights.get(f"layer1.attention.{layer}.weight") for layer in ("fc1", "ih.0")]
    assert [tuple(weight.shape) for weight in first if weight is not None] == ([shape] if shape else [])


RETRAIN = ["retrain", *TRAIN]
SUPERNET = ["supernet", *TRAIN]

# (arguments, part of the message); OUT and RUNS stand for folders, and every command gets --out OUT at the end.
BAD_ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "scheme with other stages": ([*RETRAIN, "--scheme", "110-0011"], "(1, 1)"),
    "scheme with other symbols": ([*RETRAIN, "--scheme", "1-2"], "0 and 1"),
    "scheme of a run that is empty": (["run", *TASK, "--scheme", ""], "0 and 1"),
    "scheme that is empty": ([*RETRAIN, "--scheme", ""], "0 and 1"),
    "scheme with a double dash": ([*RETRAIN, "--scheme", "1--1"], "0 and 1"),
    "scheme with a stage too many": ([*RETRAIN, "--scheme", "1-1-1"], "(1, 1, 1)"),
    "scheme in broken JSON": ([*RETRAIN, "--scheme", "[[1],"], "cannot be read"),
    "scheme in JSON of another form": ([*RETRAIN, "--scheme", '{"bit": "1-1"}'], '"bits"'),
    "scheme missing": (RETRAIN, "--scheme"),
    "command that is not one": (["retrian"], "Did you mean 'retrain'?"),
    "command that is nothing like one": (["fly"], "supernet"),
    "option that is not one": ([*SUPERNET, "--epoch", "3"], "--epoch"),
    "dataset that is not one": (["supernet", *TRAIN, "--dataset", "cued_shape"], "Did you mean 'cued_shapes'"),
    "dataset folder without a path": (["supernet", *TRAIN, "--dataset", "image_folder:"], "image_folder"),
    "backbone that is not one": ([*SUPERNET, "--backbone", "resnet21"], "Did you mean 'resnet"),
    "attention that is not one": ([*SUPERNET, "--attention", "see"], "se"),
    "timm attention that is not one": ([*SUPERNET, "--attention", "timm:nothing"], "nothing"),
    "preset that is not one": ([*SUPERNET, "--preset", "huge"], "huge"),
    "device that is not one": ([*SUPERNET, "--device", "tpu"], "tpu"),
    "search method that is not one": (["search", "--supernet", "RUNS/supernet", "--method", "magic"], "magic"),
    "sampler that is not one": ([*SUPERNET, "--sampler", "fair"], "fair"),
    "no epochs": ([*SUPERNET, "--epochs", "0"], "epochs must be a whole number of at least 1, got 0"),
    "epochs in words": ([*SUPERNET, "--epochs", "many"], "many"),
    "batch of one": ([*SUPERNET, "--batch-size", "1"], "batch_size must be a whole number of at least 2"),
    "batch larger than the data": (
        [*SUPERNET, "--batch-size", "4096"],
        "batch_size must be at most 64, the number of training images",
    ),
    "learning rate zero": ([*SUPERNET, "--lr", "0"], "lr must be a finite number above 0, got 0"),
    "learning rate NaN": ([*SUPERNET, "--lr", "nan"], "lr must be a finite number above 0, got nan"),
    "learning rate that blows up": ([*SUPERNET, "--lr", "1e30", "--epochs", "4"], "try a lower lr"),
    "momentum of one": ([*SUPERNET, "--momentum", "1"], "momentum"),
    "weight decay below zero": ([*SUPERNET, "--weight-decay", "-1"], "weight_decay"),
    "label smoothing of one": ([*SUPERNET, "--label-smoothing", "1"], "label_smoothing"),
    "milestone after the end": (
        [*SUPERNET, "--milestones", "1.5"],
        "milestones must be a number above 0 and below 1, got 1.5",
    ),
    "subset of nothing": ([*SUPERNET, "--subset", "0"], "0"),
    "subset below zero": ([*SUPERNET, "--subset", "-8"], "-8"),
    "width of zero": ([*SUPERNET, "--width", "0"], "width must be a whole number of at least 8, got 0"),
    "width too narrow": ([*SUPERNET, "--width", "4"], "width must be a whole number of at least 8, got 4"),
    "bottleneck of nothing": ([*SUPERNET, "--rd-ratio", "0"], "rd_ratio must be the bottleneck's share"),
    "bottleneck for SGE": ([*SUPERNET, "--attention", "sge", "--rd-ratio", "0.5"], "rd_ratio"),
    "stem stride of zero": ([*SUPERNET, "--stem-stride", "0"], "stem_stride"),
    "stage without blocks": ([*SUPERNET, "--blocks", "1", "0"], "positive numbers of blocks of the stages"),
    "five objects": ([*SUPERNET, "--objects", "5"], "objects must be a whole number in 1..3, got 5"),
    "objects in photographs": (["supernet", *TRAIN, "--dataset", "cifar10", "--objects", "2"], "no option 'objects'"),
    "seed below zero": ([*SUPERNET, "--seed", "-1"], "seed"),
    "no seeds": (["run", *TASK, "--seeds"], "seed"),
    "no workers": (["bench", *TASK, "--workers", "0"], "workers must be a whole number of at least 1, got 0"),
    "no random schemes": (["run", *TASK, "--random-schemes", "0"], "at least one random scheme"),
    "search without steps": (["search", "--supernet", "RUNS/supernet", "--steps", "0"], "steps"),
    "search without budget": (["search", "--supernet", "RUNS/supernet", "--budget", "0"], "budget"),
    "calibration from one image": (["search", "--supernet", "RUNS/supernet", "--recalibrate", "1"], "recalibrate"),
    "search of a folder that is not there": (["search", "--supernet", "RUNS/none"], "no run folder"),
    "search of a retraining": (["search", "--supernet", "RUNS/ean"], "holds a retrain run, expected a supernet run"),
    "retraining from a supernet": ([*RETRAIN, "--scheme", "RUNS/supernet"], "expected a search run"),
    "measuring a supernet": (["measure", "RUNS/supernet"], "expected a retrain run"),
    "measuring nothing": (["measure"], "what to measure must be at least one folder"),
    "measuring in no rounds": (["measure", "RUNS/ean", "--rounds", "0"], "rounds"),
    "measuring batches of none": (["measure", "RUNS/ean", "--batch-size", "0"], "(0, 3, 32, 32)"),
    "report of a folder that is not there": (["report", "RUNS/none"], "there is no folder"),
    "report of runs without retraining": (["report", "RUNS/supernet"], "no finished retraining"),
}


def fails(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    """The command ends with exit code 2 and the message, and shows no traceback."""
    try:
        code = main(arguments)
    except SystemExit as exit:  # tyro's own complaints
        code = exit.code
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert code == 2, shown
    assert message in shown
    assert "Traceback" not in shown


def files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_explained_and_change_nothing(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments, message = BAD_ARGUMENTS[name]
    arguments = [a.replace("RUNS", str(runs / "seed-0")) for a in arguments]
    if arguments[0] in COMMANDS and arguments[0] != "measure":
        arguments += ["--out", str(tmp_path / "out")]
    before = files(runs)
    capsys.readouterr()
    fails(arguments, message, capsys)
    assert files(runs) == before
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize("name", ["backbone", "share-full", "ean", "supernet"])
def test_a_run_folder_gives_back_its_network(name: str, runs: Path) -> None:
    folder = runs / "seed-0" / name
    config, result = (json.loads((folder / f"{file}.json").read_text()) for file in ("config", "result"))
    net = load_network(str(folder))
    assert not net.training
    assert net.scheme == Scheme.parse(config.get("scheme", "1-1"))
    data = Task(subset=64).data()
    split, key = (data.val, "val_accuracy_full") if name == "supernet" else (data.test, "test_accuracy")
    assert evaluate(net, split, device="cpu") == result[key]
    with pytest.raises(ValueError, match="holds a search run, expected a supernet or retrain run"):
        load_network(runs / "seed-0" / "search")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_network(runs)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_keys(path: Path) -> None:
    save_file({"head.weight": torch.zeros(2)}, path)


def other_shapes(path: Path) -> None:
    state = load_file(path)
    save_file({**state, "fc.weight": torch.zeros(3, 3)}, path)


BROKEN_RUNS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated weights": ("weights.safetensors", truncate, "is not a whole file of plain weights"),
    "weights that are text": (
        "weights.safetensors",
        lambda p: p.write_text("hello"),
        "is not a whole file of plain weights",
    ),
    "weights that are empty": (
        "weights.safetensors",
        lambda p: p.write_bytes(b""),
        "is not a whole file of plain weights",
    ),
    "weights that are a pickle": (
        "weights.safetensors",
        lambda p: torch.save({}, p),
        "is not a whole file of plain weights",
    ),
    "foreign weights": ("weights.safetensors", other_keys, "do not fit this network"),
    "weights of another shape": ("weights.safetensors", other_shapes, "fc.weight is (3, 3), expected"),
    "weights that are gone": ("weights.safetensors", Path.unlink, "there is no weights file"),
    "truncated configuration": ("config.json", truncate, "is not a JSON file"),
    "configuration that is gone": ("config.json", Path.unlink, "is no run folder"),
    "result that is gone": ("result.json", Path.unlink, "is not finished"),
}


@pytest.mark.parametrize("name", BROKEN_RUNS)
def test_a_broken_run_folder_is_explained(name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, damage, message = BROKEN_RUNS[name]
    supernet = tmp_path / "supernet"
    shutil.copytree(runs / "seed-0" / "supernet", supernet)
    damage(supernet / file)
    before = files(supernet)
    fails(["search", "--supernet", str(supernet), "--no-progress", "--out", str(tmp_path / "out")], message, capsys)
    assert files(supernet) == before


def folder_of_images(root: Path, classes: int, broken: bool = False) -> None:
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.full((20, 20, 3), 20 * i, np.uint8)).save(root / f"class{c}" / f"{i}.png")
    if broken:
        (root / "class0" / "3.png").write_bytes(b"no picture")


BROKEN_DATA: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "CIFAR-10 that is not there": (lambda p: None, "cifar10", "cifar10"),
    "CIFAR-10 that is truncated": (lambda p: (p / "cifar10.npz").write_bytes(b"PK\3\4half"), "cifar10", "cifar10.npz"),
    "folder that is not there": (lambda p: None, "image_folder:{}/nowhere", "nowhere"),
    "folder that is empty": (lambda p: (p / "empty").mkdir(), "image_folder:{}/empty", "empty"),
    "folder with one class": (lambda p: folder_of_images(p / "one", 1), "image_folder:{}/one", "class"),
    "folder with a broken picture": (lambda p: folder_of_images(p / "bad", 3, True), "image_folder:{}/bad", "3.png"),
}


@pytest.mark.parametrize("name", BROKEN_DATA)
def test_broken_data_is_explained(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make, dataset, message = BROKEN_DATA[name]
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    arguments = [
        "supernet",
        "--dataset",
        dataset.format(root),
        "--data-dir",
        str(root),
        "--no-progress",
        "--device",
        "cpu",
    ]
    fails([*arguments, "--out", str(tmp_path / "out")], message, capsys)
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_folder_of_another_run_is_not_overwritten(runs: Path, capsys: pytest.CaptureFixture) -> None:
    before = files(runs)
    command = [*SUPERNET, "--batch-size", "16", "--out", str(runs / "seed-0" / "supernet")]
    fails(command, "holds a run of another configuration: train.batch_size was 32, now 16", capsys)
    assert files(runs) == before


def test_a_folder_of_other_files_and_a_file_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    fails([*SUPERNET, "--out", str(tmp_path / "thesis")], "so it is no run folder", capsys)
    fails([*SUPERNET, "--out", str(tmp_path / "thesis" / "chapter.txt")], "is a file", capsys)
    fails([*SUPERNET, "--out", str(tmp_path / "thesis" / "chapter.txt" / "run")], "chapter.txt", capsys)
    assert {p.name for p in tmp_path.rglob("*")} == {"thesis", "chapter.txt"}


def test_a_broken_checkpoint_is_explained_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    fails([*SUPERNET, "--lr", "1e30", "--out", str(out)], "try a lower lr", capsys)
    (out / "checkpoint.pt").write_bytes(b"half a checkpoint")
    fails([*SUPERNET, "--lr", "1e30", "--out", str(out)], "delete it to start this run anew", capsys)
    assert (out / "checkpoint.pt").read_bytes() == b"half a checkpoint"


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        fails([*SUPERNET, "--out", str(tmp_path / "out")], "another process is working in", capsys)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_explained_and_leaves_no_half_files(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "out" / "config.json"))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        fails([*SUPERNET, "--out", str(tmp_path / "out")], os.strerror(number), capsys)
    assert not files(tmp_path / "out")
    assert main([*SUPERNET, "--out", str(tmp_path / "out")]) == 0  # with space again, the same command works


def test_a_disk_that_fills_up_at_the_end_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import ean_lib.runs.run as module

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_weights", refuse)
        fails([*SUPERNET, "--out", str(tmp_path / "out")], "No space left on device", capsys)
    assert (tmp_path / "out" / "checkpoint.pt").exists()
    assert main([*SUPERNET, "--out", str(tmp_path / "out")]) == 0


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EAN_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown backbone"):
        main([*SUPERNET, "--backbone", "resnet21", "--out", str(tmp_path / "out")])


def test_after_a_mistake_the_mended_command_works_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    fails([*SUPERNET, "--backbone", "resnet21", "--out", str(out)], "unknown backbone", capsys)
    assert not out.exists()
    fails(
        [*SUPERNET, "--batch-size", "4096", "--out", str(out)],
        "batch_size must be at most 64, the number of training images",
        capsys,
    )
    assert main([*SUPERNET, "--out", str(out)]) == 0


def test_there_are_at_least_forty_kinds_of_bad_input() -> None:
    assert len(BAD_ARGUMENTS) + len(BROKEN_RUNS) + len(BROKEN_DATA) >= 40


@pytest.mark.slow
def test_the_whole_method_runs_on_overlaid_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 5200), ("test", 50)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = (np.arange(count) % 10).astype(np.uint8)
        checksum = cifar.to_split("cifar10", arrays[f"x_{part}"], arrays[f"y_{part}"]).checksum
        monkeypatch.setitem(cifar.CHECKSUMS, part, checksum)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # worker processes would look for the real photographs
    options = ["--dataset", "cued_photos", "--setting", "easy", "--pictures", "2", "--cue", "side"]
    options += ["--data-dir", str(tmp_path), "--retrain.epochs", "1", "--retrain.batch-size", "32"]
    options += ["--supernet.epochs", "1", "--supernet.batch-size", "32", "--search.steps", "2", "--recalibrate", "32"]
    assert main(["run", *TASK, *options, "--out", str(tmp_path / "run")]) == 0
    forms = {"backbone", "org-full", "share-full", "ean", "random-1", "constant", "late"}
    assert {path.name for path in (tmp_path / "run" / "seed-0").iterdir()} == {*forms, "supernet", "search"}
    config = json.loads((tmp_path / "run" / "seed-0" / "ean" / "config.json").read_text())
    assert config["task"]["cue"] == "side" and config["train"]["lr"] == 0.2

"""A run folder: held only while it is worked in, never somebody else's, and readable by later versions."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ean_lib import SearchConfig, TrainConfig, load_data, load_network
from ean_lib.experiments import steps
from ean_lib.experiments.bench import run_scores
from ean_lib.experiments.steps import read_finished_run, run_retrain, run_search, run_supernet
from ean_lib.experiments.task import Task
from ean_lib.runs import BusyError, Run, Runtime, files, read_json, rebuild, to_json, write_atomically
from ean_lib.runs.config import FORMAT, differences, is_ours, read_config
from ean_lib.runs.records import load_record

TASK = Task(subset=64, blocks=(1, 1), width=8)
TRAIN = TrainConfig(epochs=2, batch_size=32)
RUNTIME = Runtime(device="cpu", progress=False)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "supernet"
    run_supernet(TASK, TRAIN, 0, out, RUNTIME)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_an_interrupted_run_goes_on_in_the_same_process_while_its_traceback_lives(supernet, tmp_path, monkeypatch):
    """As in a notebook, which keeps the last error: whatever was held in the run's frames must be free again."""
    save, kept = Run.save_checkpoint, []

    def interrupt(run: Run, state: dict) -> None:
        save(run, state)
        raise KeyboardInterrupt

    for kind, call in (
        ("supernet", lambda out: run_supernet(TASK, TRAIN, 0, out, RUNTIME)),
        ("retrain", lambda out: run_retrain(TASK, "1-0", TRAIN, 0, out, RUNTIME)),
    ):
        monkeypatch.setattr(Run, "save_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            call(tmp_path / kind)
        kept.append(caught.value)  # the traceback holds the frames, and they hold the run
        monkeypatch.setattr(Run, "save_checkpoint", save)
        assert (tmp_path / kind / "checkpoint.pt").exists()
        call(tmp_path / kind)
    assert contents(tmp_path / "supernet")["weights.safetensors"] == contents(supernet)["weights.safetensors"]

    calls = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        raise RuntimeError("the reward broke")

    monkeypatch.setattr(steps, "search", fail)
    with pytest.raises(RuntimeError) as caught:
        run_search(supernet, SearchConfig(steps=2), 0, tmp_path / "search", RUNTIME, recalibrate=None)
    kept.append(caught.value)
    monkeypatch.undo()
    found = run_search(supernet, SearchConfig(steps=2), 0, tmp_path / "search", RUNTIME, recalibrate=None)
    assert calls and found.evaluations and all(error.__traceback__ for error in kept)


@pytest.mark.parametrize("moment", ["environment", "write_atomically"])
def test_an_interruption_while_a_run_begins_frees_it(tmp_path: Path, monkeypatch, moment: str) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ean_lib.runs.run.{moment}", interrupt)
    run = Run(tmp_path / "run", {"kind": "test"})
    with pytest.raises(KeyboardInterrupt), run:
        raise AssertionError("it should not have begun")
    monkeypatch.undo()
    with run, pytest.raises(BusyError, match="another process is working in"), Run(tmp_path / "run", {"kind": "test"}):
        pass
    with Run(tmp_path / "run", {"kind": "test"}):
        pass


def test_a_run_can_be_entered_inside_itself_and_is_held_to_the_outer_end(tmp_path: Path) -> None:
    run, other = (Run(tmp_path / "run", {"kind": "test"}) for _ in range(2))
    with run:
        with run:
            pass
        with pytest.raises(BusyError), other:
            pass
    with other:
        other.finish({"value": 1})
    assert run.finished and run.result == {"value": 1}


def test_a_change_of_directory_does_not_move_a_run(tmp_path: Path, monkeypatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = Run("run", {"kind": "test"})
    with run:
        monkeypatch.chdir(tmp_path / "there")
        run.finish({"value": 1})
    assert run.result == {"value": 1}
    assert (tmp_path / "here" / "run" / "result.json").exists() and not list((tmp_path / "there").iterdir())


# What lies in a folder that is not ours stays as it is.


@pytest.mark.parametrize(
    "text",
    ['{"model_type": "bert"}', '{"kind": "deployment"}', '{"format": "yaml", "kind": "x"}', "[1, 2]", '"text"', "3"],
)
def test_a_folder_with_another_programs_config_is_neither_written_to_nor_cleaned(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / ".download.part").write_text("half of somebody's film")
    (tmp_path / ".config.json.77.part").write_text("another half")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"its config.json is not a run's; nothing was changed"):
        run_supernet(TASK, TRAIN, 0, tmp_path, RUNTIME)
    with pytest.raises(ValueError, match=r"not a run's"):
        read_finished_run(tmp_path, "supernet")
    assert contents(tmp_path) == before and not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", ".bashrc", "film.part", ".film.part", "model/weights.pt"])
def test_a_folder_with_files_is_not_taken_for_an_empty_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=r"holds files but no config.json, such as"), Run(tmp_path, {"kind": "test"}):
        pass
    assert contents(tmp_path) == {name: b"mine"}


def test_only_our_own_half_written_files_are_removed(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {"kind": "test"}):
        pass
    ours, strange = tmp_path / "run" / files.part_name("metrics.jsonl"), tmp_path / "run" / ".film.part"
    ours.write_text("half")
    strange.write_text("half of a film")
    Run(tmp_path / "run", {"kind": "test"})
    assert ours.exists(), "looking at a run changes nothing"
    with Run(tmp_path / "run", {"kind": "test"}):
        assert not ours.exists() and strange.exists()


def test_half_written_files_of_two_containers_have_different_names(monkeypatch) -> None:
    """They can share a folder, and in each the process has the same id."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    names = {files.part_name("config.json") for _ in range(100)}
    assert len(names) == 100 and all(name.startswith(".config.json.") and name.endswith(".part") for name in names)
    assert socket.gethostname().partition(".")[0].replace("-", "") in names.pop().replace("-", "")


# What a result depends on is in the fingerprint.


def write_pictures(folder: Path, part: str, per_class: int, shade: int) -> None:
    generator = np.random.default_rng(shade)
    for c in ("a", "b"):
        (folder / part / c).mkdir(parents=True, exist_ok=True)
        for n in range(per_class):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / part / c / f"{n}.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for shade, part in enumerate(("train", "val", "test")):
        write_pictures(tmp_path / "pictures", part, 16, shade)
    return tmp_path / "pictures"


def stopped(call, monkeypatch, at: str) -> None:
    """Call until the first checkpoint or scores are there."""
    write = getattr(Run, at)

    def stop(run: Run, *arguments: object) -> None:
        write(run, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, at, stop)
        with pytest.raises(KeyboardInterrupt):
            call()


def test_a_run_whose_other_parts_of_the_data_have_changed_does_not_go_on(pictures: Path, tmp_path, monkeypatch):
    task = Task(f"image_folder:{pictures}", "resnet20", blocks=(1, 1), width=8)
    config = TrainConfig(epochs=2, batch_size=8)
    monkeypatch.setattr(Task, "data", lambda task, root: load_data(task.dataset, root, size=16))  # read anew each time
    supernet, search, retrain = tmp_path / "supernet", tmp_path / "search", tmp_path / "retrain"
    run_supernet(task, config, 0, supernet, RUNTIME)

    def searching() -> object:
        return run_search(supernet, SearchConfig(steps=2), 0, search, RUNTIME, recalibrate=None)

    def retraining() -> object:
        return run_retrain(task, "1-0", config, 0, retrain, RUNTIME)

    stopped(searching, monkeypatch, "write_metrics")
    stopped(retraining, monkeypatch, "save_checkpoint")

    write_pictures(pictures, "val", 20, shade=9)
    with pytest.raises(ValueError, match="another configuration: val_data was"):
        searching()
    with pytest.raises(ValueError, match="another configuration: val_data was"):
        retraining()
    shutil.rmtree(pictures / "val")
    write_pictures(pictures, "val", 16, shade=1)
    write_pictures(pictures, "test", 20, shade=9)
    searching()  # it never looks at test images
    with pytest.raises(ValueError, match="another configuration: test_data was"):
        retraining()


def test_scores_do_not_outlive_the_weights_or_the_way_of_scoring(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "bench"
    run_scores(TASK, TRAIN, 0, out, RUNTIME)
    config = read_config(out / "scores")
    assert config["supernet"] == steps.weights_checksum(out) and {"data", "val_data", "scoring"} <= set(config)
    monkeypatch.setattr("ean_lib.experiments.bench.SCORING_VERSION", 1_000)
    with pytest.raises(ValueError, match="another configuration: scoring was"):
        run_scores(TASK, TRAIN, 0, out, RUNTIME)
    monkeypatch.undo()
    weights = files.load_weights(out / "weights.safetensors")
    files.save_weights(
        out / "weights.safetensors", {k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}
    )
    with pytest.raises(ValueError, match="another configuration: supernet was"):
        run_scores(TASK, TRAIN, 0, out, RUNTIME)


# Configurations that age well.


@dataclass(frozen=True)
class Options:
    lr: float = 0.1
    milestones: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class NewerOptions(Options):
    ema: float = 0.0


def test_a_new_option_with_a_neutral_default_leaves_runs_as_they_are(tmp_path: Path) -> None:
    config = {"kind": "test", "train": dataclasses.asdict(Options())}
    run = Run(tmp_path, config, parts={"train": Options})
    with run:
        run.write_metrics([{"epoch": 1}])
    newer = {"kind": "test", "train": dataclasses.asdict(NewerOptions())}
    with Run(tmp_path, newer, parts={"train": NewerOptions}) as again:  # it goes on
        again.finish({"value": 1})
    assert Run(tmp_path, newer, parts={"train": NewerOptions}).result == {"value": 1}
    other = newer | {"train": newer["train"] | {"ema": 0.9}}
    with pytest.raises(ValueError, match=r"train.ema was 0.0, now 0.9"):
        Run(tmp_path, other, parts={"train": NewerOptions})


def test_a_run_of_a_newer_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    newer = {"kind": "test", "train": dataclasses.asdict(NewerOptions())}
    with Run(tmp_path, newer, parts={"train": NewerOptions}) as run:
        run.finish({"value": 1})
    with pytest.raises(ValueError, match=r"config.json: Options has no option 'ema'; it has lr, milestones.*update"):
        Run(tmp_path, {"kind": "test", "train": dataclasses.asdict(Options())}, parts={"train": Options})
    config = read_json(tmp_path / "config.json") | {"format": FORMAT + 1}
    (tmp_path / "config.json").write_text(to_json(config))
    with pytest.raises(ValueError, match=f"in format {FORMAT + 1}; this one knows formats up to {FORMAT}: update"):
        read_config(tmp_path)


def test_the_oldest_recorded_runs_are_read_and_not_taken_for_other_ones(tmp_path: Path, supernet: Path) -> None:
    """Of format 1, without a number; those on CIFAR-10 are older than the options rd_ratio and warmup."""
    for name, path in (("cifar10", "cifar10-se/seed-0/supernet"), ("cued_shapes", "seed-0/ean")):
        run = load_record(name).run(path)
        assert "format" not in run.config and is_ours(run.config)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(to_json(run.config))
        (folder / "result.json").write_text(to_json(run.result))
        (folder / "metrics.jsonl").write_text("")
        shutil.copy(run.weights, folder / "weights.safetensors")
        assert load_network(folder).state_dict().keys() == run.network().state_dict().keys()
        config, result = read_finished_run(folder, "supernet", "retrain")
        assert config == run.config and result == run.result

        today = dict(run.config) | {"format": FORMAT, "val_data": "a checksum", "test_data": "another"}
        today["task"] = dataclasses.asdict(rebuild(Task, run.config["task"]))
        today["train"] = dataclasses.asdict(rebuild(TrainConfig, run.config["train"]))
        finished = Run(folder, today, parts=steps.OPTIONS)
        assert finished.finished and finished.result == run.result
        with pytest.raises(ValueError, match=r"train.epochs was .*, now 99"):
            Run(folder, today | {"train": today["train"] | {"epochs": 99}}, parts=steps.OPTIONS)
    assert {"rd_ratio"} & set(load_record("cifar10").run("cifar10-se/seed-0/supernet").config["task"]) == set()


def test_an_unfinished_run_that_did_not_note_its_images_does_not_go_on() -> None:
    old, new = {"kind": "search", "data": "a"}, {"kind": "search", "data": "a", "val_data": "b", "format": FORMAT}
    assert differences(old, new) == ["val_data was None, now 'b'"]
    assert differences(old, new, finished=True) == []
    assert differences(new, new | {"val_data": "c"}, finished=True) == ["val_data was 'b', now 'c'"]


# Damaged folders are answered by a sentence that names the file.


def change(folder: Path, file: str, edit) -> None:
    values = json.loads((folder / file).read_text())
    edit(values)
    (folder / file).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("task"), "config.json has no 'task' where it should"),
        (lambda c: c.pop("train"), "config.json has no 'train' where it should"),
        (lambda c: c["train"].update(ema=0.9), "config.json: TrainConfig has no option 'ema'; it has epochs"),
        (lambda c: c["task"].update(depth=3), "config.json: Task has no option 'depth'; it has dataset"),
        (lambda c: c.update(task=None), "Task is made from a JSON object, got None"),
        (lambda c: c.update(task=[1]), r"Task is made from a JSON object, got \[1\]"),
        (lambda c: c.pop("kind"), "not a run's"),
        (lambda c: c.update(format="2"), "not a run's"),
        (lambda c: c.update(format=None), "not a run's"),
    ],
)
def test_a_run_folder_with_an_unknown_or_missing_key_is_refused_in_a_sentence(supernet, tmp_path, edit, message):
    shutil.copytree(supernet, tmp_path / "supernet")
    change(tmp_path / "supernet", "config.json", edit)
    with pytest.raises(ValueError, match=message):
        run_search(tmp_path / "supernet", SearchConfig(steps=1), 0, tmp_path / "search", RUNTIME)
    assert not (tmp_path / "search").exists()


def test_broken_files_of_a_run_are_named(supernet: Path, tmp_path: Path) -> None:
    search = tmp_path / "search"
    run_search(supernet, SearchConfig(steps=1), 0, search, RUNTIME, recalibrate=None)
    change(search, "result.json", lambda result: result.pop("scheme"))
    with pytest.raises(ValueError, match=r"result.json has no 'scheme' where it should"):
        run_retrain(TASK, str(search), TRAIN, 0, tmp_path / "ean", RUNTIME)
    (search / "result.json").unlink()
    (search / "metrics.jsonl").write_text('{"scheme": "0-0", "accuracy": 50.0}\n{"scheme": "0-\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is not JSON"):
        run_search(supernet, SearchConfig(steps=1), 0, search, RUNTIME, recalibrate=None)
    (search / "metrics.jsonl").write_text('{"scheme": "0-0"}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl has no 'accuracy' where it should"):
        run_search(supernet, SearchConfig(steps=1), 0, search, RUNTIME, recalibrate=None)


def test_numbers_of_numpy_and_torch_are_stored_as_numbers(tmp_path: Path) -> None:
    values = {"a": np.float32(0.5), "b": torch.tensor(3), "c": np.arange(3), "d": Path("x")}
    write_atomically(tmp_path / "x.json", to_json(values))
    assert read_json(tmp_path / "x.json") == {"a": 0.5, "b": 3, "c": [0, 1, 2], "d": "x"}


def test_scoring_needs_no_run_folders() -> None:
    """Neither a lock nor a record is behind finding a device, loading data and scoring schemes."""
    code = "import sys, types, importlib.util as u\n"
    code += (
        "top = types.ModuleType('ean_lib'); top.__path__ = list(u.find_spec('ean_lib').submodule_search_locations)\n"
    )
    code = "import sys, types; from pathlib import Path\n"
    code += "top = types.ModuleType('ean_lib'); top.__path__ = [str(Path('ean_lib').resolve())]\n"
    code += "sys.modules['ean_lib'] = top\n"  # without what its __init__ imports for everybody
    code += "import ean_lib.supernet, ean_lib.devices\n"
    code += "print([name for name in sys.modules if name.startswith('ean_lib.runs')])"
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

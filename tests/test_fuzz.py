"""Nonsense in, a sentence out: configurations, schemes, command lines and run folders that nobody should have made.

Whatever they are given, they work, or raise one of the errors that the command line shows as a sentence.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ean_lib import Scheme, SearchConfig, TrainConfig, load_network
from ean_lib.cli import main
from ean_lib.experiments import steps
from ean_lib.experiments.report import collect
from ean_lib.experiments.task import Task
from ean_lib.runs import save_weights

EXPECTED = (ValueError, OSError, ArithmeticError, ImportError)  # NonFiniteLossError is an ArithmeticError
FUZZ = settings(
    derandomize=True, database=None, deadline=None, max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

NUMBERS = st.sampled_from(
    [0, 1, 2, 3, -1, 8, 64, 10**30, 0.5, 0.0, -0.0, 1e-300, 1e308, float("nan"), float("inf"), True, False, 1j]
)
OF_OTHERS = st.sampled_from(
    [
        np.int64(2),
        np.float32(0.5),
        np.bool_(True),
        np.array([1, 2]),
        np.array(["a"]),
        torch.tensor(1),
        torch.tensor([0.5]),
    ]
)
TEXTS = st.sampled_from(
    ["", " ", "se", "dia", "step", "1-0", "1-1", "full", "none", "None", "True", "0", "-1", "nan", "λ", "\x00", "../..",
     "timm:", "timm:gc", "image_folder:", "image_folder:/nowhere", "cued_shapes", "resnet20", "a" * 300, "💥"]
)  # fmt: skip
SINGLE = st.one_of(NUMBERS, OF_OTHERS, TEXTS, st.none())
VALUES = st.one_of(SINGLE, st.lists(SINGLE, max_size=3), st.tuples(SINGLE), st.dictionaries(TEXTS, NUMBERS, max_size=2))
JSON = st.recursive(
    st.one_of(st.sampled_from([0, 1, -1, 0.5, 10**30, True, False, None]), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


def works_or_explains(call: Callable[[], Any]) -> Any:
    """What the call returns, or None where it explains what is wrong in words."""
    try:
        return call()
    except EXPECTED as error:
        assert len(str(error).split()) >= 4, repr(error)
    return None


@pytest.mark.parametrize("kind", [TrainConfig, SearchConfig, Task])
@FUZZ
@given(data=st.data())
def test_options_are_taken_as_plain_values_or_refused(kind: type, data: st.DataObject) -> None:
    names = st.sampled_from([field.name for field in fields(kind)])
    options = data.draw(st.dictionaries(names, VALUES, max_size=3))
    made = works_or_explains(lambda: kind(**options))
    if made is not None:
        stored = json.loads(json.dumps(asdict(made), allow_nan=False))
        again = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
        assert kind(**again) == made
        hash(made)


@FUZZ
@given(value=VALUES, stages=st.one_of(st.none(), VALUES, st.just((1, 1))))
def test_a_scheme_is_read_or_refused(value: Any, stages: Any) -> None:
    scheme = works_or_explains(lambda: Scheme.parse(value, stages))
    assert scheme is None or Scheme.parse(str(scheme), scheme.stages) == scheme


@FUZZ
@given(options=st.dictionaries(st.sampled_from([field.name for field in fields(Task)]), VALUES, max_size=3))
def test_a_task_makes_a_network_or_says_why_not(options: dict[str, Any]) -> None:
    works_or_explains(lambda: Task(**{"blocks": (1, 1), "width": 8} | options).network(4))


class Reached(ValueError):
    """A command line is complete: what it asks for would begin now."""


OPTIONS = """
--dataset --backbone --attention --preset --seed --out --epochs --batch-size --lr --share --schedule --milestones
--scheme --width --blocks --subset --objects --method --recalibrate --supernet --rounds --seeds --forms --device
--no-progress --help -- -x
""".split()  # noqa: SIM905


@settings(FUZZ, max_examples=40)
@given(
    command=st.sampled_from(["supernet", "search", "retrain", "measure", "run", "report", "bench", "fly", ""]),
    words=st.lists(st.one_of(st.sampled_from(OPTIONS), TEXTS, st.sampled_from(["0", "3", "0.5", "1 1"])), max_size=6),
)
def test_a_command_line_is_understood_or_answered(
    command: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def begin(*_: Any, **__: Any) -> None:
        raise Reached("all of this command line is understood")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steps, "open_run", begin)
    monkeypatch.setattr("ean_lib.experiments.run_all.run_jobs", begin)
    monkeypatch.setattr("ean_lib.experiments.bench.run_jobs", begin)
    try:
        code = main([command, *words])
    except SystemExit as exit:  # tyro's own answers
        code = exit.code
    assert code in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `ean retrain` leaves it, of a network that was not trained."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    task, config, scheme = Task(blocks=(1, 1), width=8), TrainConfig(), Scheme.parse("1-0")
    folder.mkdir()
    named = {"scheme": str(scheme), "share": "stage", "form": "ean"}
    whole = {"kind": "retrain", "task": asdict(task), "seed": 0, "data": "abc", "train": asdict(config)} | named
    (folder / "config.json").write_text(json.dumps(whole))
    (folder / "result.json").write_text(json.dumps(named | {"connected": 1, "test_accuracy": 50.0, "test_images": 4}))
    save_weights(folder / "weights.safetensors", task.network(8, scheme).state_dict())
    assert len(collect([folder])) == 1 and load_network(folder).scheme == scheme
    return folder


def changed(record: Any, data: st.DataObject) -> Any:
    """The record with one of its values, at any depth, gone or replaced, or with a value more."""
    if not isinstance(record, dict) or data.draw(st.integers(0, 9)) == 0:
        return data.draw(JSON)
    record = copy.copy(record)
    key = data.draw(st.sampled_from([*record, "new"]))
    if key == "new" or data.draw(st.booleans()):
        record[key] = changed(record.get(key), data)
    else:
        del record[key]
    return record


@settings(FUZZ, max_examples=50)
@given(data=st.data())
def test_a_run_folder_of_another_hand_is_read_or_refused(data: st.DataObject, retrained: Path) -> None:
    name = data.draw(st.sampled_from(["config.json", "result.json"]))
    file = retrained / name
    before = file.read_bytes()
    try:
        text = json.dumps(changed(json.loads(before), data))
        file.write_text(text[: data.draw(st.integers(0, len(text)))] if data.draw(st.integers(0, 9)) == 0 else text)
        works_or_explains(lambda: steps.read_finished_run(retrained, "retrain"))
        works_or_explains(lambda: load_network(retrained))
        works_or_explains(lambda: collect([retrained]))
        works_or_explains(lambda: steps.run_retrain(Task(blocks=(1, 1), width=8), "1-0", TrainConfig(), 0, retrained))
    finally:
        file.write_bytes(before)

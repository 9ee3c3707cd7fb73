"""Networks of other libraries and modules of one's own from the command line, from supernet to report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from ean_lib import evaluate, load_network
from ean_lib.cli import main
from ean_lib.experiments.report import collect
from ean_lib.experiments.task import Task
from ean_lib.networks import PluggedNetwork
from ean_lib.runs import load_weights
from ean_lib.runs.jobs import Job, _can_be_sent

pytest.importorskip("timm")
ROOT = Path(__file__).resolve().parents[2]
TASK = ["--backbone", "timm:test_resnet", "--subset", "64", "--no-progress", "--device", "cpu"]
TRAIN = [*TASK, "--epochs", "1", "--batch-size", "32"]
MODULE = """
    import torch
    from torch import nn

    class Scale(nn.Module):
        def __init__(self, channels: int, groups: int = 1, centred: bool = False, start: float = 1.0):
            super().__init__()
            self.groups, self.centred = groups, centred
            self.scale = nn.Parameter(torch.full((channels, 1, 1), float(start)))

        def forward(self, x, state):
            return x * self.scale, state

    class Pooling(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x, state):
            return x.mean((2, 3)), state
"""


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module beside which the commands are started; its name."""
    (tmp_path / "my_gates.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    yield "my_gates"
    sys.modules.pop("my_gates", None)


def killed_after_its_first_checkpoint(arguments: list[str], out: Path) -> None:
    words = [sys.executable, "-m", "ean_lib.cli", *arguments, "--out", str(out)]
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    while not (out / "checkpoint.pt").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (out / "result.json").exists()


def test_a_plugged_network_from_supernet_to_report_killed_and_resumed(tmp_path: Path, capsys) -> None:
    supernet, found, ean, bare = (str(tmp_path / name) for name in ("supernet", "search", "ean", "backbone"))
    training = [*TASK, "--epochs", "8", "--batch-size", "32"]
    killed_after_its_first_checkpoint(["supernet", *training], tmp_path / "supernet")
    assert main(["supernet", *training, "--out", supernet]) == 0
    assert main(["supernet", *training, "--out", str(tmp_path / "whole")]) == 0
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("supernet", "whole")]
    assert weights[0] == weights[1]
    search = ["search", "--supernet", supernet, "--recalibrate", "64", "--no-progress", "--device", "cpu"]
    assert main([*search, "--max-connected", "1", "--steps", "4", "--out", found]) == 0
    scores = (tmp_path / "search" / "metrics.jsonl").read_text()
    (tmp_path / "search" / "result.json").unlink()
    assert main([*search, "--max-connected", "1", "--steps", "4", "--out", found]) == 0
    assert (tmp_path / "search" / "metrics.jsonl").read_text() == scores

    assert main(["retrain", *TRAIN, "--scheme", found, "--out", ean]) == 0
    assert main(["retrain", *TRAIN, "--scheme", "none", "--out", bare]) == 0
    assert main(["retrain", *TRAIN, "--scheme", "full", "--share", "none", "--out", str(tmp_path / "org")]) == 0
    assert main(["measure", ean, bare, str(tmp_path / "org"), "--rounds", "2", "--batch-size", "4"]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert "| cued_shapes | timm:test_resnet | none | backbone | `0-0-0-0` |" in capsys.readouterr().out
    for folder in (ean, bare, str(tmp_path / "org")):
        net = load_network(folder)
        result = json.loads((Path(folder) / "result.json").read_text())
        assert isinstance(net, PluggedNetwork) and str(net.scheme) == result["scheme"]
        assert evaluate(net, Task(subset=64).data().test, device="cpu") == result["test_accuracy"]
    assert set(collect([tmp_path]).backbone) == {"timm:test_resnet"}


def test_the_whole_method_in_one_command_with_a_frozen_backbone_and_a_constant_form(tmp_path: Path) -> None:
    """The backbone of another task: its weights are taken but for the head, and stay; the gates can be folded."""
    folder = tmp_path / "first"
    assert main(["retrain", *TRAIN, "--scheme", "none", "--out", str(folder)]) == 0
    begin = ["--weights", str(folder / "weights.safetensors"), "--new-head", "--freeze", "backbone"]
    options = ["--supernet.epochs", "1", "--supernet.batch-size", "32", "--retrain.epochs", "1"]
    options += ["--retrain.batch-size", "32", "--search.steps", "4", "--forms", "share-full", "ean", "constant"]
    command = ["run", *TASK, "--objects", "2", "--start", "identity", *begin, *options, "--out", str(tmp_path / "all")]
    assert main(command) == 0
    first = load_weights(folder / "weights.safetensors")
    last = load_weights(tmp_path / "all" / "seed-0" / "share-full" / "weights.safetensors")
    for key, value in first.items():
        if key != "connected":
            assert torch.equal(value, last[key]) == (not key.startswith("fc.")), key
    config = json.loads((tmp_path / "all" / "seed-0" / "search" / "config.json").read_text())
    assert config["recalibrate"] is None  # the statistics are frozen, too
    folded = load_network(tmp_path / "all" / "seed-0" / "constant")
    assert not any(key.startswith("attention_modules.") for key in folded.state_dict())
    (folder / "weights.safetensors").unlink()  # a trained network needs no weights to begin with
    assert isinstance(load_network(tmp_path / "all" / "seed-0" / "ean"), PluggedNetwork)


def test_a_module_of_ones_own_is_found_by_name_in_this_process_and_in_workers(tmp_path, my_module) -> None:
    chosen = [
        "--attention-module",
        f"{my_module}:Scale",
        "--attention-options",
        "groups=2",
        "centred=true",
        "start=0.5",
    ]
    out = tmp_path / "run"
    assert main(["retrain", *TRAIN, *chosen, "--scheme", "full", "--out", str(out)]) == 0
    net = load_network(out)
    module = net.connections()[0].module
    assert (type(module).__name__, module.groups, module.centred) == ("Scale", 2, True)
    assert collect([out]).attention.item() == "my_gates:Scale (groups 2, centred true, start 0.5)"
    task = Task(backbone="timm:test_resnet", attention_module=f"{my_module}:Scale")
    assert _can_be_sent(Job(main, task=task))
    code = f"from ean_lib.attention import create_attention; create_attention('{my_module}:Scale', 8)"
    script = tmp_path / "elsewhere" / "script.py"  # as the script `ean`, which does not look where it is started
    script.parent.mkdir()
    script.write_text(code)
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention-module", "my_gates:Scal"], "my_gates has no 'Scal'. Did you mean"),
        (["--attention-module", "my_gatez:Scale"], "my_gatez could not be imported"),
        (["--attention-module", "my_gates:nn"], "a class that inherits from nn.Module"),
        (["--attention-module", "my_gates:Pooling"], "y of shape (1, 32, 8, 8)"),
        (["--attention-module", "my_gates:Scale", "--attention-options", "group=2"], "Did you mean 'groups'"),
        (["--attention-module", "my_gates:Scale", "--attention-options", "groups=two"], "must be int, got 'two'"),
        (["--backbone", "timm:no_such_net"], "unknown network of timm 'no_such_net'"),
        (["--backbone", "torchvision:vit_b_16"], "cannot be run on an example"),
        (["--weights", "missing.pt"], "there is no weights file missing.pt"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_leave_no_folder(options, message, my_module, tmp_path, capsys) -> None:
    assert main(["retrain", *TRAIN, *options, "--scheme", "full", "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_constant_form_that_cannot_be_made_is_refused_before_anything_is_trained(tmp_path, capsys) -> None:
    command = [
        "run",
        *TASK,
        "--backbone",
        "timm:test_nfnet",
        "--forms",
        "ean",
        "constant",
        "--out",
        str(tmp_path / "new"),
    ]
    assert main(command) == 2
    assert "a gate is folded into the BatchNorm before it" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_other_weights_under_the_same_name_are_another_run(tmp_path, capsys) -> None:
    net = Task(backbone="timm:test_resnet").network(8)
    file = tmp_path / "net.pt"
    command = ["retrain", *TRAIN, "--weights", str(file), "--scheme", "none", "--out", str(tmp_path / "run")]
    for _ in range(2):
        torch.save(net.unplug().state_dict(), file)
        nn.init.zeros_(net.backbone.fc.weight)
        code = main(command)
    assert code == 2 and "initial_weights was" in capsys.readouterr().err

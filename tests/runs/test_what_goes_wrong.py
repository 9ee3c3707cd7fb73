"""A full disk, a read-only folder, a notebook interrupted or restarted: nothing is lost, and the same call goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from ean_lib import TrainConfig
from ean_lib.experiments.steps import run_retrain, run_supernet
from ean_lib.experiments.task import Task
from ean_lib.runs import Run, Runtime, write_atomically

ROOT = Path(__file__).resolve().parents[2]
TASK = Task(subset=64, blocks=(1, 1), width=8)
TRAIN = TrainConfig(epochs=2, batch_size=32)
RUNTIME = Runtime(device="cpu", progress=False)
# As TASK and TRAIN, with an epoch after which it can be interrupted and many that are left then.
CELL = """
from functools import partial
from pathlib import Path
import torch
from ean_lib import TrainConfig
from ean_lib.experiments.steps import run_supernet
from ean_lib.experiments.task import Task
from ean_lib.runs import Runtime
torch.set_num_threads(1)
task = Task(subset=64, blocks=(1, 1), width=8)
config = TrainConfig(epochs={epochs}, batch_size=32)
result = run_supernet(task, config, 0, Path({out!r}), Runtime(device="cpu", progress=False))
print("epochs", result["epochs"])
"""
DECIDE = ("config.json", "metrics.jsonl", "result.json", "weights.safetensors")


def outcome(folder: Path) -> dict[str, bytes]:
    """The files that decide a result."""
    return {name: (folder / name).read_bytes() for name in DECIDE}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 KB that lies in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_a_run_says_so_and_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    run_retrain(TASK, "1-0", TRAIN, 0, tmp_path / "whole", RUNTIME)
    full = r"checkpoint.pt could not be written \(No space left on device\).*it goes on"
    with pytest.raises(OSError, match=full) as caught:  # at the second epoch: there is no room for two checkpoints
        run_retrain(TASK, "1-0", TRAIN, 0, disk / "run", RUNTIME)
    assert caught.value.errno == errno.ENOSPC
    left = sorted(p.name for p in (disk / "run").iterdir() if p.name != ".lock")
    assert left == ["checkpoint.pt", "config.json", "metrics.jsonl", "provenance.json"], "no half-written file is left"
    remount(disk, "size=10m")
    run_retrain(TASK, "1-0", TRAIN, 0, disk / "run", RUNTIME)
    assert outcome(disk / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_read_only_folder_can_be_read_and_says_that_it_cannot_be_written(disk: Path, tmp_path, monkeypatch) -> None:
    remount(disk, "size=10m")
    finished = run_retrain(TASK, "1-0", TRAIN, 0, disk / "finished", RUNTIME)
    save = Run.save_checkpoint

    def stop(run: Run, state: dict) -> None:
        save(run, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save_checkpoint", stop)
        run_retrain(TASK, "1-0", TRAIN, 0, disk / "run", RUNTIME)
    remount(disk, "ro")
    assert run_retrain(TASK, "1-0", TRAIN, 0, disk / "finished", RUNTIME) == finished
    for name in ("run", "new"):
        with pytest.raises(OSError, match="Read-only file system"):
            run_retrain(TASK, "1-0", TRAIN, 0, disk / name, RUNTIME)
    remount(disk, "rw")
    run_retrain(TASK, "1-0", TRAIN, 0, disk / "run", RUNTIME)
    assert outcome(disk / "run") == outcome(disk / "finished")


def test_a_folder_below_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Also for those who may write everywhere."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"file/run/x could not be written \(Not a directory\)"):
        write_atomically(tmp_path / "file" / "run" / "x", "text")
    with pytest.raises(ValueError, match=r"the run folder .*file is a file"):
        run_supernet(TASK, TRAIN, 0, tmp_path / "file", RUNTIME)
    assert (tmp_path / "file").read_text() == "mine"


def wait_for(path: Path, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.005)


@pytest.mark.slow
def test_in_a_notebook_an_interrupted_or_restarted_run_goes_on_with_the_same_cell(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    epochs = 40
    run_supernet(TASK, TrainConfig(epochs=epochs, batch_size=32), 0, tmp_path / "whole", RUNTIME)
    manager, client = start_new_kernel(kernel_name="python3")

    def run_cell(name: str) -> str:
        return client.execute(CELL.format(epochs=epochs, out=str(tmp_path / name)))

    def reply(message: str) -> dict:
        while True:
            answer = client.get_shell_msg(timeout=120)
            if answer["parent_header"].get("msg_id") == message:
                return answer["content"]

    try:
        message = run_cell("interrupted")
        wait_for(tmp_path / "interrupted" / "checkpoint.pt")
        manager.interrupt_kernel()
        answer = reply(message)
        assert (answer["status"], answer["ename"]) == ("error", "KeyboardInterrupt")
        assert not (tmp_path / "interrupted" / "result.json").exists()
        answer = reply(run_cell("interrupted"))  # in the same kernel, which keeps the error and its frames
        assert answer["status"] == "ok", answer

        run_cell("restarted")
        wait_for(tmp_path / "restarted" / "checkpoint.pt")
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=120)
        assert not (tmp_path / "restarted" / "result.json").exists()
        answer = reply(run_cell("restarted"))
        assert answer["status"] == "ok", answer
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    for name in ("interrupted", "restarted"):
        assert outcome(tmp_path / name) == outcome(tmp_path / "whole")

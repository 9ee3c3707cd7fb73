"""kill -9 at random moments of supernet, search and retraining: each resumes to the same final bits."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pty
import random
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from filelock import FileLock

TASK = ["--subset", "256", "--blocks", "1", "1", "--width", "8", "--no-progress", "--device", "cpu"]
CONTEXT = multiprocessing.get_context("forkserver")
# With everything imported before the fork a child starts at once, so that the kills fall into the work.
CONTEXT.set_forkserver_preload(["ean_lib.cli", "ean_lib.data.cued_shapes", "torch._dynamo"])
KILLS = 17  # of each of three commands: more than fifty
ROOT = Path(__file__).resolve().parents[2]


def work(arguments: list[str]) -> None:
    """In a fresh process: one `ean` command, silent, on one thread."""
    import torch

    from ean_lib.cli import main

    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os._exit(main(arguments))


def start(arguments: list[str]) -> multiprocessing.Process:
    process = CONTEXT.Process(target=work, args=(arguments,))
    process.start()
    return process


def run_whole(arguments: list[str]) -> float:
    """Run to the end and return the seconds it took."""
    began = time.monotonic()
    process = start(arguments)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def run_with_kills(arguments: list[str], out: Path, seconds: float, moments: random.Random) -> list[dict[str, bytes]]:
    """Kill the command at random moments, `KILLS` times in unfinished work; the outcome of each time that it ended."""
    outcomes, kills = [], 0
    while kills < KILLS:
        process = start(arguments)
        time.sleep(moments.uniform(0.05, 0.9 * seconds))
        process.kill()
        process.join()
        kills += not (out / "result.json").exists()
        if (out / "result.json").exists():  # it got to the end between two kills: keep what it made, and begin anew
            run_whole(arguments)
            outcomes.append(outcome(out))
            shutil.rmtree(out)
    run_whole(arguments)
    return [*outcomes, outcome(out)]


def outcome(folder: Path) -> dict[str, bytes]:
    """Every file that decides a result; provenance and measure hold times, and the lock nothing."""
    others = ("provenance.json", "measure.json", ".lock")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in others}


@pytest.mark.slow
def test_killed_at_random_moments_every_command_ends_with_the_same_bits(tmp_path: Path) -> None:
    run_whole(["--help"])  # starts the fork server
    moments = random.Random(0)
    supernet = ["supernet", *TASK, "--epochs", "4", "--batch-size", "32", "--out"]
    retrain = ["retrain", *TASK, "--scheme", "1-0", "--epochs", "4", "--batch-size", "32", "--out"]
    search = ["search", "--supernet", str(tmp_path / "supernet"), "--no-progress", "--device", "cpu"]
    search += ["--steps", "40", "--recalibrate", "64", "--budget", "3", "--out"]
    for name, command in (("supernet", supernet), ("retrain", retrain), ("search", search)):
        whole, killed = tmp_path / name, tmp_path / f"{name}-killed"
        seconds = run_whole([*command, str(whole)])
        for end in run_with_kills([*command, str(killed)], killed, seconds, moments):
            assert end == outcome(whole)
        assert {"config.json", "result.json", "metrics.jsonl"} <= set(outcome(whole))


@pytest.mark.slow
def test_the_whole_method_at_a_time_gives_the_bits_of_one_after_another_also_when_killed(tmp_path):
    """Two workers of one thread each; they die with their parent, and the next call goes on and shows their bars."""
    options = ["--seeds", "0", "--supernet.epochs", "3", "--supernet.batch-size", "32", "--search.steps", "2"]
    options += ["--forms", "backbone", "share-full", "ean", "--retrain.epochs", "3", "--retrain.batch-size", "32"]

    def command(out: Path, threads: int, stderr: int = subprocess.DEVNULL) -> subprocess.Popen:
        words = [sys.executable, "-m", "ean_lib.cli", "run", *TASK, *options, "--progress", "--out", str(out)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": stderr}
        return subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, cwd=ROOT, **quiet)

    assert command(tmp_path / "one", threads=1).wait() == 0
    killed = command(tmp_path / "two", threads=2)
    while not list((tmp_path / "two").rglob("checkpoint.pt")):
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    for lock in (tmp_path / "two").rglob(".lock"):
        with FileLock(lock, timeout=30):  # the worker that held it is gone
            pass
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(screen, (24, 100))
    again, shown = command(tmp_path / "two", threads=2, stderr=terminal), b""
    os.close(terminal)
    with contextlib.suppress(OSError):  # a terminal ends with an error
        while read := os.read(screen, 4096):
            shown += read
    assert again.wait() == 0
    assert b"accuracy=" in shown
    for name in ("supernet", "search", "backbone", "share-full", "ean"):
        one, two = (outcome(tmp_path / folder / "seed-0" / name) for folder in ("one", "two"))
        assert one == two, name

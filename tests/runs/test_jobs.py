"""Several runs at a time: in worker processes where these can do them, and in this process where they cannot."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ean_lib.runs import Runtime
from ean_lib.runs.jobs import run_jobs

# As a notebook does it: the module and the jobs are defined in a __main__ that no worker process can import.
NOTEBOOK = """
import sys
from functools import partial
from pathlib import Path
from torch import nn
from ean_lib import TrainConfig, load_network, register_attention
from ean_lib.attention.se import SE
from ean_lib.experiments.steps import run_retrain
from ean_lib.experiments.task import Task
from ean_lib.runs import Runtime
from ean_lib.runs.jobs import run_jobs

@register_attention("mine")
class Mine(SE):
    pass

def jobs(attention):
    task = Task(attention=attention, blocks=(1, 1), width=8, subset=64)
    config = TrainConfig(epochs=1, batch_size=32)
    return [
        partial(run_retrain, task, "1-1", config, seed, out=Path(sys.argv[1]) / f"{attention}-{seed}")
        for seed in (0, 1)
    ]

runtime = Runtime(device="cpu", progress=False)
run_jobs(jobs("se"), runtime, workers=2)  # in workers
run_jobs(jobs("mine"), runtime, workers=2)
for seed in (0, 1):
    theirs, ours = (load_network(Path(sys.argv[1]) / f"{name}-{seed}").state_dict() for name in ("se", "mine"))
    assert all(theirs[name].equal(ours[name]) for name in theirs), "the same bits as in a worker"
"""


@pytest.mark.slow
def test_jobs_with_a_module_of_a_notebook_are_done_in_its_process_to_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NOTEBOOK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"se-0", "se-1", "mine-0", "mine-1"}


def end_this_process(out: Path, runtime: Runtime) -> None:
    if multiprocessing.parent_process() is not None:
        os._exit(9)


@pytest.mark.slow
def test_a_worker_that_is_ended_from_outside_is_named(tmp_path: Path) -> None:
    jobs = [partial(end_this_process, out=tmp_path / str(number)) for number in range(2)]
    with pytest.raises(ChildProcessError, match="a worker process was ended from outside"):
        run_jobs(jobs, Runtime(device="cpu", progress=False), workers=2)

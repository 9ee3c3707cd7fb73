"""Many runs, several at a time."""

import dataclasses
import functools
import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from ean_lib.attention.registry import is_registered_elsewhere
from ean_lib.checks import check_number
from ean_lib.devices import find_processes
from ean_lib.runs.run import BusyError
from ean_lib.runs.runtime import Runtime

Job = functools.partial  # of one of these functions, with all its arguments but `runtime`


def run_jobs(jobs: Sequence[Job], runtime: Runtime = Runtime(), workers: int | None = None) -> None:
    """Do all jobs, several at a time in processes of one thread each; jobs that are finished are passed over.

    On a CPU that is faster than one network on all threads, and the result does not depend on their number. Whoever
    works through the same jobs at the same time, on this machine or on another that sees the folders, shares them:
    a job is one run folder, and its lock says that it is being done.

    Args:
        jobs: each a run function with its keyword arguments, ``out`` among them; ``runtime`` is given here.
        workers: processes; None: one per thread of this CPU. On a GPU, or in a process of ``accelerate launch``, 1.
            1: this process does all, with all its threads, which round otherwise than one thread does. Otherwise
            a job has one thread, also where it is the only job. Where another process could not do a job, as it knows
            nothing of a module that a notebook registered, this process does all, one after the other, on one thread.

    Raises:
        ChildProcessError: if a worker process was ended from outside, for example for its memory.
    """
    if workers is None:
        device, processes = find_processes(runtime.device)
        alone = processes.num_processes == 1
        workers = torch.get_num_threads() if alone and device.type == "cpu" else 1
    workers = check_number("workers", workers, low=1, whole=True)
    if workers == 1:
        _do_all(jobs, runtime, runtime, map)
    elif all(_can_be_sent(job) for job in jobs):
        shown = dataclasses.replace(runtime, progress=runtime.progress and sys.stderr.isatty())
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(
                workers, context, initializer=_start_worker, initargs=[context.Value("i")]
            ) as pool:
                _do_all(jobs, runtime, shown, pool.map)
        except BrokenProcessPool:
            reason = "a worker process was ended from outside, perhaps because the memory did not suffice"
            raise ChildProcessError(f"{reason}; start it again, perhaps with fewer workers, and it goes on") from None
    else:
        with _one_thread():
            _do_all(jobs, runtime, runtime, map)


def _do_all(jobs: Sequence[Job], runtime: Runtime, shown: Runtime, apply: Callable[..., Iterable[bool]]) -> None:
    """Do the jobs by `apply`, which is a `map`, until all are finished, by us or by somebody else."""
    left = list(jobs)
    while left:
        done = apply(_do, left, itertools.repeat(shown))
        bar = tqdm(done, total=len(left), disable=not runtime.progress, unit="run", leave=False)
        left = [job for job, ours in zip(left, bar, strict=True) if not ours]
        if left:  # somebody else is doing these: look again whether they were finished
            time.sleep(1)


def _can_be_sent(job: Job) -> bool:
    """Whether a new process can do a job: it has what an import brings, and nothing that a notebook defined."""
    if job.func.__module__ == "__main__":
        return False
    arguments = (*job.args, *job.keywords.values())
    return not any(is_registered_elsewhere(getattr(argument, "attention", "")) for argument in arguments)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker process, so that the results have the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _do(job: Job, runtime: Runtime) -> bool:
    """Do a job, unless somebody else is doing it."""
    try:
        job(runtime=runtime)
    except BusyError:
        return False
    return True


def _start_worker(started: Any) -> None:
    """One thread for the work, and one that ends this process with its parent; its bars have a line of their own."""
    torch.set_num_threads(1)
    with started.get_lock():
        started.value += 1
    tqdm.__init__ = functools.partialmethod(tqdm.__init__, position=started.value)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()

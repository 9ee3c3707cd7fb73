"""The whole method in one call: supernet, search, retraining, measuring, report."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ean_lib.experiments import steps
from ean_lib.experiments.forms import DEFAULT_FORMS, Form, fold_run, run_form
from ean_lib.experiments.report import write_report
from ean_lib.experiments.task import Task
from ean_lib.learning.constant_gates import check_foldable
from ean_lib.learning.training import TrainConfig
from ean_lib.runs import Runtime
from ean_lib.runs.jobs import Job, run_jobs
from ean_lib.search import SearchConfig

NEED_NO_SCHEME = ("backbone", "org-full", "share-full")


def run_all(
    task: Task, supernet: TrainConfig, search: SearchConfig, retrain: TrainConfig, *,
    seeds: tuple[int, ...] = (0,), forms: tuple[Form, ...] = DEFAULT_FORMS, random_schemes: int = 1,
    scheme: str | None = None, recalibrate: int | None = 1000, out: Path = Path("runs/run"),
    runtime: Runtime = Runtime(),
) -> str:  # fmt: skip
    """The whole method: supernet, search, retraining of the scheme found and of its rivals, measuring, report.

    Example: ean run --dataset cued_shapes --seeds 0 1 2

    Example: ean run --dataset cifar10 --attention dia --supernet.epochs 20 --out runs/cifar10-dia

    Args:
        supernet: How the supernet is trained.
        search: How the supernet is searched.
        retrain: How the schemes are retrained.
        seeds: Each seed has its own supernet, search and retrainings.
        forms: What to retrain. random and late have as many connections as the scheme found; late has them at the end.
            constant is ean with each gate replaced by its mean over training images, and costs nothing; a plugged
            network must have a BatchNorm before each gate for it.
        random_schemes: Random schemes per seed.
        scheme: Retrain this scheme (bits, or the folder of a finished search) instead of searching for one per seed.
        recalibrate: Re-estimate BatchNorm for each scheme from this many training images while searching.
        out: The folder of all of it.
    """
    if not seeds or random_schemes < 1:
        raise ValueError("name at least one seed, and at least one random scheme")
    if "constant" in forms and "ean" not in forms:
        raise ValueError("the form constant is made of the form ean: name ean too")
    if "constant" in forms:  # before anything is trained
        check_foldable(task.untrained().network(num_classes=2))
    told = None if scheme is None else str(steps.read_scheme(scheme, task))
    searches: list[Job] = []
    at_once: list[Job] = []  # retrainings that need no search
    after_search: list[Job] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        if told is None:
            searches.append(partial(steps.find_scheme, task, supernet, search, recalibrate, seed, out=folder))
        for form, index, name in _retrainings(forms, random_schemes):
            waits = told is None and form not in NEED_NO_SCHEME
            found = str(folder / "search") if waits else told or "full"  # full: they connect all or nothing anyway
            job = partial(run_form, task, form, found, retrain, seed, index, out=folder / name)
            (after_search if waits else at_once).append(job)
    # What needs no scheme is trained beside the supernets: on a CPU, each on a thread of its own.
    run_jobs(searches + at_once, runtime)
    run_jobs(after_search, runtime)
    for seed in seeds:
        folder = out / f"seed-{seed}"
        retrained = [job.keywords["out"] for job in at_once + after_search if job.keywords["out"].parent == folder]
        if "constant" in forms:
            fold_run(folder / "ean", folder / "constant", runtime)
            retrained.append(folder / "constant")
        if not all((run / "measure.json").exists() for run in retrained):
            steps.run_measure(tuple(retrained), runtime)
    return write_report((out,), out)


def _retrainings(forms: Sequence[Form], random_schemes: int) -> Iterator[tuple[Form, int, str]]:
    """(form, number of its scheme, folder) of what is retrained for a seed; for the form constant nothing is."""
    for form in forms:
        if form == "random":
            for index in range(random_schemes):
                yield form, index, f"random-{index + 1}"
        elif form != "constant":
            yield form, 0, form

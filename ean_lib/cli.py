"""The command ``ean``: each subcommand is one dataclass, whose fields tyro turns into options."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from ean_lib import pipeline
from ean_lib.bench import SUPERNETS, run_bench
from ean_lib.checks import check_choice
from ean_lib.pipeline import FORMS, Place, Task
from ean_lib.recipes import PRESETS, recipe
from ean_lib.report import write_report
from ean_lib.runs import read_json
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig
from ean_lib.training import TrainConfig

Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True, kw_only=True)
class Trains:
    """What every command that trains is told."""

    task: Flat[Task]
    place: Flat[Place]
    preset: Literal["quick", "full", "paper"] = "quick"
    """quick takes a CPU minutes, full takes it hours, paper is for GPUs; they only set the defaults shown here."""


@dataclass(frozen=True, kw_only=True)
class Supernet(Trains):
    """Train a supernet: one network in which every scheme shares the weights.

    Example: ean supernet --dataset cued_shapes --attention se --out runs/supernet
    """

    train: Flat[TrainConfig]
    seed: int = 0
    """Of the weights, the order of images and the sampled schemes."""
    out: Path = Path("runs/supernet")
    """The run folder."""

    def __call__(self) -> str:
        pipeline.run_supernet(self.task, self.train, self.seed, self.out, self.place)
        return f"{self.out}: {_line(read_json(self.out / 'result.json')['last'])}"


@dataclass(frozen=True)
class Search:
    """Search a trained supernet for the scheme to retrain.

    Example: ean search --supernet runs/supernet --method reinforce --out runs/search
    """

    supernet: Path
    """The folder of a finished supernet."""
    search: Flat[SearchConfig]
    place: Flat[Place]
    recalibrate: int | None = 1000
    """Re-estimate BatchNorm for each scheme from this many training images; None keeps the supernet's statistics."""
    seed: int = 0
    """Of the search."""
    out: Path = Path("runs/search")
    """The run folder."""

    def __call__(self) -> str:
        result = pipeline.run_search(self.supernet, self.search, self.seed, self.out, self.place, self.recalibrate)
        connected = f"{result.scheme.connected} of {len(result.scheme)} connected"
        return f"{result.scheme} ({connected}, {result.value:.2f}% in the supernet)"


@dataclass(frozen=True, kw_only=True)
class Retrain(Trains):
    """Train one scheme from scratch and evaluate it once on the test images.

    Example: ean retrain --dataset cued_shapes --scheme 10-00-00 --out runs/ean
    Example: ean retrain --dataset cifar10 --scheme runs/search --seed 1 --out runs/ean-1
    """

    scheme: str
    """Bits such as 110-000-001, or full, or none (the backbone), or the folder of a finished search."""
    train: Flat[TrainConfig]
    share: Literal["stage", "none"] = "stage"
    """stage: one module per stage (Share, EAN); none: one per block (Org)."""
    seed: int = 0
    """Of the weights and the order of images."""
    out: Path = Path("runs/retrain")
    """The run folder."""

    def __call__(self) -> str:
        scheme = _scheme(self.scheme, self.task)
        full = {"none": "org-full", "stage": "share-full"}[self.share]
        form = "backbone" if not scheme.connected else full if scheme.connected == len(scheme) else "ean"
        result = pipeline.run_retrain(self.task, scheme, self.train, self.seed, self.out, self.place, self.share, form)
        return f"{scheme}: {result['test_accuracy']:.2f}% of {result['test_images']} test images"


@dataclass(frozen=True)
class Measure:
    """Parameters, MACs and inference time of retrained networks, pruned and fused, against their backbone.

    Example: ean measure runs/ean runs/share-full
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished retrainings with the same backbone; they are timed in turn."""
    place: Flat[Place]
    batch_size: int = 64
    """Images per timed forward pass."""
    rounds: int = 20
    """Timings of each network; the median is reported with its quartiles."""

    def __call__(self) -> str:
        measured = pipeline.run_measure(self.folders, self.place, self.batch_size, self.rounds)
        return "\n".join(f"{name}: {_line(values)}" for name, values in measured.items())


@dataclass(frozen=True, kw_only=True)
class Run(Trains):
    """The whole method: supernet, search, retraining of the scheme found and of its rivals, measuring, report.

    Example: ean run --dataset cued_shapes --seeds 0 1 2
    Example: ean run --dataset cifar10 --attention dia --supernet.epochs 20 --out runs/cifar10-dia
    """

    supernet: TrainConfig
    search: SearchConfig
    retrain: TrainConfig
    seeds: tuple[int, ...] = (0,)
    """Each seed has its own supernet, search and retrainings."""
    forms: tuple[Literal["backbone", "org-full", "share-full", "ean", "random", "late"], ...] = FORMS
    """What to retrain. random and late have as many connections as the scheme found; late has them at the end."""
    random_schemes: int = 1
    """Random schemes per seed."""
    scheme: str | None = None
    """Retrain this scheme (bits, or the folder of a finished search) instead of searching for one per seed."""
    recalibrate: int | None = 1000
    """Re-estimate BatchNorm for each scheme from this many training images while searching."""
    out: Path = Path("runs/run")
    """The folder of all of it."""

    def __call__(self) -> str:
        if not self.seeds or self.random_schemes < 1:
            raise ValueError("name at least one seed, and at least one random scheme")
        if self.scheme is None:
            # What needs no scheme is trained beside the supernets: on a CPU, each on a thread of its own.
            find = partial(pipeline.find_scheme, self.task, self.supernet, self.search, self.recalibrate)
            jobs = [partial(find, seed, out=self.out / f"seed-{seed}") for seed in self.seeds]
            rest = partial(self._retrainings, FORMS[3:])
            pipeline.run_jobs(jobs + self._retrainings(FORMS[:3], "full"), self.place, then=rest)
        else:
            pipeline.run_jobs(self._retrainings(FORMS, self.scheme), self.place)
        outs = [job.keywords["out"] for job in self._retrainings(FORMS, "full")]
        for folder in dict.fromkeys(out.parent for out in outs):
            trained = [out for out in outs if out.parent == folder]
            if not all((out / "measure.json").exists() for out in trained):
                pipeline.run_measure(trained, self.place)
        return write_report([self.out], self.out)

    def _retrainings(self, forms: Sequence[str], found: str | None = None) -> list[pipeline.Job]:
        """The trainings of those of the forms that are asked for; found None: what each seed's search has found."""
        jobs: list[pipeline.Job] = []
        for seed in self.seeds:
            folder = self.out / f"seed-{seed}"
            target = _scheme(str(folder / "search") if found is None else found, self.task)
            for form in [form for form in self.forms if form in forms]:
                for index in range(self.random_schemes if form == "random" else 1):
                    scheme, share = pipeline.schemes_of(form, target, seed, index)
                    out = folder / (f"random-{index + 1}" if form == "random" else form)
                    what = {"task": self.task, "scheme": scheme, "config": self.retrain, "seed": seed}
                    jobs.append(partial(pipeline.run_retrain, **what, share=share, form=form, out=out))
        return jobs


@dataclass(frozen=True)
class Report:
    """Compare finished retrainings: report.md, report.csv and report.png.

    Example: ean report runs/cifar10-se runs/cifar10-dia --out runs/report
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of `ean run` or `ean retrain`; they are searched to the bottom."""
    out: Path = Path("runs/report")
    """Where the report is written."""

    def __call__(self) -> str:
        return write_report(self.folders, self.out)


@dataclass(frozen=True, kw_only=True)
class Bench(Trains):
    """Make a truth table: every scheme trained alone, with several seeds, beside its score in supernets.

    Start the command again to go on, or several times, on one machine or on several that see the folder, to share
    the work. `ean_lib.load_bench("runs/bench")` reads the table.

    Example: ean bench --dataset cued_shapes --objects 2 --out runs/cued_shapes_k2
    """

    train: TrainConfig
    supernet: TrainConfig
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of networks and supernets."""
    schemes: int | None = None
    """Train only this many alone, spread over all numbers of connections; None trains all."""
    supernets: tuple[Literal["uniform", "warm", "complementary", "sandwich"], ...] = tuple(SUPERNETS)
    """How the schemes of a supernet's steps are drawn; warm: uniform, after 0.4 of the training with all connected."""
    workers: int | None = None
    """Networks trained at a time, each on one thread; None: one per thread of a CPU, one on a GPU. 1 trains in this
    process, on all its threads, which round otherwise: the table is another one in its last bits."""
    out: Path = Path("runs/bench")
    """The folder of all of it."""

    def __call__(self) -> str:
        options = {"seeds": self.seeds, "schemes": self.schemes, "supernets": self.supernets, "workers": self.workers}
        bench = run_bench(self.task, self.train, self.supernet, self.out, place=self.place, **options)
        return f"{self.out / 'table.csv'}: {len(bench.table)} schemes, seeds {', '.join(map(str, self.seeds))}"


COMMANDS = {c.__name__.lower(): c for c in (Supernet, Search, Retrain, Measure, Run, Report, Bench)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ean``. Bad input ends with one sentence on stderr and exit code 2; EAN_DEBUG=1 shows the traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: ean COMMAND [options]\n\nSearch where to plug attention into a network.\n")
        for name, command in COMMANDS.items():
            print(f"  {name:10}{(command.__doc__ or '').splitlines()[0]}")
        print("\n`ean COMMAND --help` shows the options and an example.")
        return 0 if argv else 2
    name, *rest = argv
    try:
        check_choice("command", name, COMMANDS)
        command = tyro.cli(COMMANDS[name], prog=f"ean {name}", args=rest, default=_defaults(name, rest))
        print(command())
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        if os.environ.get("EAN_DEBUG"):
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; give the same command again, and it goes on", 130)
    return 0


def _defaults(name: str, argv: Sequence[str]) -> object:
    """The command with the defaults of its dataset and preset, which are looked for in argv first."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option, default in {"dataset": "cued_shapes", "preset": "quick", "attention": Task.attention}.items():
        parser.add_argument(f"--{option}", default=default)
    known, _ = parser.parse_known_args(argv)
    preset = known.preset if known.preset in PRESETS else "quick"
    task, supernet, search, retrain = recipe(known.dataset, preset)
    if known.attention != task.attention:
        task = dataclasses.replace(task, rd_ratio=None)  # it is meant for the recipe's own module
    common = {"task": task, "place": (place := Place())}
    # Late connections are the control of cued_shapes, where they are known not to help.
    forms = ("share-full", "ean", "late") if known.dataset == "cued_shapes" else FORMS[:-1]
    shorter = dataclasses.replace(retrain, epochs=retrain.epochs - (preset == "quick"))  # it trains hundreds
    return {
        "supernet": Supernet(**common, train=supernet),
        "search": Search(tyro.MISSING, search, place),
        "retrain": Retrain(**common, scheme=tyro.MISSING, train=retrain),
        "measure": Measure(tyro.MISSING, place),
        "run": Run(**common, supernet=supernet, search=search, retrain=retrain, forms=forms),
        "report": Report(tyro.MISSING),
        "bench": Bench(**common, train=shorter, supernet=supernet),
    }[name]


def _scheme(text: str, task: Task) -> Scheme:
    """The scheme that a user means by bits, full, none, or the folder of a finished search."""
    if text and Path(text).is_dir():
        text = pipeline.finished(Path(text), "search")[1]["scheme"]
    named = {"full": Scheme.full, "none": Scheme.none}
    return named[text](task.stages) if text in named else Scheme.parse(text, task.stages)


def _line(values: Mapping[str, Any]) -> str:
    numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
    return ", ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v:,}" for k, v in numbers.items())


def _fail(message: str, code: int = 2) -> int:
    print(f"ean: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

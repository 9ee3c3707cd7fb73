"""The truth table: what every scheme of a small network is worth, trained alone, beside what a supernet says of it.

`run_bench` makes a table in a folder, `load_bench` reads one, by the name of a table that comes with the library or
from such a folder. It is the referee of a search: who knows all values can say how far from the best a search ended.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from ean_lib.checks import check, check_choice, check_number
from ean_lib.data.splits import class_balanced_order
from ean_lib.experiments import steps
from ean_lib.experiments.steps import open_run, read_finished_run, result_of, run_retrain
from ean_lib.experiments.task import Task
from ean_lib.learning.measure import measure
from ean_lib.learning.training import TrainConfig
from ean_lib.runs import Runtime, environment, read_json, to_json, write_atomically
from ean_lib.runs.jobs import Job, run_jobs
from ean_lib.runs.records import RECORDED, read_with_card
from ean_lib.schemes import Scheme
from ean_lib.supernet import SCORING_VERSION, Scorer

TABLES = RECORDED
SUPERNETS: dict[str, dict[str, Any]] = {
    "uniform": {"sampler": "uniform", "warmup": 0.0},
    "warm": {"sampler": "uniform", "warmup": 0.4},
    "complementary": {"sampler": "complementary", "warmup": 0.0},
    "sandwich": {"sampler": "sandwich", "warmup": 0.0},
}
RECALIBRATE = 1000  # training images that BatchNorm is re-estimated from, for the columns *_recalibrated_*
COLUMNS = {
    "scheme": "connection bits, a group per stage; first bit: first block",
    "connected": "connected blocks",
    "parameters": "of the pruned network",
    "macs": "multiply-accumulates of one image, counted by torch",
    "median_ms": "median time of the forward pass of 64 images, pruned and fused, 20 rounds (above 64 schemes: 4)",
    "val_S": "trained alone with seed S: accuracy on the search-val images, %",
    "test_S": "trained alone with seed S: accuracy on the test images, %",
    "KIND_S": "accuracy on search-val in the supernet of that kind and seed S, with the supernet's BatchNorm, %",
    "KIND_recalibrated_S": f"the same, BatchNorm re-estimated for the scheme on {RECALIBRATE} images as in training, %",
}


@dataclass(frozen=True)
class Bench:
    """A truth table; see `load_bench`.

    Attributes:
        name: of the table.
        table: one row per scheme, columns as the card describes them; NaN where a scheme was not trained.
        card: how it was made: task, recipes, seeds, hardware, licence, checksum.
    """

    name: str
    table: pd.DataFrame
    card: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}: {len(self.table)} schemes, columns {', '.join(self.columns)}"

    @cached_property
    def schemes(self) -> list[Scheme]:
        """The schemes, in the order of the rows."""
        return [Scheme.parse(text) for text in self.table.index]

    @property
    def columns(self) -> list[str]:
        """What `values` can be asked for."""
        return list(self.table.filter(regex=r"_\d+$").columns.str.rsplit("_", n=1).str[0].unique())

    def values(self, column: str) -> pd.DataFrame:
        """Accuracies in %, a row per scheme that has them all and a column per seed.

        Args:
            column: "test" or "val" (trained alone), or a supernet's kind, such as "uniform" or "uniform_recalibrated".

        Raises:
            ValueError: if there is no such column.
        """
        check_choice("column", column, self.columns)
        chosen = self.table.filter(regex=rf"^{column}_\d+$").dropna()
        return chosen.rename(columns=lambda name: int(name.rsplit("_", 1)[1]))

    def reward(self, column: str, seed: int | None = None) -> Callable[[Sequence[Scheme]], list[float]]:
        """A reward for `search` that is looked up: of one seed, or the mean over the seeds.

        Raises:
            ValueError: if the table lacks that seed, or when it is asked for a scheme without a value.
        """
        frame = self.values(column)
        check("seed", seed, seed is None or seed in frame, f"None or one of {', '.join(map(str, frame))}")
        known = (frame.mean(axis=1) if seed is None else frame[seed]).to_dict()

        def look_up(schemes: Sequence[Scheme]) -> list[float]:
            for scheme in schemes:
                if str(scheme) not in known:
                    raise ValueError(f"the table {self.name} has no {column} of scheme {scheme}")
            return [known[str(scheme)] for scheme in schemes]

        return look_up


def load_bench(name: str | Path) -> Bench:
    """Read a truth table and check its checksum.

    Args:
        name: of a table that comes with the library, or the folder that ``ean bench`` wrote.

    Raises:
        ValueError: if there is no table of that name, or it is not what its card describes.
    """
    if Path(name).is_dir():
        file = Path(name) / "table.csv"
        if not file.with_suffix(".json").is_file():
            raise ValueError(f"{name} has no table.json: give the folder of a finished `ean bench`")
    else:
        check_choice("table", str(name), sorted(path.stem for path in TABLES.glob("*.csv")))
        file = TABLES / f"{name}.csv"
    card, content = read_with_card(file)
    return Bench(str(name), pd.read_csv(io.BytesIO(content), index_col="scheme", dtype={"scheme": str}), card)


def run_bench(
    task: Task, train: TrainConfig, supernet: TrainConfig, out: Path = Path("runs/bench"), *,
    seeds: tuple[int, ...] = (0, 1, 2), schemes: int | None = None,
    supernets: tuple[Literal["uniform", "warm", "complementary", "sandwich"], ...] = tuple(SUPERNETS),
    runtime: Runtime = Runtime(), workers: int | None = None,
) -> Bench:  # fmt: skip
    """Make a truth table: every scheme trained alone, with several seeds, beside its score in supernets.

    Start the command again to go on, or several times, on one machine or on several that see the folder, to share
    the work. `ean_lib.load_bench("runs/bench")` reads the table, out/table.csv, and its card, out/table.json.

    Example: ean bench --dataset cued_shapes --objects 2 --out runs/cued_shapes_k2

    Args:
        train: How a network is trained alone; it sees the train part only.
        supernet: How a supernet is trained.
        out: The folder of all of it; each training is a run folder below.
        seeds: The seeds of networks and supernets.
        schemes: Train only this many alone, spread over all numbers of connections; None trains all. Each is scored.
        supernets: How the schemes of a supernet's steps are drawn; warm: uniform, after 0.4 of the training with all
            connected.
        workers: Networks trained at a time, each on one thread; None: one per thread of a CPU, one on a GPU. 1 trains
            in this process, on all its threads, which round otherwise: the table is another one in its last bits.
    """
    check("seeds", seeds, len(seeds) > 0 and len(set(seeds)) == len(seeds), "different numbers, at least one")
    for kind in supernets:
        check_choice("supernet", kind, SUPERNETS)
    every = list(Scheme.all_of(task.stages))
    chosen = every if schemes is None else spread(every, schemes)
    jobs: list[Job] = []
    for seed in seeds:
        for kind in supernets:
            config = dataclasses.replace(supernet, **SUPERNETS[kind])
            jobs.append(partial(run_scores, task, config, seed, out=out / "supernets" / f"{kind}-{seed}"))
        for scheme in chosen:
            where = out / "alone" / f"{scheme}-{seed}"
            jobs.append(partial(run_retrain, task, scheme, train, seed, out=where, form="ean", hold_out=True))
    run_jobs(jobs, runtime, workers)
    timing = partial(run_costs, task, every, out=out / "costs")
    run_jobs([timing], runtime, workers=1)

    costs = read_finished_run(out / "costs", "costs")[1]
    table = pd.DataFrame.from_dict(costs, orient="index", columns=["parameters", "macs", "median_ms"])
    table.insert(0, "connected", table.index.str.count("1"))
    for seed in seeds:
        alone = {str(scheme): read_finished_run(out / "alone" / f"{scheme}-{seed}", "retrain")[1] for scheme in chosen}
        for part in ("val", "test"):
            table[f"{part}_{seed}"] = pd.Series({text: run[f"{part}_accuracy"] for text, run in alone.items()})
        for kind in supernets:
            scores = read_finished_run(out / "supernets" / f"{kind}-{seed}" / "scores", "scores")[1]
            table[f"{kind}_{seed}"] = pd.Series(scores["own"])
            table[f"{kind}_recalibrated_{seed}"] = pd.Series(scores["recalibrated"])
    content = table.to_csv(index_label="scheme", lineterminator="\n").encode()
    records = [file for job in (*jobs, timing) for file in sorted(job.keywords["out"].rglob("provenance.json"))]
    used = [session for file in records for session in read_json(file)["sessions"]]
    card = {
        "task": dataclasses.asdict(task), "train": dataclasses.asdict(train), "supernet": dataclasses.asdict(supernet),
        "supernets": {kind: SUPERNETS[kind] for kind in supernets}, "seeds": list(seeds), "columns": COLUMNS,
        "rows": len(table), "trained_alone": len(chosen), "data": used[0]["data"], "command": environment()["command"],
        "hardware": sorted({f"{s['device']}, {s['threads']} threads, torch {s['versions']['torch']}" for s in used}),
        "hours": round(sum(s["seconds"] for s in used) / 3600, 2), "licence": "CC BY 4.0",
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    write_atomically(out / "table.csv", content)
    write_atomically(out / "table.json", to_json(card))
    return load_bench(out)


def spread(schemes: Sequence[Scheme], count: int) -> list[Scheme]:
    """That many of the schemes, at random, from all numbers of connections as equally as they last."""
    check_number("schemes", count, low=1, high=len(schemes), whole=True)
    order = class_balanced_order(torch.tensor([s.connected for s in schemes]), torch.Generator().manual_seed(0))
    return [schemes[i] for i in order[:count].tolist()]


def run_scores(task: Task, config: TrainConfig, seed: int, out: Path, runtime: Runtime) -> dict[str, dict[str, float]]:
    """Train a supernet and score every scheme in it: with the supernet's BatchNorm, and with each scheme's own."""
    steps.run_supernet(task, config, seed, out, runtime)
    net = steps.load_network(out)
    settings = {"recalibrate": RECALIBRATE, "supernet": steps.weights_checksum(out), "scoring": SCORING_VERSION}
    run, data = open_run(out / "scores", "scores", task, runtime, seed, sees=("train", "val"), **settings)
    with run:
        if not run.finished:
            schemes, scores = list(Scheme.all_of(net.stages)), {}
            for name, images in (("own", None), ("recalibrated", RECALIBRATE)):
                scorer = Scorer(net, data, recalibrate=images, augment=config.augment, device=runtime.device)
                scores[name] = dict(zip(map(str, schemes), scorer(schemes), strict=True))
            run.finish(scores)
    return result_of(run)


def run_costs(task: Task, schemes: Sequence[Scheme], out: Path, runtime: Runtime) -> dict[str, list[float]]:
    """(parameters, MACs, median milliseconds for 64 images) of each scheme's network, pruned, fused, timed in turn."""
    threads = torch.get_num_threads()
    run, data = open_run(out, "costs", task, runtime, seed=0, sees=("train",), threads=threads)
    with run:
        if not run.finished:
            untrained = task.untrained()
            networks = {str(s): untrained.network(data.num_classes, s) for s in schemes}
            backbone = untrained.network(data.num_classes, Scheme.none(task.stages))
            rounds = 20 if len(schemes) <= 64 else 4  # a round times every one of them
            costs = measure(networks, backbone, (64, 3, *data.image_size), device=runtime.device, rounds=rounds)
            run.finish({name: (cost.parameters, cost.macs, round(cost.median_ms, 4)) for name, cost in costs.items()})
    return result_of(run)

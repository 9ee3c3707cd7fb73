"""Make the table of the scheme explorer from finished runs.

    python tools/make_explorer_table.py --record cued_shapes --search seed-0/search \\
        --times ean_lib/recorded/times/cued_shapes.json --into ean_lib/recorded/explorer/cued_shapes.json
    python tools/make_explorer_table.py --record cifar10 --search cifar10-se/seed-0/search \\
        --times ean_lib/recorded/times/cifar10-se.json --into ean_lib/recorded/explorer/cifar10-se.json
    python tools/make_explorer_table.py --bench cued_shapes_k3 --kind complementary_recalibrated \\
        --times ean_lib/recorded/times/cued_shapes_k3.json --into ean_lib/recorded/explorer/cued_shapes_k3.json

The search gives the supernet's accuracy of each scheme and the steps to replay; the retrainings of the same record give
the accuracy of networks trained alone, all with the same recipe, on the same data, with attention shared per stage.
A scheme that was retrained twice with one seed counts once. Parameters and multiply-accumulates are counted on the
pruned networks, and compared with the recorded ones.

All times come from one file, which `tools/time_schemes.py` writes: every scheme on one machine, in turns with the
backbone. Without it, a time is the median of the paired increments of the runs that were measured, so it stands for
few schemes. What was not measured is not in the table.

A truth table (--bench) has the accuracy of every scheme trained alone; the search that is replayed is REINFORCE's,
looked up in the scores of one of its supernets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from ean_lib.experiments.bench import load_bench
from ean_lib.experiments.task import Task
from ean_lib.learning.measure import count_macs, count_parameters
from ean_lib.runs import read_json, rebuild, write_atomically
from ean_lib.runs.records import FinishedRun, read_runs
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig, SearchResult
from ean_lib.search import search as search_schemes
from ean_lib.widgets import compact_search

CHECKED = 8  # random schemes whose costs are counted as a whole
NETWORK = ("backbone", "attention", "rd_ratio", "blocks", "width", "stem_stride")  # what a time depends on, of a task


@dataclass(frozen=True)
class Retrainings:
    """What networks trained alone have shown, by the scheme's text.

    Attributes:
        accuracies: test accuracy by seed, %.
        measurements: each run's own measurement, where there is one.
        train: the training's configuration, which all share but for the seed.
    """

    accuracies: Mapping[str, Mapping[int, float]]
    measurements: Mapping[str, Sequence[Mapping[str, Any]]]
    train: Mapping[str, Any] | None


def costs(task: Task, image_shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Extra parameters and multiply-accumulates of every scheme, pruned; the accumulates are of the fused network.

    Stages do not know of each other, so what a scheme costs is the sum of what its stages cost alone; a few random
    schemes are counted as a whole to see that it is so.

    Raises:
        ValueError: if it is not so.
    """
    stages = task.stages
    net = task.network(10, Scheme.full(stages))

    def count(scheme: Scheme) -> tuple[int, int]:
        pruned = net.prune(scheme)
        return count_parameters(pruned), count_macs(pruned.fuse(), image_shape)

    base_parameters, base_macs = count(Scheme.none(stages))

    def extra(scheme: Scheme) -> tuple[int, int]:
        parameters, macs = count(scheme)
        return parameters - base_parameters, macs - base_macs

    of_stage: list[dict[tuple[bool, ...], tuple[int, int]]] = []
    for stage, depth in enumerate(stages):
        of_pattern = {}
        for pattern in product((False, True), repeat=depth):
            groups = [pattern if i == stage else (False,) * other for i, other in enumerate(stages)]
            of_pattern[pattern] = extra(Scheme.parse(groups, stages))
        of_stage.append(of_pattern)

    def add(scheme: Scheme) -> tuple[int, int]:
        parts = [of_pattern[bits] for of_pattern, bits in zip(of_stage, scheme.per_stage, strict=True)]
        return sum(parameters for parameters, _ in parts), sum(macs for _, macs in parts)

    generator = torch.Generator().manual_seed(0)
    for scheme in (Scheme.full(stages), *(Scheme.random(stages, generator) for _ in range(CHECKED))):
        if add(scheme) != extra(scheme):
            raise ValueError(f"The costs of {scheme}'s stages do not add up to its own: count every scheme as a whole.")
    every = [add(scheme) for scheme in Scheme.all_of(stages)]
    return [parameters for parameters, _ in every], [macs for _, macs in every]


def read_retrainings(runs: Iterable[FinishedRun], task: Mapping[str, Any]) -> Retrainings:
    """What the retrainings of a task gave, with attention shared per stage.

    Raises:
        ValueError: if they have several recipes, or two of one scheme and seed differ in their accuracy.
    """
    accuracies: dict[str, dict[int, float]] = {}
    measurements: dict[str, list[Mapping[str, Any]]] = {}
    recipes: dict[str, str] = {}
    for run in runs:
        if run.kind != "retrain" or not belongs_to(run, task):
            continue
        scheme, seed, accuracy = run.config["scheme"], run.config["seed"], run.result["test_accuracy"]
        recipes.setdefault(json.dumps(run.config["train"] | {"seed": None}, sort_keys=True), run.path)
        known = accuracies.setdefault(scheme, {}).setdefault(seed, accuracy)
        if known != accuracy:
            raise ValueError(f"{run.path} retrained {scheme} with seed {seed} to {accuracy}%, another run to {known}%.")
        if run.measure is not None:
            measurements.setdefault(scheme, []).append(run.measure)
    if len(recipes) > 1:
        names = ", ".join(recipes.values())
        raise ValueError(f"The retrainings have {len(recipes)} recipes ({names}): name folders with one.")
    return Retrainings(accuracies, measurements, json.loads(next(iter(recipes))) if recipes else None)


def belongs_to(run: FinishedRun, task: Mapping[str, Any]) -> bool:
    """Whether a retraining is of the task; for the backbone it does not matter which attention is named."""
    is_backbone = "1" not in run.config["scheme"]
    own = run.config["task"] | ({"attention": task["attention"]} if is_backbone else {})
    is_same = rebuild(Task, own) == rebuild(Task, task)  # a key that is absent has its default
    return is_same and (run.config["share"] == "stage" or is_backbone)


def read_times(file: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """The times of every scheme, as `tools/time_schemes.py` wrote them.

    Raises:
        ValueError: if they are of another network.
    """
    record = read_json(file)
    for key in NETWORK:
        if record["task"].get(key) != task.get(key):
            raise ValueError(
                f"{file} has the times of a network with {key} {record['task'].get(key)!r}, not {task.get(key)!r}:"
                " time the schemes of this one, see tools/time_schemes.py."
            )
    return record


def time_columns(times: Mapping[str, Any] | None, measurements: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict:
    """By scheme, the median increment and its quartiles; from runs, which are few, the median alone."""
    if times is not None:
        return dict(times["increments"])
    columns = {}
    for scheme, records in sorted(measurements.items()):
        increments = [record["paired_increment"] for record in records]
        columns[scheme] = [round(median(increments), 4), None, None]
    return columns


def summary(values: Sequence[float]) -> list[float | int | None]:
    """Mean, standard deviation (of two or more) and number."""
    spread = round(stdev(values), 3) if len(values) > 1 else None
    return [round(mean(values), 3), spread, len(values)]


def make_table(source: Path | str, search_path: str, times_file: Path | None = None) -> dict[str, Any]:
    """The explorer's table of a record or a folder of runs; see `ean_lib.widgets.SchemeExplorer`.

    Raises:
        ValueError: if schemes lack a score, the retrainings have several recipes, or a recorded cost differs.
    """
    runs = {run.path: run for run in read_runs(source)}
    if search_path not in runs:
        raise FileNotFoundError(f"{source} has no finished run {search_path}; it has {', '.join(runs) or 'none'}.")
    searched = runs[search_path]
    task_config = searched.config["task"]
    task = rebuild(Task, task_config)
    result = SearchResult.from_json(json.dumps(searched.result))
    scored = {line["scheme"]: line["accuracy"] for line in searched.metrics}
    every = [str(scheme) for scheme in Scheme.all_of(task.stages)]
    missing = [text for text in every if text not in scored]
    if missing:
        raise ValueError(f"{source} has no score of {len(missing)} schemes, such as {missing[0]}.")

    alone = read_retrainings(runs.values(), task_config)
    times = None if times_file is None else read_times(times_file, task_config)
    measured = {scheme: records[-1] for scheme, records in alone.measurements.items()}
    parameters, macs = costs(task, next(iter(measured.values()))["input_shape"] if measured else (1, 3, 32, 32))
    for text, record in measured.items():
        place = every.index(text)
        if (record["extra_parameters"], record["extra_macs"]) != (parameters[place], macs[place]):
            raise ValueError(f"The recorded costs of {text} are not those counted now: record them anew.")

    name = "ResNet" if task_config.get("blocks") else task.backbone.replace("resnet", "ResNet-")
    table: dict[str, Any] = {
        "title": f"{task.dataset}, {name} with {sum(task.stages)} blocks, {task.attention.upper()} attention",
        "dataset": task.dataset,
        "backbone": task.backbone,
        "attention": task.attention,
        "stages": list(task.stages),
        "supernet": [round(scored[text], 3) for text in every],
        "extra_parameters": parameters,
        "extra_macs": macs,
        "alone": {text: summary([*seeds.values()]) for text, seeds in sorted(alone.accuracies.items())},
        "time": time_columns(times, alone.measurements),
        "lambda_val": result.config.lambda_val,
        "found": str(result.scheme),
        "search": compact_search(result),
        "provenance": {"record": str(source), "search": search_path, "times": times_file and times_file.as_posix()},
    }
    if measured:
        record = next(iter(measured.values()))
        for key in ("parameters", "macs"):
            table[key] = record[key] - record[f"extra_{key}"]
    supernet = runs.get(f"{searched.group}/supernet".lstrip("/"))
    table["note"] = " ".join(
        [*supernet_note(searched, supernet), *alone_note(alone), *time_note(times, alone.measurements, table["found"])]
    )
    return table


def from_bench(name: str, kind: str, seed: int, times_file: Path | None = None) -> dict[str, Any]:
    """The explorer's table of a truth table: scores of the supernet of a kind and seed, and every scheme alone."""
    bench = load_bench(name)
    task = bench.card["task"]
    stages = bench.schemes[0].stages
    alone, scores, costs_table = bench.values("test"), bench.values(kind)[seed], bench.table
    none = costs_table.loc[str(Scheme.none(stages))]
    result = search_schemes(bench.reward(kind, seed), stages, SearchConfig(seed=seed))
    if times_file is None:
        times, sentences = None, ["Time: batches of 64, median over the backbone's median."]
        increments = {
            text: [round(ms / none.median_ms - 1, 4), None, None] for text, ms in costs_table.median_ms.items()
        }
    else:
        times = read_times(times_file, task)
        increments, sentences = time_columns(times, {}), time_note(times, {}, str(result.scheme))
    data = task["dataset"] + (f" with {task['objects']} objects" if task["objects"] else "")
    seeds = ", ".join(map(str, alone))
    hardware = "; ".join(bench.card["hardware"]).replace("1 threads", "1 thread")
    sentences = [
        f"The truth table {name}. The supernet is one network that was trained with ever-changing schemes"
        f" ({kind.replace('_', ', ')}, seed {seed}); accuracy in it: search-val images.",
        f"Trained alone: test images, {bench.card['train']['epochs']} epochs, seeds {seeds}, on {hardware}.",
        *sentences,
    ]
    return {
        "title": f"{data}, ResNet with {len(bench.schemes[0])} blocks, {task['attention'].upper()} attention",
        "dataset": task["dataset"],
        "backbone": task["backbone"],
        "attention": task["attention"],
        "stages": list(stages),
        "supernet": scores.round(3).tolist(),
        "extra_parameters": (costs_table.parameters - none.parameters).astype(int).tolist(),
        "extra_macs": (costs_table.macs - none.macs).astype(int).tolist(),
        "alone": {text: summary(values) for text, values in zip(alone.index, alone.to_numpy().tolist(), strict=True)},
        "time": increments,
        "lambda_val": result.config.lambda_val,
        "found": str(result.scheme),
        "search": compact_search(result),
        "provenance": {
            "bench": name,
            "sha256": bench.card["sha256"],
            "supernet": f"{kind}_{seed}",
            "times": times_file and times_file.as_posix(),
        },
        "parameters": int(none.parameters),
        "macs": int(none.macs),
        "note": " ".join(sentences),
    }


def supernet_note(search: FinishedRun, supernet: FinishedRun | None) -> list[str]:
    """What the supernet is, in sentences."""
    epochs = "" if supernet is None else f", {supernet.config['train']['epochs']} epochs"
    device = search.sessions[-1]["device"]
    return [
        "The supernet is one network that was trained with ever-changing schemes.",
        f"Accuracy in it: search-val images, seed {search.config['seed']}{epochs}, on {device}.",
    ]


def alone_note(alone: Retrainings) -> list[str]:
    """How networks were trained alone, in sentences."""
    if alone.train is None:
        return []
    seeds = sorted({seed for runs in alone.accuracies.values() for seed in runs})
    plural = "s" if len(seeds) > 1 else ""
    return [f"Trained alone: test images, {alone.train['epochs']} epochs, seed{plural} {', '.join(map(str, seeds))}."]


def time_note(
    times: Mapping[str, Any] | None, measurements: Mapping[str, Sequence[Mapping[str, Any]]], found: str
) -> list[str]:
    """What was timed and where, in sentences; where runs were timed elsewhere too, what they say of the found scheme.

    An increment depends on the machine, so two of them without their machines would contradict each other.
    """
    sentences = []
    if times is not None:
        sentences.append(
            f"Time: batches of {times['input_shape'][0]} on {times['device']}, {threads(times['threads'])}; each scheme"
            f" in {times['turns']} turns with the backbone, median and quartiles of the increments."
        )
    elif measurements:
        record = next(iter(measurements.values()))[-1]
        sentences.append(
            f"Time: batches of {record['input_shape'][0]} on {record['device']}, {threads(record['threads'])}; median"
            " of the runs' paired increments."
        )
    if times is not None and found in measurements:
        records = measurements[found]
        increment = median(record["paired_increment"] for record in records)
        runs = f"median of {len(records)} runs" if len(records) > 1 else "one run"
        sentences.append(
            f"In the recorded runs, on {records[-1]['device']}, {threads(records[-1]['threads'])}, {found} took"
            f" {100 * increment:+.1f} % ({runs})."
        )
    return sentences


def threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--record", help="a record's name, or a folder of runs")
    source.add_argument("--bench", help="a truth table, by its name")
    parser.add_argument("--search", help="path in the record of a search that scored every scheme")
    parser.add_argument("--kind", default="complementary_recalibrated", help="whose scores to show of a truth table")
    parser.add_argument("--seed", type=int, default=0, help="of that supernet")
    parser.add_argument("--times", type=Path, help="the times of every scheme, see tools/time_schemes.py")
    parser.add_argument("--into", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    if options.record and not options.search:
        parser.error("a record needs --search, the path in it of a search that scored every scheme")
    if options.bench:
        table = from_bench(options.bench, options.kind, options.seed, options.times)
    else:
        table = make_table(options.record, options.search, options.times)
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    write_atomically(options.into, text + "\n")
    count = len(table["supernet"])
    print(f"{options.into}: {count} schemes, {len(table['alone'])} trained alone, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()

"""Make the table of the scheme explorer from finished runs.

    python tools/make_explorer_table.py --search book/results/cued_shapes/seed-0/search \\
        --retrained book/results/cued_shapes --into book/results/explorer/cued_shapes.json \\
        --page book/_static/explorer.html
    python tools/make_explorer_table.py --search book/results/cifar10/cifar10-se/seed-0/search \\
        --retrained book/results/cifar10 --into book/results/explorer/cifar10-se.json
    python tools/make_explorer_table.py --bench cued_shapes_k3 --kind complementary_recalibrated \\
        --into book/results/explorer/cued_shapes_k3.json

The search's folder gives the supernet's accuracy of each scheme and the steps to replay; the folders below --retrained
give the accuracy and the time of networks trained alone, all with the same recipe, on the same data, with attention
shared per stage. Parameters and multiply-accumulates are counted on the pruned networks, and compared with the recorded
ones. What was not measured is not in the table.

A truth table (--bench) has all of it for every scheme; the search that is replayed is REINFORCE's, looked up in the
scores of one of its supernets. --page also writes a small explorer of the table for a page that is no notebook, to be
included as raw HTML.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from ean_lib.experiments.bench import load_bench
from ean_lib.experiments.steps import read_finished_run
from ean_lib.experiments.task import Task
from ean_lib.learning.measure import count_macs, count_parameters
from ean_lib.runs import read_json, rebuild, write_atomically
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig, SearchResult
from ean_lib.search import search as search_schemes
from ean_lib.widgets import SchemeExplorer, compact_search

CHECKED = 8  # random schemes whose costs are counted as a whole


def costs(task: Task, image_shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Extra parameters and multiply-accumulates of every scheme, pruned; the accumulates are of the fused network.

    Stages do not know of each other, so what a scheme costs is the sum of what its stages cost alone; a few random
    schemes are counted as a whole to see that it is so.
    """
    stages = task.stages
    net = task.network(10, Scheme.full(stages))

    def count(scheme: Scheme) -> tuple[int, int]:
        pruned = net.prune(scheme)
        return count_parameters(pruned), count_macs(pruned.fuse(), image_shape)

    base = count(Scheme.none(stages))
    alone: list[dict[tuple[bool, ...], tuple[int, int]]] = []
    for s, depth in enumerate(stages):
        patterns = product((False, True), repeat=depth)
        parts = {bits: [bits if i == s else (False,) * other for i, other in enumerate(stages)] for bits in patterns}
        totals = {bits: count(Scheme.parse(part, stages)) for bits, part in parts.items()}
        alone.append({bits: (total[0] - base[0], total[1] - base[1]) for bits, total in totals.items()})

    def add(scheme: Scheme) -> tuple[int, int]:
        found = [known[bits] for known, bits in zip(alone, scheme.per_stage, strict=True)]
        return sum(own for own, _ in found), sum(own for _, own in found)

    generator = torch.Generator().manual_seed(0)
    for scheme in (Scheme.full(stages), *(Scheme.random(stages, generator) for _ in range(CHECKED))):
        whole = count(scheme)
        if add(scheme) != (whole[0] - base[0], whole[1] - base[1]):
            raise ValueError(f"The costs of {scheme}'s stages do not add up to its own: count every scheme as a whole.")
    every = [add(scheme) for scheme in Scheme.all_of(stages)]
    return [own for own, _ in every], [own for _, own in every]


def retrained(
    folders: Sequence[Path], task: Mapping[str, Any]
) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """(folder, configuration, result) of the finished retrainings of the task with attention shared per stage."""
    for top in folders:
        for file in sorted(Path(top).rglob("config.json")):
            config = read_json(file)
            if config.get("kind") != "retrain" or not (file.parent / "result.json").exists():
                continue
            plain = "1" not in config["scheme"]
            same = config["task"] | ({"attention": task["attention"]} if plain else {}) == task
            if same and (config["share"] == "stage" or plain):
                yield file.parent, config, read_json(file.parent / "result.json")


def make_table(search: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """The explorer's table; see `ean_lib.widgets.SchemeExplorer`.

    Raises:
        ValueError: if schemes lack a score, the retrainings have several recipes, or a recorded cost differs.
    """
    config, _ = read_finished_run(search, "search")
    result = SearchResult.from_json((search / "result.json").read_text())
    task = rebuild(Task, config["task"])
    scored = {line["scheme"]: line["accuracy"] for line in map(json.loads, (search / "metrics.jsonl").open())}
    every = [str(scheme) for scheme in Scheme.all_of(task.stages)]
    missing = [text for text in every if text not in scored]
    if missing:
        raise ValueError(f"{search} has no score of {len(missing)} schemes, such as {missing[0]}.")

    accuracies: dict[str, dict[int, float]] = {}
    times: dict[str, dict[int, float]] = {}
    recipes, measured = {}, {}
    for folder, own, outcome in retrained(folders, config["task"]):
        recipes[json.dumps(own["train"] | {"seed": None}, sort_keys=True)] = folder
        accuracies.setdefault(own["scheme"], {})[own["seed"]] = outcome["test_accuracy"]
        if (folder / "measure.json").exists():
            measured[own["scheme"]] = read_json(folder / "measure.json")
            times.setdefault(own["scheme"], {})[own["seed"]] = measured[own["scheme"]]["time_increment"]
    if len(recipes) > 1:
        names = ", ".join(map(str, recipes.values()))
        raise ValueError(f"The retrainings have {len(recipes)} recipes ({names}): name folders with one.")

    shape = next(iter(measured.values()))["input_shape"] if measured else (1, 3, 32, 32)
    parameters, macs = costs(task, shape)
    for text, record in measured.items():
        index = every.index(text)
        if (record["extra_parameters"], record["extra_macs"]) != (parameters[index], macs[index]):
            raise ValueError(f"The recorded costs of {text} are not those counted now: record them anew.")
    name = "ResNet" if task.blocks else task.backbone.replace("resnet", "ResNet-")
    table: dict[str, Any] = {
        "title": f"{task.dataset}, {name} with {sum(task.stages)} blocks, {task.attention.upper()} attention",
        "dataset": task.dataset,
        "backbone": task.backbone,
        "attention": task.attention,
        "stages": list(task.stages),
        "supernet": [round(scored[text], 3) for text in every],
        "extra_parameters": parameters,
        "extra_macs": macs,
        "alone": {
            text: [round(mean(v.values()), 3), round(stdev(v.values()), 3) if len(v) > 1 else None, len(v)]
            for text, v in sorted(accuracies.items())
        },
        "time": {text: [round(median(v.values()), 4), len(v)] for text, v in sorted(times.items())},
        "lambda_val": result.config.lambda_val,
        "found": str(result.scheme),
        "search": compact_search(result),
        "provenance": {"search": str(search), "retrained": [str(folder) for folder in folders]},
    }
    for key in ("parameters", "macs") if measured else ():
        record = next(iter(measured.values()))
        table[key] = record[key] - record[f"extra_{key}"]
    return table | {"note": note(search, config, recipes, accuracies, measured)}


def from_bench(name: str, kind: str, seed: int) -> dict[str, Any]:
    """The explorer's table of a truth table: scores of the supernet of a kind and seed, and every scheme alone."""
    bench = load_bench(name)
    alone, scores, costs = bench.values("test"), bench.values(kind)[seed], bench.table
    none = costs.loc[str(Scheme.none(bench.schemes[0].stages))]
    result = search_schemes(bench.reward(kind, seed), bench.schemes[0].stages, SearchConfig(seed=seed))
    task, seeds = bench.card["task"], ", ".join(map(str, alone))
    data = task["dataset"] + (f" with {task['objects']} objects" if task["objects"] else "")
    return {
        "title": f"{data}, ResNet with {len(bench.schemes[0])} blocks, {task['attention'].upper()} attention",
        "dataset": task["dataset"],
        "backbone": task["backbone"],
        "attention": task["attention"],
        "stages": list(bench.schemes[0].stages),
        "supernet": scores.round(3).tolist(),
        "extra_parameters": (costs.parameters - none.parameters).astype(int).tolist(),
        "extra_macs": (costs.macs - none.macs).astype(int).tolist(),
        "alone": {
            text: [round(mean(values), 3), round(stdev(values), 3), len(values)]
            for text, values in zip(alone.index, alone.to_numpy().tolist(), strict=True)
        },
        "time": {text: [round(ms / none.median_ms - 1, 4), 1] for text, ms in costs.median_ms.items()},
        "lambda_val": result.config.lambda_val,
        "found": str(result.scheme),
        "search": compact_search(result),
        "provenance": {"bench": name, "sha256": bench.card["sha256"], "supernet": f"{kind}_{seed}"},
        "parameters": int(none.parameters),
        "macs": int(none.macs),
        "note": f"The truth table {name}. The supernet is one network that was trained with ever-changing schemes"
        f" ({kind.replace('_', ', ')}, seed {seed}); accuracy in it: search-val images. Trained alone: test images,"
        f" {bench.card['train']['epochs']} epochs, seeds {seeds}. Time: batches of 64."
        f" On {'; '.join(bench.card['hardware'])}.",
    }


def note(
    search: Path,
    config: Mapping[str, Any],
    recipes: Mapping[str, Path],
    accuracies: Mapping[str, Mapping[int, float]],
    measured: Mapping[str, Mapping[str, Any]],
) -> str:
    """Where the numbers come from, in words."""
    session = read_json(search / "provenance.json")["sessions"][-1]
    supernet = search.parent / "supernet" / "config.json"
    epochs = f", {read_json(supernet)['train']['epochs']} epochs" if supernet.exists() else ""
    text = "The supernet is one network that was trained with ever-changing schemes. "
    text += f"Accuracy in it: search-val images, seed {config['seed']}{epochs}, on {session['device']}."
    if recipes:
        seeds = sorted({seed for runs in accuracies.values() for seed in runs})
        text += f" Trained alone: test images, {json.loads(next(iter(recipes)))['epochs']} epochs,"
        text += f" seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}."
    if measured:
        record = next(iter(measured.values()))
        text += f" Time: batches of {record['input_shape'][0]} on {record['device']},"
        text += (
            f" {record['threads']} thread{'s' * (record['threads'] > 1)}; the backbone's own increment shows the noise."
        )
    return text


def small_page(table: Mapping[str, Any]) -> str:
    """The explorer's HTML with the numbers only, which opens with the first block alone connected."""
    first = [block == 0 for block in range(sum(table["stages"]))]
    return SchemeExplorer(table, name="intro", scheme=Scheme.parse(first, table["stages"]), show=["numbers"]).to_html()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--search", type=Path, help="folder of a search that scored every scheme")
    source.add_argument("--bench", help="a truth table, by its name")
    parser.add_argument("--kind", default="complementary_recalibrated", help="whose scores to show of a truth table")
    parser.add_argument("--seed", type=int, default=0, help="of that supernet")
    parser.add_argument("--retrained", type=Path, nargs="*", default=[], help="folders, searched to the bottom")
    parser.add_argument("--into", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--page", type=Path, help="a small explorer as HTML, to be written too")
    options = parser.parse_args()
    if options.bench:
        table = from_bench(options.bench, options.kind, options.seed)
    else:
        table = make_table(options.search, options.retrained)
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    write_atomically(options.into, text + "\n")
    if options.page:
        write_atomically(options.page, small_page(table))
    count = len(table["supernet"])
    print(f"{options.into}: {count} schemes, {len(table['alone'])} trained alone, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()

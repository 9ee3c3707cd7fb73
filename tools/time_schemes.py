"""Time every scheme of a network beside the backbone, for the scheme explorer.

    python tools/time_schemes.py --record cued_shapes --run seed-0/search \\
        --into ean_lib/recorded/times/cued_shapes.json
    python tools/time_schemes.py --record cifar10 --run cifar10-se/seed-0/search --passes 3 --rounds 8 \\
        --into ean_lib/recorded/times/cifar10-se.json
    python tools/time_schemes.py --bench cued_shapes_k3 --into ean_lib/recorded/times/cued_shapes_k3.json

What is timed is what one would deploy: the pruned network with its BatchNorms folded. A few schemes at a time take
turns with the backbone, so that a moment in which the machine is busy slows both; the increment is taken within each
turn, and the median and the quartiles over all turns are kept. In every pass the networks are copied anew and grouped
anew, so that neither a copy's place in memory nor its neighbours decide. With one
thread the clock counts the processor's time, so that waiting for other programs does not count; with more threads it is
the wall clock, and the machine should be free.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ean_lib.devices import device_name
from ean_lib.experiments.bench import load_bench
from ean_lib.experiments.task import Task
from ean_lib.learning.measure import quartiles, relative_time_increment
from ean_lib.runs import rebuild, write_atomically
from ean_lib.runs.records import read_runs
from ean_lib.schemes import Scheme

GROUP = 4  # schemes that take turns with one backbone
WARMUP = 2  # passes of a fresh copy before its first turn


def turn(net: nn.Module, x: torch.Tensor) -> float:
    """The time of one forward pass, in milliseconds: of the processor for one thread, of the wall clock for more."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    net(x)
    return 1000 * (clock() - start)


def group_increments(backbone: nn.Module, networks: list[nn.Module], x: torch.Tensor, rounds: int) -> np.ndarray:
    """Increments of networks over the backbone, (networks, rounds), each within one round."""
    fresh = [copy.deepcopy(net) for net in (backbone, *networks)]
    for net in fresh:
        for _ in range(WARMUP):
            net(x)
    times = np.empty((len(fresh), rounds))
    for number in range(rounds):
        for i in np.roll(range(len(fresh)), -number):
            times[i, number] = turn(fresh[i], x)
    return relative_time_increment(times[1:], times[:1])


@torch.inference_mode()
def time_schemes(
    task: Task, batch: int, image_size: int, passes: int, rounds: int, seed: int
) -> dict[str, list[float]]:
    """(median, first quartile, third quartile) of the paired increments of every scheme, by its text.

    Args:
        task: gives the network; its weights are random, since they do not matter for the time.
        batch: images of a forward pass.
        image_size: their height and width.
        passes: each with fresh copies and groups.
        rounds: turns of each network in a pass.
        seed: of the images and of the order.
    """
    full = task.network(10, Scheme.full(task.stages))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, image_size, image_size, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)

    def deployed(scheme: Scheme) -> nn.Module:
        return full.prune(scheme).fuse().eval().to(memory_format=torch.channels_last)

    schemes = list(Scheme.all_of(task.stages))
    backbone = deployed(Scheme.none(task.stages))
    increments: dict[str, list[float]] = {str(scheme): [] for scheme in schemes}
    for number in range(passes):
        order = torch.randperm(len(schemes), generator=generator).tolist()
        for start in range(0, len(order), GROUP):
            group = [schemes[i] for i in order[start : start + GROUP]]
            measured = group_increments(backbone, [deployed(scheme) for scheme in group], x, rounds)
            for scheme, values in zip(group, measured, strict=True):
                increments[str(scheme)].extend(values)
        print(f"pass {number + 1} of {passes}", flush=True)
    summary = {}
    for text, values in increments.items():
        low, median, high = quartiles(values)
        summary[text] = [round(median, 4), round(low, 4), round(high, 4)]
    return summary


def to_text(record: dict, increments: dict[str, list[float]]) -> str:
    """The record as JSON, with a line for each scheme."""
    head = json.dumps(record, indent=1).removesuffix("\n}")
    lines = ",\n".join(f'  "{scheme}": {json.dumps(numbers)}' for scheme, numbers in increments.items())
    return f'{head},\n "increments": {{\n{lines}\n }}\n}}\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--record", help="a record's name, or a folder of runs")
    source.add_argument("--bench", help="a truth table, by its name")
    parser.add_argument("--run", help="path in the record of a run whose network is timed")
    parser.add_argument("--into", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--batch", type=int, default=64, help="images of a forward pass")
    parser.add_argument("--image-size", type=int, default=32, help="their height and width")
    parser.add_argument("--passes", type=int, default=8, help="each with fresh copies and groups")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each network in a pass")
    parser.add_argument("--threads", type=int, default=1, help="of the forward pass")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of the order")
    options = parser.parse_args()
    if options.bench:
        task_config = load_bench(options.bench).card["task"]
    else:
        runs = {run.path: run for run in read_runs(options.record)}
        if options.run not in runs:
            parser.error(f"--run must be one of {', '.join(runs)}, got {options.run}")
        task_config = runs[options.run].config["task"]
    torch.set_num_threads(options.threads)
    task = rebuild(Task, task_config)
    increments = time_schemes(
        task, options.batch, options.image_size, options.passes, options.rounds, options.seed
    )  # fmt: skip
    record = {
        "task": task_config,
        "what": "increments of a forward pass's time over the backbone's, paired within a turn: median, first and third"
        " quartile; with one thread, of the processor's time",
        "input_shape": [options.batch, 3, options.image_size, options.image_size],
        "device": device_name("cpu"),
        "threads": options.threads,
        "turns": options.passes * options.rounds,
        "torch": torch.__version__,
    }
    write_atomically(options.into, to_text(record, increments))
    print(f"{options.into}: {len(increments)} schemes, {record['turns']} turns each")


if __name__ == "__main__":
    main()

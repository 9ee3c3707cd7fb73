"""Each correction of the controller, mended alone in the official mode and broken alone in the corrected one.

    python benchmarks/controller_switches.py --into ean_lib/recorded/controller_switches.json

A search of `--steps` steps for every seed, in a supernet's scores of a truth table; recorded is the scheme that each
ends with, so that the chapter can look up what it is worth. Searches are deterministic: a rerun gives the same schemes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from ean_lib import SearchConfig, load_bench, search
from ean_lib.experiments.bench import Bench
from ean_lib.runs import environment, write_atomically
from ean_lib.search.departures import SWITCHES

ON = {"official": set(), "corrected": set(SWITCHES)}  # the corrections of each mode


def variants(mode: str) -> Iterator[tuple[str, set[str]]]:
    """The corrections of the mode as it is, and with each of the ten turned over."""
    yield "as it is", ON[mode]
    for switch in SWITCHES:
        yield switch, ON[mode] ^ {switch}


def final_schemes(bench: Bench, column: str, config: SearchConfig, corrections: set[str], searches: int) -> list[str]:
    """What the search of each seed ends with; seeds take the supernets in turn."""
    rewards = [bench.reward(column, seed) for seed in bench.values(column)]
    stages = bench.schemes[0].stages
    finals = []
    for seed in range(searches):
        reward = rewards[seed % len(rewards)]
        result = search(reward, stages, replace(config, seed=seed), corrections=corrections)
        finals.append(str(result.scheme))
    return finals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="cued_shapes_k3")
    parser.add_argument("--column", default="complementary_recalibrated", help="the supernets that are searched")
    parser.add_argument("--steps", type=int, default=60, help="of three schemes each")
    parser.add_argument("--searches", type=int, default=50, help="seeds of each variant")
    parser.add_argument("--into", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench, finals = load_bench(options.table), {}
    for mode in ON:
        config = SearchConfig(mode=mode, steps=options.steps)
        finals[mode] = {
            name: final_schemes(bench, options.column, config, corrections, options.searches)
            for name, corrections in tqdm(list(variants(mode)), desc=mode)
        }
    here = environment()
    record = {"table": options.table, "sha256": bench.card["sha256"], "column": options.column, "steps": options.steps}
    record |= {"command": here["command"], "device": here["device"], "torch": here["versions"]["torch"]}
    write_atomically(options.into, json.dumps(record | {"finals": finals}) + "\n")


if __name__ == "__main__":
    main()

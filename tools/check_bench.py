"""Train some rows of a truth table again, and compare them with what the table says.

    python tools/check_bench.py cued_shapes_k3 --rows 5

Each row is a scheme and one of its seeds, drawn at random. On the machine that made the table the accuracy is the same
to the bit. Elsewhere rounding differs, and training amplifies it, so a row agrees if it is as near to the recorded
accuracy as the standard deviation of the scheme's own seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from ean_lib.experiments.bench import load_bench
from ean_lib.experiments.steps import run_retrain
from ean_lib.experiments.task import Task
from ean_lib.learning.training import TrainConfig
from ean_lib.runs import read_json, rebuild
from ean_lib.runs.jobs import run_jobs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a table of the library, or the folder of an `ean bench`")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    workers = torch.get_num_threads()
    torch.set_num_threads(1)  # as the table was made, also where one row is trained in this process
    bench = load_bench(options.table)
    task, config = rebuild(Task, bench.card["task"]), rebuild(TrainConfig, bench.card["train"])
    recorded = bench.values("test")
    cells = [(scheme, seed) for scheme in bench.schemes if str(scheme) in recorded.index for seed in recorded]
    drawn = torch.randperm(len(cells), generator=torch.Generator().manual_seed(options.seed))[: options.rows]
    chosen = [cells[i] for i in drawn.tolist()]
    agree = 0
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(number) for number in range(len(chosen))]
        pairs, again = list(zip(chosen, outs, strict=True)), partial(run_retrain, task, config=config, hold_out=True)
        run_jobs([partial(again, scheme=scheme, seed=seed, out=out) for (scheme, seed), out in pairs], workers=workers)
        for (scheme, seed), out in pairs:
            now, before = read_json(out / "result.json")["test_accuracy"], recorded.loc[str(scheme), seed]
            std = recorded.loc[str(scheme)].std()
            agree += abs(now - before) <= std
            print(f"{scheme} seed {seed}: recorded {before:.2f}, again {now:.2f} (std over its seeds {std:.2f})")
    print(f"{agree} of {len(chosen)} agree")
    return int(agree < len(chosen))


if __name__ == "__main__":
    raise SystemExit(main())

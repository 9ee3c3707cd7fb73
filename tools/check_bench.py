"""Train some rows of a truth table again, and compare them with what the table says.

    python tools/check_bench.py cued_shapes_k3 --rows 5

Each row is a scheme and one of its seeds, drawn at random. On the machine that made the table the accuracy is the same
to the bit. Elsewhere rounding differs, and training amplifies it, so a row agrees if it is as near to the recorded
accuracy as the standard deviation of the scheme's own seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from ean_lib.bench import load_bench
from ean_lib.pipeline import Place, Task, run_jobs, run_retrain
from ean_lib.runs import read_json
from ean_lib.training import TrainConfig


def tuples(values: dict) -> dict:
    """JSON knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a table of the library, or the folder of an `ean bench`")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    bench = load_bench(options.table)
    task, config = Task(**tuples(bench.card["task"])), TrainConfig(**tuples(bench.card["train"]))
    recorded = bench.values("test")
    cells = [(scheme, seed) for scheme in bench.schemes if str(scheme) in recorded.index for seed in recorded]
    drawn = torch.randperm(len(cells), generator=torch.Generator().manual_seed(options.seed))[: options.rows]
    chosen = [cells[i] for i in drawn.tolist()]
    agree = 0
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(number) for number in range(len(chosen))]
        common, pairs = {"task": task, "config": config, "hold_out": True}, list(zip(chosen, outs, strict=True))
        jobs = [(run_retrain, common | {"scheme": s, "seed": seed, "out": out}) for (s, seed), out in pairs]
        run_jobs(jobs, Place())
        for (scheme, seed), out in pairs:
            again, before = read_json(out / "result.json")["test_accuracy"], recorded.loc[str(scheme), seed]
            std = recorded.loc[str(scheme)].std()
            agree += abs(again - before) <= std
            print(f"{scheme} seed {seed}: recorded {before:.2f}, again {again:.2f} (std over its seeds {std:.2f})")
    print(f"{agree} of {len(chosen)} agree")
    return int(agree < len(chosen))


if __name__ == "__main__":
    raise SystemExit(main())

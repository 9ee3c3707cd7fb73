"""Attention plugged into a network that was trained before: does a gate that starts as the identity learn to move?

    python benchmarks/identity_start.py --into ean_lib/recorded/identity_start.json

The recorded backbones of cued_shapes, trained without attention, get shared SE modules, once with a random start and
once with a gate of exactly 1. All blocks are connected, and everything is trained on by the recipe of a retraining.
Rows that are in the file already are kept, so that a killed run goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from ean_lib import Scheme, evaluate, load_data, load_record, plug, train
from ean_lib.experiments.recipes import recipe
from ean_lib.runs import environment, read_json, to_json, write_atomically

STARTS = ("random", "identity")


def fine_tune(seed: int, start: str, epochs: int) -> dict[str, object]:
    """Accuracies in % of the test images, before and after, and of the training images after each epoch."""
    data = load_data("cued_shapes", seed=seed)
    backbone = load_record("cued_shapes").network(f"seed-{seed}/backbone")
    options = {"start": start, "attention_kwargs": {"rd_ratio": 1 / 2}, "seed": seed}
    net = plug(backbone, "se", example=torch.zeros(2, 3, 32, 32), **options)
    row = {"seed": seed, "start": start, "backbone": evaluate(backbone, data.test), "before": evaluate(net, data.test)}
    config = dataclasses.replace(recipe("cued_shapes").retrain, seed=seed, epochs=epochs)
    history = train(net.train(), data, config, Scheme.full(net.stages), progress=False)
    strengths = [p.abs().mean().item() for name, p in net.named_parameters() if name.endswith("strength")]
    return {
        **row,
        "after": evaluate(net, data.test),
        "training": [round(record["accuracy"], 2) for record in history],
        "strength": [round(value, 3) for value in strengths],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="a JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    rows = read_json(options.into)["rows"] if options.into.exists() else []
    for seed in options.seeds:
        for start in STARTS:
            if any(row["seed"] == seed and row["start"] == start for row in rows):
                continue
            rows.append(fine_tune(seed, start, options.epochs))
            print(json.dumps(rows[-1]), flush=True)
            where = environment()
            card = {key: where[key] for key in ("command", "device", "threads", "versions")}
            write_atomically(options.into, to_json({**card, "epochs": options.epochs, "rows": rows}))


if __name__ == "__main__":
    main()

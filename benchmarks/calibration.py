"""BatchNorm statistics measured again on training images: as they are, and augmented as in training.

    python benchmarks/calibration.py --into ean_lib/recorded/cifar10_calibration.json

The networks are those of the CIFAR-10 record of six epochs whose weights are kept. Each was trained alone, so its
running statistics fit it, and measuring them again should change nothing. Accuracy is of all test images, for several
draws of the calibration images. Then all schemes of three recorded supernets are scored with each kind of statistics.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ean_lib import Scheme, Scorer, evaluate, load_data, load_record
from ean_lib.data import Data
from ean_lib.networks import AttentionResNet, reestimate_batchnorm
from ean_lib.runs import environment, to_json, write_atomically


def measured_again(net: AttentionResNet, images: Tensor) -> AttentionResNet:
    """A copy whose BatchNorms have the statistics of one batch of images (B, 3, H, W)."""
    net = copy.deepcopy(net)
    reestimate_batchnorm(net, images)
    return net


def scores(supernet: AttentionResNet, data: Data, images: int) -> dict[str, dict[str, float]]:
    """Accuracy (%) on search-val of every scheme, for each kind of statistics."""
    kinds = {"running": (None, True), "plain": (images, False), "augmented": (images, True)}
    schemes = list(Scheme.all_of(supernet.stages))
    found = {}
    for name, (recalibrate, augment) in tqdm(kinds.items()):
        scorer = Scorer(supernet, data, recalibrate=recalibrate, augment=augment, device="cpu")
        found[name] = dict(zip(map(str, schemes), scorer(schemes), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[250, 1000, 4000], help="to measure statistics on")
    parser.add_argument("--draws", type=int, default=3, help="of these images, for each number")
    parser.add_argument("--into", type=Path, required=True)
    options = parser.parse_args()

    data = load_data("cifar10")
    rows = []
    for form in tqdm(("backbone", "share-full", "ean")):
        net = load_record("cifar10_six_epochs").network(f"seed-0/{form}")
        rows.append({"form": form, "statistics": "running", "accuracy": evaluate(net, data.test, device="cpu")})
        for name, augment in (("plain", ()), ("augmented", data.augment)):
            for number in options.images:
                for draw in range(options.draws):
                    order = {"generator": torch.Generator().manual_seed(draw), "augment": augment}
                    images, _ = next(iter(data.train.batches(number, device="cpu", **order)))
                    accuracy = evaluate(measured_again(net, images), data.test, device="cpu")
                    of = {"form": form, "statistics": name, "images": number, "draw": draw}
                    rows.append(of | {"accuracy": accuracy})
    here = environment()
    record = {"command": here["command"], "device": here["device"], "torch": here["versions"]["torch"]}
    trained = [run for run in load_record("cifar10_supernets").finished if run.kind == "supernet"]
    supernets = {run.group: scores(run.network(), data, 1000) for run in trained}
    write_atomically(options.into, to_json(record | {"rows": rows, "supernets": supernets}))


if __name__ == "__main__":
    main()

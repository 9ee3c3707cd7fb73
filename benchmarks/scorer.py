"""How much the prefix walk saves: all schemes of a network scored together, and one by one, in one run.

    python benchmarks/scorer.py                      # ResNet-20, all 512 schemes, 500 synthetic images
    python benchmarks/scorer.py --rounds 5 --recalibrate 200

Both ways are timed in turn; the ratio is taken within a round, and its median and extremes are printed. The accuracies
of both ways must be equal, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from ean_lib.data import Data, Split
from ean_lib.devices import device_name
from ean_lib.networks import build_network
from ean_lib.schemes import Scheme
from ean_lib.supernet import Scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", default="se")
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 3, 3])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recalibrate", type=int, default=None)
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.images, 3, 32, 32), generator=generator).to(torch.uint8)
    split = Split.from_arrays(images, torch.arange(options.images) % 10)
    data = Data("synthetic", 10, tuple("0123456789"), (32, 32), split.mean, split.std, split, split, split)
    net = build_network("resnet20", options.attention, stages=options.blocks, stem_stride=2, seed=0)
    schemes = list(Scheme.all_of(net.stages))

    def timed(together: bool) -> tuple[float, list[float]]:
        scorer = Scorer(net, data, recalibrate=options.recalibrate)
        scorer([schemes[0]])  # warm-up
        scorer.known.clear()
        began = time.perf_counter()
        scores = scorer(schemes) if together else [scorer([scheme])[0] for scheme in schemes]
        return time.perf_counter() - began, scores

    ratios = []
    for _ in range(options.rounds):
        (walk, scores), (single, reference) = timed(True), timed(False)
        if scores != reference:
            raise SystemExit("the walk and the single evaluations disagree")
        ratios.append(walk / single)
        print(f"together {walk:.2f} s, one by one {single:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    device = device_name("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{len(schemes)} schemes, {options.images} images, {options.attention}, {device}")
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}; equal accuracies")


if __name__ == "__main__":
    main()

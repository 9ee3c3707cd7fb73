"""How much the prefix walk saves: all schemes of a network scored together, and one by one, in one run.

    python benchmarks/scorer.py                      # ResNet-20, all 512 schemes, 500 synthetic images
    python benchmarks/scorer.py --rounds 5 --recalibrate 200
    python benchmarks/scorer.py --plugged            # a torchvision ResNet of 9 blocks, plugged

Both ways are timed in turn; the ratio is taken within a round, and its median and extremes are printed. The accuracies
of both ways must be equal, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torchvision.models.resnet import BasicBlock, ResNet

from ean_lib.data import Data, Split
from ean_lib.devices import device_name
from ean_lib.networks import PluggedNetwork, build_network, plug
from ean_lib.schemes import Scheme
from ean_lib.supernet import Scorer


def plugged_resnet(attention: str, depths: list[int]) -> PluggedNetwork:
    """torchvision's ResNet with that many blocks in its stages (one of four is left empty), plugged."""
    torch.manual_seed(0)
    net = ResNet(BasicBlock, [*depths, 1], num_classes=10)
    net.layer4, net.fc = torch.nn.Identity(), torch.nn.Linear(256, 10)
    return plug(net, attention, example=torch.zeros(2, 3, 32, 32), seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", default="se")
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 3, 3])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recalibrate", type=int, default=None)
    parser.add_argument("--plugged", action="store_true", help="torchvision's BasicBlocks in a network of its own")
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.images, 3, 32, 32), generator=generator).to(torch.uint8)
    split = Split.from_arrays(images, torch.arange(options.images) % 10)
    data = Data("synthetic", 10, tuple("0123456789"), (32, 32), split.mean, split.std, split, split, split)
    if options.plugged:
        net = plugged_resnet(options.attention, options.blocks)
    else:
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

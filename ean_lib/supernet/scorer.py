"""The supernet: one network that contains every scheme. How its schemes are drawn, and how they are scored.

While searching, the supernet's weights stand still, so a scheme's accuracy is a fact: it is computed once and kept.
Schemes asked together are walked as a prefix tree. What block d sees depends only on the bits of the blocks before it,
so schemes with the same first d bits share that work, and the branch f(x) is computed once for both values of bit d.
All 2^9 schemes of ResNet-20 cost 511 block evaluations instead of 4,608.
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ean_lib.checks import check
from ean_lib.data import Data, Split
from ean_lib.devices import find_device
from ean_lib.networks import AttentionResNet
from ean_lib.schemes import Scheme
from ean_lib.supernet.prefix_walk import PrefixWalk


class Scorer:
    """Accuracy of each scheme under the supernet's weights, cached and computed along a prefix tree.

    Args:
        net: the supernet; a frozen copy of it is kept, so training on does not change the scores.
        data: schemes are scored on ``data.val``.
        batch_size: images per evaluation.
        recalibrate: None keeps the supernet's BatchNorm statistics, an average over random schemes. A number
            re-estimates them for each scheme from that many training images, in one batch.
        augment: whether the supernet was trained on augmented images (``TrainConfig.augment``): then those images are
            augmented too. Statistics of plain ones do not fit it, and cost CIFAR-10 networks one to two points.
        device: ``"auto"`` (a GPU if there is one) or ``"cpu"``.
        known: accuracies computed before, to go on from.

    Calling it with schemes returns their accuracies in %, in order.
    """

    def __init__(
        self, net: AttentionResNet, data: Data, *, batch_size: int = 500, recalibrate: int | None = None,
        augment: bool = True, device: str = "auto", known: dict[Scheme, float] | None = None,
    ) -> None:  # fmt: skip
        check("recalibrate", recalibrate, recalibrate is None or recalibrate >= 2, "None or at least 2 training images")
        self.device = find_device(device)
        self.net = copy.deepcopy(net).to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.split: Split = data.val
        self.batch_size = batch_size
        self.known: dict[Scheme, float] = dict(known or {})
        self._calibration: Tensor | None = None
        if recalibrate is not None:
            names = data.augment if augment else ()
            order = {"generator": torch.Generator().manual_seed(0), "augment": names} if names else {}
            batches = data.train.batches(min(recalibrate, len(data.train)), device=self.device, **order)
            self._calibration = next(iter(batches))[0]

    def __call__(self, schemes: Iterable[Scheme]) -> list[float]:
        schemes = [Scheme.parse(scheme, self.net.stages) for scheme in schemes]
        new = sorted({s for s in schemes if s not in self.known}, key=lambda s: s.bits)
        if new:
            for scheme in new:
                self.net.gates(scheme)
            self.known.update(self._score(new))
        return [self.known[scheme] for scheme in schemes]

    @torch.no_grad()
    def _score(self, schemes: Sequence[Scheme]) -> dict[Scheme, float]:
        walk = PrefixWalk(self.net, schemes)
        if self._calibration is not None:
            walk.calibrate(self._calibration)
        correct = {scheme: 0 for scheme in schemes}
        for x, y in self.split.batches(self.batch_size, device=self.device):
            for scheme, scores in walk(x):
                correct[scheme] += (scores.argmax(1) == y).sum()
        return {scheme: 100 * int(hits) / len(self.split) for scheme, hits in correct.items()}

"""The accuracy of every scheme under a supernet's weights.

While searching, the supernet's weights stand still, so a scheme's accuracy is a fact: it is computed once and kept.
Where the network is a chain of blocks, schemes asked together are walked as a prefix tree (`PrefixWalk`): all 2^9
schemes of ResNet-20 cost 511 block evaluations instead of 4,608. Any other network is asked scheme by scheme.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ean_lib.checks import check, check_number, plain
from ean_lib.data import Data, Split
from ean_lib.devices import find_device
from ean_lib.networks import Network, as_chain, check_scheme, check_scores, find_broken, network_dtype
from ean_lib.schemes import Scheme
from ean_lib.supernet.one_by_one import OneByOne
from ean_lib.supernet.prefix_walk import PrefixWalk

# Part of what a stored score depends on: raised when the same weights and images give another score than before.
# 2: the images that BatchNorm is re-estimated from are drawn also where they are not augmented.
SCORING_VERSION = 2
CALIBRATION_SEED = 0


class Scorer:
    """Accuracy of each scheme under the supernet's weights, cached and computed along a prefix tree where there is one.

    Args:
        net: the supernet; a frozen copy of it is kept, so training on does not change the scores.
        data: schemes are scored on ``data.val``.
        batch_size: images per evaluation.
        recalibrate: None keeps the supernet's BatchNorm statistics, an average over random schemes. A number
            re-estimates them for each scheme from that many training images, drawn with a fixed generator; see
            `ean_lib.networks.reestimate_batchnorm`.
        augment: whether the supernet was trained on augmented images (``TrainConfig.augment``): then those images are
            augmented too. Statistics of plain ones do not fit it, and cost CIFAR-10 networks one to two points.
        device: ``"auto"`` (a GPU if there is one) or ``"cpu"``.
        known: accuracies computed before, to go on from, by scheme or by its text.

    Attributes:
        known: the accuracies computed so far, by scheme.

    Calling it with schemes returns their accuracies in %, in order.

    Raises:
        ValueError: for bad options; when called, if a scheme does not fit the network, if the network has fewer outputs
            than there are classes, or if its class scores are not finite, as with broken weights.
    """

    def __init__(
        self, net: Network, data: Data, *, batch_size: int = 500, recalibrate: int | None = None,
        augment: bool = True, device: str = "auto", known: Mapping[Scheme | str, float] | None = None,
    ) -> None:  # fmt: skip
        if recalibrate is not None:
            recalibrate = plain(recalibrate)
            enough = isinstance(recalibrate, int) and recalibrate >= 2
            check("recalibrate", recalibrate, enough, "None or at least 2 training images")
        self.device = find_device(device)
        self.net = copy.deepcopy(net).to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.split: Split = data.val
        self._classes = data.num_classes
        self.batch_size = check_number("batch_size", batch_size, low=1, whole=True)
        check("known", known, known is None or isinstance(known, Mapping), "accuracies by scheme")
        self.known: dict[Scheme, float] = {}
        for scheme, accuracy in (known or {}).items():
            what = f"the known accuracy of scheme {scheme}"
            self.known[Scheme.parse(scheme, self.net.stages)] = float(check_number(what, accuracy, high=100))
        self._dtype = network_dtype(self.net)
        self._calibration: Tensor | None = None
        if recalibrate is not None:
            count = min(recalibrate, len(data.train))
            # Always drawn: stored images may lie class by class.
            generator = torch.Generator().manual_seed(CALIBRATION_SEED)
            names = data.augment if augment else ()
            batches = data.train.batches(count, device=self.device, generator=generator, augment=names)
            self._calibration = next(iter(batches))[0].to(self._dtype)

    def __call__(self, schemes: Iterable[Scheme]) -> list[float]:
        schemes = [Scheme.parse(scheme, self.net.stages) for scheme in schemes]
        unknown = {scheme for scheme in schemes if scheme not in self.known}
        if unknown:
            for scheme in unknown:
                check_scheme(self.net, scheme)
            self.known.update(self._score(sorted(unknown, key=lambda scheme: scheme.bits)))
        return [self.known[scheme] for scheme in schemes]

    @torch.no_grad()
    def _score(self, schemes: Sequence[Scheme]) -> dict[Scheme, float]:
        chain = as_chain(self.net)
        passes = OneByOne(self.net, schemes) if chain is None else PrefixWalk(self.net, schemes, chain)
        if self._calibration is not None:
            passes.calibrate(self._calibration)
        # Tensors, so that nothing waits for the GPU before the end.
        correct = {scheme: torch.zeros((), dtype=torch.int64, device=self.device) for scheme in schemes}
        finite = {scheme: torch.ones((), dtype=torch.bool, device=self.device) for scheme in schemes}
        for x, y in self.split.batches(self.batch_size, device=self.device):
            for scheme, scores in passes(x.to(self._dtype)):
                check_scores(scores, len(y), self._classes)
                correct[scheme] += (scores.argmax(1) == y).sum()
                finite[scheme] &= scores.isfinite().all()
        for scheme in schemes:
            if not finite[scheme]:
                what = f"the class scores of scheme {scheme} are NaN or infinite, so it has no accuracy"
                raise ValueError(f"{what}: {find_broken(self.net)}")
        return {scheme: 100 * int(hits) / len(self.split) for scheme, hits in correct.items()}

"""The accuracy of every scheme under a supernet's weights, or another metric.

While searching, the supernet's weights stand still, so a scheme's accuracy is a fact: it is computed once and kept.
Where the network is a chain of blocks, schemes asked together are walked as a prefix tree (`PrefixWalk`): all 2^9
schemes of ResNet-20 cost 511 block evaluations instead of 4,608. Any other network is asked scheme by scheme.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ean_lib.checks import check, check_number, plain
from ean_lib.data import Data, Images, Split, as_split, num_classes
from ean_lib.devices import find_device
from ean_lib.networks import (
    Metric,
    Network,
    as_chain,
    check_scheme,
    check_scores,
    find_broken,
    network_dtype,
    start_tally,
)
from ean_lib.schemes import Scheme
from ean_lib.supernet.one_by_one import OneByOne
from ean_lib.supernet.prefix_walk import PrefixWalk

# Part of what a stored score depends on: raised when the same weights and images give another score than before.
# 2: the images that BatchNorm is re-estimated from are drawn also where they are not augmented.
SCORING_VERSION = 2
CALIBRATION_SEED = 0


class Scorer:
    """Accuracy of each scheme under the supernet's weights, cached and computed along a prefix tree where there is one.

    It is a reward for `search`: ``search(Scorer(net, data), net.stages, SearchConfig())``. How another metric is to be
    scaled stands there.

    Args:
        net: the supernet; a frozen copy of it is kept, so training on does not change the scores.
        data: schemes are scored on ``data.val``; or on these images, if they are a `Split`, a torch `Dataset`, a
            `DataLoader`, or another iterable of (images, labels) that gives the same ones whenever it is gone through.
        batch_size: images per evaluation; batches that are made already are taken as they are.
        recalibrate: None keeps the supernet's BatchNorm statistics, an average over random schemes. A number
            re-estimates them for each scheme from that many training images, drawn with a fixed generator; see
            `ean_lib.networks.reestimate_batchnorm`.
        augment: whether the supernet was trained on augmented images (``TrainConfig.augment``): then those images are
            augmented too. Statistics of plain ones do not fit it, and cost CIFAR-10 networks one to two points.
        device: ``"auto"`` (a GPU if there is one) or ``"cpu"``.
        known: values computed before, to go on from, by scheme or by its text.
        metric: another value of a scheme than its accuracy in %, as in `evaluate`.
        train: the training images for `recalibrate`, in any of the forms that `data` can have; None is ``data.train``.

    Attributes:
        known: the values computed so far, by scheme.

    Calling it with schemes returns their accuracies in %, or values of the metric, in order.

    Raises:
        ValueError: for bad options; when called, if a scheme does not fit the network, if the network has fewer outputs
            than there are classes, if its class scores are not finite, as with broken weights, or if the metric gives
            anything but one finite number.
    """

    def __init__(
        self, net: Network, data: Data | Images, *, batch_size: int = 500,
        recalibrate: int | None = None, augment: bool = True, device: str = "auto",
        known: Mapping[Scheme | str, float] | None = None, metric: Metric | None = None,
        train: Images | None = None,
    ) -> None:  # fmt: skip
        if recalibrate is not None:
            recalibrate = plain(recalibrate)
            enough = isinstance(recalibrate, int) and recalibrate >= 2
            check("recalibrate", recalibrate, enough, "None or at least 2 training images")
        self.device = find_device(device)
        self.net = copy.deepcopy(net).to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        is_data = isinstance(data, Data)
        self.split: Split = data.val if is_data else as_split(data)  # or what is used as one
        self._labelled = data if is_data else self.split
        self.batch_size = check_number("batch_size", batch_size, low=1, whole=True)
        self.metric = metric
        start_tally(metric, self.device)  # refuses what is no metric
        check("known", known, known is None or isinstance(known, Mapping), "accuracies by scheme")
        self.known: dict[Scheme, float] = {}
        for scheme, value in (known or {}).items():
            self.known[Scheme.parse(scheme, self.net.stages)] = self._known_value(scheme, value)
        self._dtype = network_dtype(self.net)
        self._calibration: Tensor | None = None
        if recalibrate is not None:
            if train is None and not is_data:
                raise ValueError(
                    "recalibrate needs training images, and these are to be scored on: pass train= as well"
                )
            part = data.train if train is None else as_split(train)
            names = data.augment if is_data and train is None and augment else ()
            self._calibration = self._draw(part, recalibrate, names)

    def _known_value(self, scheme: Scheme | str, value: Any) -> float:
        """A value that was computed before, checked."""
        if self.metric is None:
            return float(check_number(f"the known accuracy of scheme {scheme}", value, high=100))
        number = plain(value)
        is_number = isinstance(number, int | float) and isfinite(number)
        check(f"the known value of scheme {scheme}", value, is_number, "a finite number")
        return float(number)

    def _draw(self, part: Split, count: int, augment: Sequence[str]) -> Tensor:
        """So many images of a part, or all where it has fewer, drawn with a fixed generator."""
        drawn: list[Tensor] = []
        # Always drawn: stored images may lie class by class.
        generator = torch.Generator().manual_seed(CALIBRATION_SEED)
        # A DataLoader that shuffles, and what augments its images, draw from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(CALIBRATION_SEED)
            for x, _ in part.batches(count, device=self.device, generator=generator, augment=augment):
                drawn.append(x.to(self._dtype))
                if sum(map(len, drawn)) >= count:
                    break
        images = drawn[0] if len(drawn) == 1 else torch.cat(drawn)
        return images[:count]

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
        tallies = {scheme: start_tally(self.metric, self.device) for scheme in schemes}
        for x, y in self.split.batches(self.batch_size, device=self.device):
            for scheme, scores in passes(x.to(self._dtype)):
                check_scores(scores, len(y), num_classes(self._labelled))
                tallies[scheme].add(scores, y)
        for scheme, tally in tallies.items():
            if not tally.is_finite:
                what = f"the class scores of scheme {scheme} are NaN or infinite, so it has no accuracy"
                raise ValueError(f"{what}: {find_broken(self.net)}")
        return {scheme: tally.value() for scheme, tally in tallies.items()}

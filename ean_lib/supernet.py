"""The supernet: one network that contains every scheme. How its schemes are drawn, and how they are scored.

While searching, the supernet's weights stand still, so a scheme's accuracy is a fact: it is computed once and kept.
Schemes asked together are walked as a prefix tree. What block d sees depends only on the bits of the blocks before it,
so schemes with the same first d bits share that work, and the branch f(x) is computed once for both values of bit d.
All 2^9 schemes of ResNet-20 cost 511 block evaluations instead of 4,608.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ean_lib.checks import check
from ean_lib.data import Data, Split
from ean_lib.networks import AttentionResNet, State, connect
from ean_lib.runs import find_device
from ean_lib.schemes import Scheme

Sampler = Callable[[tuple[int, ...], torch.Generator], list[Scheme]]


def uniform(stages: tuple[int, ...], generator: torch.Generator) -> list[Scheme]:
    """One scheme per step, each bit on with probability 1/2 (EAN)."""
    return [Scheme.random(stages, generator)]


def complementary(stages: tuple[int, ...], generator: torch.Generator) -> list[Scheme]:
    """A scheme and its complement, each on half of the batch: every connection is trained at every step."""
    scheme = Scheme.random(stages, generator)
    return [scheme, ~scheme]


def sandwich(stages: tuple[int, ...], generator: torch.Generator) -> list[Scheme]:
    """The full scheme, none, and two random ones, each on a quarter of the batch (Yu & Huang 2019)."""
    middle = [Scheme.random(stages, generator) for _ in range(2)]
    return [Scheme.full(stages), Scheme.none(stages), *middle]


SAMPLERS: dict[str, Sampler] = {"uniform": uniform, "complementary": complementary, "sandwich": sandwich}


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


class PrefixWalk:
    """Forward passes of many schemes at once, each shared prefix computed once.

    Args:
        net: a network in eval mode; ``calibrate`` replaces the statistics of its BatchNorms.
        schemes: distinct schemes of its stages.
    """

    def __init__(self, net: AttentionResNet, schemes: Sequence[Scheme]) -> None:
        self.net = net
        self.bits = sorted(scheme.bits for scheme in schemes)
        stages = net.stage_modules()
        self.blocks = [(stages[s - 1].blocks[i], module, i == 0) for s, i, module in net.connections()]
        self.norms = [[m for m in block.modules() if isinstance(m, nn.BatchNorm2d)] for block, _, _ in self.blocks]
        self.statistics: dict[tuple[bool, ...] | None, list[tuple[Tensor, Tensor]]] = {}
        self.calibrating = False

    def __call__(self, x: Tensor) -> Iterator[tuple[Scheme, Tensor]]:
        """Yield (scheme, class scores) for images x (B, 3, H, W), in lexicographic order of the schemes."""
        with self._own_statistics([self.net.bn1], None):
            x = self.net.stem(x)
        for bits, features in self._descend(x, None, (), 0, len(self.bits)):
            yield Scheme(bits, self.net.stages), self.net.head(features)

    def calibrate(self, x: Tensor) -> None:
        """Re-estimate the BatchNorm statistics of every prefix from the images x: reset, not continued, in one batch.

        A BatchNorm inside an attention module keeps the supernet's statistics.
        """
        self.calibrating = True
        for _ in self(x):
            pass
        self.calibrating = False

    def _descend(
        self, x: Tensor, state: State, prefix: tuple[bool, ...], first: int, last: int
    ) -> Iterator[tuple[tuple[bool, ...], Tensor]]:
        """Walk the schemes first..last of the sorted list, which share prefix; x is what the next block sees.

        Only where schemes part are features kept, so that memory does not grow with depth.
        """
        while (depth := len(prefix)) < len(self.blocks):
            block, module, starts_stage = self.blocks[depth]
            state = None if starts_stage else state
            with self._own_statistics(self.norms[depth], prefix):
                y, shortcut = block.branch(x), block.shortcut(x)
            split = next((k for k in range(first, last) if self.bits[k][depth]), last)
            if first < split < last:
                unchanged, after = connect(module, False, y, state)
                yield from self._descend(torch.relu(shortcut + unchanged), after, (*prefix, False), first, split)
            bit = split < last
            attended, state = connect(module, bit, y, state)
            x, prefix, first = torch.relu(shortcut + attended), (*prefix, bit), split if bit else first
        yield prefix, x

    @contextmanager
    def _own_statistics(self, norms: list[nn.BatchNorm2d], prefix: tuple[bool, ...] | None) -> Iterator[None]:
        """Compute with the statistics of this prefix: taken from the batch while calibrating, then from the record."""
        if not self.calibrating:
            for norm, (mean, var) in zip(norms, self.statistics.get(prefix, ()), strict=False):
                norm.running_mean, norm.running_var = mean, var
            yield
            return
        for norm in norms:
            norm.train().momentum = 1.0  # this batch alone
        yield
        self.statistics[prefix] = [(n.running_mean.clone(), n.running_var.clone()) for n in norms]
        for norm in norms:
            norm.eval()

"""Forward passes of many schemes at once, each shared prefix computed once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ean_lib.networks import AttentionResNet, State, connect
from ean_lib.schemes import Scheme


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

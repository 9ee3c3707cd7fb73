"""Forward passes of many schemes at once, each shared prefix computed once."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from torch import Tensor, nn

from ean_lib.networks import Chain, ChainBlock, Network, State, as_chain, attention_modules, connect
from ean_lib.networks.batchnorm import Record, find_batchnorms, in_parts, measuring, using
from ean_lib.schemes import Scheme

Bits = tuple[bool, ...]


class PrefixWalk:
    """Forward passes of many schemes at once, each shared prefix computed once.

    What block d sees depends only on the bits of the blocks before it, so schemes with the same first d bits share that
    work, and the branch f(x) is computed once for both values of bit d.

    Args:
        net: a network in eval mode; it is left as it is.
        schemes: distinct schemes of its stages.
        chain: the network as a chain of blocks, where that is known already.
    """

    def __init__(self, net: Network, schemes: Sequence[Scheme], chain: Chain | None = None) -> None:
        self.net = net
        self.chain = as_chain(net) if chain is None else chain
        self.bits = sorted(scheme.bits for scheme in schemes)
        self.blocks = self.chain.blocks
        self.connections = list(net.connections())
        attention = attention_modules(net)
        self.block_norms = [find_batchnorms(block, without=attention) for block in self.blocks]
        self.other_norms = find_batchnorms(net, without=[*attention, *self.blocks])  # of stem and head
        # The statistics that a prefix of bits gives the BatchNorms of the next block, or of the head; None: the stem's.
        self.statistics: dict[Bits | None, Record] = {}
        self.calibrating = False

    def __call__(self, x: Tensor) -> Iterator[tuple[Scheme, Tensor]]:
        """Yield (scheme, class scores) for images x (B, 3, H, W), in lexicographic order of the schemes."""
        with self._statistics_of(None, self.other_norms):
            x = self.chain.stem(x)
        for bits, features in self._descend(x, None, (), 0, len(self.bits)):
            with self._statistics_of(bits, self.other_norms):
                scores = self.chain.head(features)
            yield Scheme(bits, self.net.stages), scores

    def calibrate(self, images: Tensor) -> None:
        """Measure the BatchNorm statistics of every prefix on the images; see `ean_lib.networks.batchnorm`.

        A BatchNorm inside an attention module keeps the supernet's statistics.
        """
        self.statistics = {}
        self.calibrating = True
        try:
            for part in in_parts(images):
                for _ in self(part):
                    pass
        finally:
            self.calibrating = False

    def _descend(self, x: Tensor, state: State, prefix: Bits, first: int, last: int) -> Iterator[tuple[Bits, Tensor]]:
        """Walk the schemes first..last of the sorted list, which share prefix; x is what the next block sees.

        Only where schemes part are features kept, so that memory does not grow with depth.
        """
        while len(prefix) < len(self.blocks):
            depth = len(prefix)
            block = self.blocks[depth]
            connection = self.connections[depth]
            if connection.block == 0:
                state = None  # a stage begins
            with self._statistics_of(prefix, self.block_norms[depth]):
                y = block.branch(x)
                shortcut = block.shortcut(x)
            # In the sorted list, schemes with this bit off come before those with it on.
            split = next((k for k in range(first, last) if self.bits[k][depth]), last)
            if first < split < last:  # some of each: first all of those with the bit off
                # Not kept in a name here: the features of these schemes are to be freed as soon as they can be.
                yield from self._descend(
                    *self._merge(block, connection.module, False, shortcut, y, state), (*prefix, False), first, split
                )
                first = split
            bit = split < last
            x, state = self._merge(block, connection.module, bit, shortcut, y, state)
            prefix = (*prefix, bit)
        yield prefix, x

    @staticmethod
    def _merge(
        block: ChainBlock, module: nn.Module | None, bit: bool, shortcut: Tensor, y: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """The block's output and the state after it."""
        y, state = connect(module, bit, y, state)
        return block.merge(shortcut, y), state

    def _statistics_of(self, prefix: Bits | None, norms: list[nn.Module]) -> AbstractContextManager[None]:
        """Compute with the statistics of this prefix: measured and noted while calibrating, then those noted."""
        if self.calibrating:
            return measuring(norms, self.statistics.setdefault(prefix, {}))
        return using(self.statistics.get(prefix, {}))

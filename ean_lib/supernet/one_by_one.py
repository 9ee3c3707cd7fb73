"""Forward passes of many schemes, one scheme after the other: for networks that are no chain of blocks."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from ean_lib.networks import Network, attention_modules
from ean_lib.networks.batchnorm import Record, find_batchnorms, in_parts, measuring, using
from ean_lib.schemes import Scheme


class OneByOne:
    """What `PrefixWalk` does, for any network of the contract, and without sharing any work.

    Args:
        net: a network in eval mode; it is left as it is.
        schemes: distinct schemes of its stages.
    """

    def __init__(self, net: Network, schemes: Sequence[Scheme]) -> None:
        self.net = net
        self.schemes = schemes
        self.norms = find_batchnorms(net, without=attention_modules(net))
        self.statistics: dict[Scheme, Record] = {}

    def __call__(self, x: Tensor) -> Iterator[tuple[Scheme, Tensor]]:
        """Yield (scheme, class scores) for images x (B, 3, H, W)."""
        for scheme in self.schemes:
            with using(self.statistics.get(scheme, {})):
                scores = self.net(x, scheme)
            yield scheme, scores

    def calibrate(self, images: Tensor) -> None:
        """Measure the BatchNorm statistics of every scheme on the images; see `ean_lib.networks.batchnorm`.

        A BatchNorm inside an attention module keeps the supernet's statistics.
        """
        self.statistics = {}
        for scheme in self.schemes:
            record = self.statistics[scheme] = {}
            for part in in_parts(images):
                with measuring(self.norms, record):
                    self.net(part, scheme)

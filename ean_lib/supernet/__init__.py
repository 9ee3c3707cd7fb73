"""The supernet: one network that contains every scheme. How its schemes are drawn, and how they are scored."""

from ean_lib.supernet.prefix_walk import PrefixWalk
from ean_lib.supernet.samplers import SAMPLERS
from ean_lib.supernet.scorer import Scorer

__all__ = ["SAMPLERS", "PrefixWalk", "Scorer"]

"""The supernet: one network that contains every scheme. How its schemes are drawn, and how they are scored."""

from ean_lib.supernet.one_by_one import OneByOne
from ean_lib.supernet.prefix_walk import PrefixWalk
from ean_lib.supernet.samplers import SAMPLERS, SCHEMES_PER_STEP
from ean_lib.supernet.scorer import SCORING_VERSION, Scorer

__all__ = ["SAMPLERS", "SCHEMES_PER_STEP", "SCORING_VERSION", "OneByOne", "PrefixWalk", "Scorer"]

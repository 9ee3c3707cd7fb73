"""What a truth table says of a search: does the supernet rank, how far from the best does one end, which blocks matter?

Values are pandas Series by the text of the scheme, as the columns of `Bench.values` are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pandas as pd
from scipy import stats

from ean_lib.checks import check, check_number
from ean_lib.schemes import Scheme
from ean_lib.search import SearchResult


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap(
    statistic: Callable[[pd.Series, pd.Series], float], scores: pd.Series, truth: pd.Series, *,
    confidence: float = 0.95, resamples: int = 1000, seed: int = 0,
) -> Estimate:  # fmt: skip
    """A statistic of (scores, truth) with its percentile interval over schemes drawn with replacement (Efron 1979)."""
    scores, truth = _paired(scores, truth)

    def of_rows(rows: np.ndarray) -> float:
        return statistic(scores.iloc[rows], truth.iloc[rows])

    rows, rng = np.arange(len(scores)), np.random.default_rng(seed)
    options = {"confidence_level": confidence, "n_resamples": resamples, "method": "percentile", "vectorized": False}
    interval = stats.bootstrap((rows,), of_rows, rng=rng, **options).confidence_interval
    return Estimate(float(of_rows(rows)), float(interval.low), float(interval.high))


def kendall_tau(scores: pd.Series, truth: pd.Series) -> float:
    """Rank correlation τ-b: of two schemes, how much more often the scores order them as the truth does than not.

    Raises:
        ValueError: if values are missing or not finite, or all are the same, so that there is no order to compare.
    """
    scores, truth = _paired(scores, truth)
    for name, values in (("scores", scores), ("truth", truth)):
        check(f"the {name}", values.iloc[0], values.nunique() > 1, "of several values, not the same for every scheme")
    return float(stats.kendalltau(scores, truth).statistic)


def top_k_regret(scores: pd.Series, truth: pd.Series, k: int = 1) -> float:
    """What the best of the k schemes with the highest scores lacks of the best of all, in points of the truth.

    Among equal scores the fewest connections come first, then the order of the text, as in a search.
    """
    check_number("k", k, low=1, high=len(scores), whole=True)
    scores, truth = _paired(scores, truth)
    order = np.lexsort((scores.index.to_numpy(str), scores.index.str.count("1"), -scores))
    return float(truth.max() - truth.iloc[order[:k]].max())


def gain_over_average(values: pd.Series) -> pd.Series:
    """What each scheme has more than the average of all schemes with as many connections."""
    return values - values.groupby(values.index.str.count("1")).transform("mean")


def effects(values: pd.Series) -> pd.DataFrame:
    """Main effects and interactions of the blocks, in points, from a table of all 2^m schemes (a factorial experiment).

    On the diagonal: the mean over schemes that connect the block, less the mean over those that do not. Off it: half of
    what connecting one block changes in the other's effect; negative where one makes the other superfluous.

    Raises:
        ValueError: if a scheme is missing.
    """
    bits = np.array([Scheme.parse(text).bits for text in values.index])
    rows, blocks = bits.shape
    check("the table", rows, rows == 2**blocks == len(set(values.index)), f"of all {2**blocks} schemes, once each")
    signs = 2.0 * bits - 1
    table = 2 * (signs * values.to_numpy()[:, None]).T @ signs / rows  # 2 · mean(s_i · s_j · y)
    np.fill_diagonal(table, 2 * signs.T @ values.to_numpy() / rows)
    return pd.DataFrame(table)


def best_so_far(result: SearchResult, truth: pd.Series, budget: int | None = None) -> np.ndarray:
    """The truth of the scheme that a search would have given after each evaluation; its last one up to the budget."""
    objective = result.config.objective
    orders = ((-objective(Scheme.parse(s), value), s.count("1"), s) for s, value in result.values.items())
    found = [truth[scheme] for _, _, scheme in accumulate(orders, min)]
    return np.array((found + [found[-1]] * ((budget or 0) - len(found)))[:budget])


def chance_of_beating(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How often one of ours is above one of theirs, over all pairs; an equal pair counts one half (Mann-Whitney)."""
    return float(stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))


def _paired(scores: pd.Series, truth: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both by the same schemes, checked."""
    if not scores.index.equals(truth.index):
        if odd := sorted(set(scores.index) ^ set(truth.index)):
            raise ValueError(f"scores and truth must be of the same schemes; only one of them has {', '.join(odd[:3])}")
        truth = truth[scores.index]
    for name, values in (("scores", scores), ("truth", truth)):
        for scheme in values.index[~np.isfinite(values)]:
            check(f"the {name} of scheme {scheme}", values[scheme], False, "finite")
    return scores, truth

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
    statistic: Callable[[pd.Series, pd.Series], float],
    scores: pd.Series,
    truth: pd.Series,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A statistic of (scores, truth) with its percentile interval over schemes drawn with replacement (Efron 1979)."""
    scores, truth = _paired(scores, truth)

    def of_rows(rows: np.ndarray) -> float:
        return statistic(scores.iloc[rows], truth.iloc[rows])

    all_rows = np.arange(len(scores))
    resampled = stats.bootstrap(
        (all_rows,),
        of_rows,
        confidence_level=confidence,
        n_resamples=resamples,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(seed),
    )
    interval = resampled.confidence_interval
    return Estimate(float(of_rows(all_rows)), float(interval.low), float(interval.high))


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
    connected = _connected(scores)
    text = scores.index.to_numpy(str)
    order = np.lexsort((text, connected, -scores))  # by the last key first
    best_chosen = truth.iloc[order[:k]].max()
    return float(truth.max() - best_chosen)


def gain_over_average(values: pd.Series) -> pd.Series:
    """What each scheme has more than the average of all schemes with as many connections."""
    average = values.groupby(_connected(values)).transform("mean")
    return values - average


def effects(values: pd.Series) -> pd.DataFrame:
    """Main effects and interactions of the blocks, in points, from a table of all 2^m schemes (a factorial experiment).

    On the diagonal: the mean over schemes that connect the block, less the mean over those that do not. Off it: half of
    what connecting one block changes in the other's effect; negative where one makes the other superfluous.

    Raises:
        ValueError: if a scheme is missing.
    """
    bits = np.array([Scheme.parse(text).bits for text in values.index])  # (2^m, m)
    rows, blocks = bits.shape
    complete = rows == 2**blocks == len(set(values.index))
    check("the table", rows, complete, f"of all {2**blocks} schemes, once each")
    y = values.to_numpy()
    signs = 2.0 * bits - 1  # +1 connected, -1 not
    interactions = 2 * (signs * y[:, None]).T @ signs / rows  # (m, m): 2 · mean(s_i · s_j · y)
    main_effects = 2 * signs.T @ y / rows  # (m,): 2 · mean(s_i · y)
    np.fill_diagonal(interactions, main_effects)
    return pd.DataFrame(interactions)


def best_so_far(result: SearchResult, truth: pd.Series, budget: int | None = None) -> np.ndarray:
    """The truth of the scheme that a search would have given after each evaluation; its last one up to the budget."""
    objective = result.config.objective
    # The smallest of these is what the search would give: the highest objective, then the fewest connections.
    orders = [(-objective(Scheme.parse(text), value), text.count("1"), text) for text, value in result.values.items()]
    worth = [truth[text] for _, _, text in accumulate(orders, min)]
    if budget is not None:
        rest = budget - len(worth)
        worth = worth[:budget] + [worth[-1]] * max(rest, 0)
    return np.array(worth)


def chance_of_beating(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How often one of ours is above one of theirs, over all pairs; an equal pair counts one half (Mann-Whitney)."""
    wins = stats.mannwhitneyu(ours, theirs).statistic
    return float(wins / (len(ours) * len(theirs)))


def _connected(values: pd.Series) -> pd.Index:
    """How many blocks each scheme connects."""
    return values.index.str.count("1")


def _paired(scores: pd.Series, truth: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both by the same schemes, checked."""
    if not scores.index.equals(truth.index):
        unpaired = sorted(set(scores.index) ^ set(truth.index))
        if unpaired:
            some = ", ".join(unpaired[:3])
            raise ValueError(f"scores and truth must be of the same schemes; only one of them has {some}")
        truth = truth[scores.index]
    for name, values in (("scores", scores), ("truth", truth)):
        for scheme in values.index[~np.isfinite(values)]:
            check(f"the {name} of scheme {scheme}", values[scheme], False, "finite")
    return scores, truth

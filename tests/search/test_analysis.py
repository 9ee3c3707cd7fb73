"""Small tables, computed by hand or by scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig, search
from ean_lib.search.analysis import (
    best_so_far,
    bootstrap,
    chance_of_beating,
    effects,
    gain_over_average,
    kendall_tau,
    top_k_regret,
)

EVERY = [str(scheme) for scheme in Scheme.all_of((2, 1))]  # 00-0, 00-1, ..., 11-1
values_of_all = st.lists(st.integers(0, 6), min_size=8, max_size=8).filter(lambda v: len(set(v)) > 1)


def series(values: list[float], index: list[str] | None = None) -> pd.Series:
    return pd.Series(values, index or EVERY[: len(values)], dtype=float)


def test_tau_by_hand():
    """Of the six pairs of four schemes the scores order five as the truth does, and one the other way."""
    assert kendall_tau(series([1, 2, 3, 4]), series([10, 20, 40, 30])) == pytest.approx((5 - 1) / 6)


@given(values_of_all, values_of_all)
@settings(deadline=None)
def test_tau_is_scipys_also_with_ties_and_whatever_the_order_of_the_rows(scores, truth):
    expected = stats.kendalltau(scores, truth).statistic
    assert kendall_tau(series(scores), series(truth)) == pytest.approx(expected)
    shuffled = series(truth).sample(frac=1, random_state=0)
    assert kendall_tau(series(scores), shuffled) == pytest.approx(expected)
    schemes = list(zip(scores, truth, strict=True))
    pairs = [(np.sign(a - b), np.sign(c - d)) for a, c in schemes for b, d in schemes]
    own, other = np.array(pairs).T
    assert expected == pytest.approx((own * other).sum() / np.sqrt((own**2).sum() * (other**2).sum()))


def test_regret_by_hand():
    scores, truth = series([50, 80, 80, 70, 60]), series([90, 70, 99, 95, 80])
    # 00-1 and 01-0 have the highest score and one connection each; by their text 00-1 comes first.
    assert [top_k_regret(scores, truth, k) for k in (1, 2, 3, 5)] == [29, 0, 0, 0]
    fewer = series([80, 80, 80], ["11-1", "01-0", "11-0"])
    assert top_k_regret(fewer, series([1, 2, 3], list(fewer.index)), 1) == 1  # of three equal ones the sparsest


def test_regret_of_schemes_drawn_with_replacement():
    """A scheme may be there twice; the interval is that of the same draws by a loop."""
    scores, truth = series([3, 1, 2, 2]), series([60, 90, 70, 80])
    assert top_k_regret(scores.iloc[[0, 0, 1, 2]], truth.iloc[[0, 0, 1, 2]], 2) == 30  # 60 twice, of 90
    assert top_k_regret(scores.iloc[[1, 2, 2, 3]], truth.iloc[[1, 2, 2, 3]], 1) == 20  # 00-1, 01-0 twice, 01-1
    regret = bootstrap(top_k_regret, scores, truth, resamples=300)
    assert regret.value == 30 and 0 <= regret.low <= regret.value <= regret.high == 30


@given(values_of_all, values_of_all)
@settings(deadline=None)
def test_regret_never_grows_with_k_and_ends_at_nothing(scores, truth):
    regrets = [top_k_regret(series(scores), series(truth), k) for k in range(1, 9)]
    assert regrets == sorted(regrets, reverse=True) and regrets[-1] == 0


def test_a_constant_or_broken_column_is_reported():
    good = series([1, 2, 3])
    with pytest.raises(ValueError, match="the scores must be of several values"):
        kendall_tau(series([5, 5, 5]), good)
    with pytest.raises(ValueError, match="the truth must be of several values"):
        kendall_tau(good, series([5, 5, 5]))
    for broken in (float("nan"), float("inf")):
        for call in (kendall_tau, top_k_regret):
            with pytest.raises(ValueError, match="the truth of scheme 00-1 must be finite"):
                call(good, series([1, broken, 3]))
    with pytest.raises(ValueError, match="only one of them has 01-0, 01-1"):
        kendall_tau(good, series([1, 2, 3], ["00-0", "00-1", "01-1"]))
    with pytest.raises(ValueError, match=r"k must be .* in 1\.\.3, got 4"):
        top_k_regret(good, good, 4)


def test_an_interval_holds_the_value_and_repeats():
    rng = np.random.default_rng(0)
    truth = pd.Series(rng.normal(size=64), [str(s) for s in Scheme.all_of((2, 2, 2))])
    scores = truth + rng.normal(size=64)
    first = bootstrap(kendall_tau, scores, truth, resamples=200)
    assert first.low < first.value < first.high
    assert first.value == kendall_tau(scores, truth)
    assert first == bootstrap(kendall_tau, scores, truth, resamples=200)
    narrow = bootstrap(kendall_tau, scores, truth, resamples=200, confidence=0.5)
    assert narrow.high - narrow.low < first.high - first.low
    assert str(first) == f"{first.value:.2f} [{first.low:.2f}, {first.high:.2f}]"


def test_bootstrapping_a_constant_statistic_gives_no_width():
    truth = series([1, 2, 3, 4, 5, 6, 7, 8])
    estimate = bootstrap(lambda scores, truth: 3.0, truth, truth, resamples=50)
    assert (estimate.value, estimate.low, estimate.high) == (3, 3, 3)


def test_effects_by_hand():
    """y = 10 + 6·a + 2·b - 4·a·b: connecting a gives 6 without b and 2 with it, 4 on average."""
    values = {"0-0": 10, "0-1": 12, "1-0": 16, "1-1": 14}
    table = effects(pd.Series(values, dtype=float))
    assert table.to_numpy() == pytest.approx(np.array([[4, -2], [-2, 0]]))


@given(st.lists(st.floats(-9, 9), min_size=4, max_size=4), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_an_additive_table_has_its_gains_as_effects_and_no_interactions(gains, seed):
    schemes = list(Scheme.all_of((2, 2)))
    values = pd.Series({str(s): 50 + sum(g for g, b in zip(gains, s.bits, strict=True) if b) for s in schemes})
    table = effects(values.sample(frac=1, random_state=seed)).to_numpy()
    assert np.diag(table) == pytest.approx(gains, abs=1e-9)
    assert table - np.diag(np.diag(table)) == pytest.approx(np.zeros((4, 4)), abs=1e-9)


def test_effects_need_every_scheme():
    with pytest.raises(ValueError, match="the table must be of all 8 schemes"):
        effects(series([1, 2, 3]))


def test_gain_over_the_average_of_the_same_sparsity_by_hand():
    gains = gain_over_average(series([5, 1, 2, 10, 6, 20, 30, 7]))  # one connection: 00-1, 01-0, 10-0
    assert gains["00-0"] == 0
    assert gains[["00-1", "01-0", "10-0"]].tolist() == [-2, -1, 3]
    assert gains[["01-1", "10-1", "11-0"]].tolist() == [-10, 0, 10]
    assert gains["11-1"] == 0 and len(gains) == 8


def test_best_so_far_follows_what_the_search_would_have_given():
    """The reward misleads: its best scheme is not the best of the truth."""
    reward = {"0-0": 1.0, "0-1": 3.0, "1-0": 2.0, "1-1": 4.0}
    truth = pd.Series({"0-0": 9.0, "0-1": 7.0, "1-0": 8.0, "1-1": 6.0})
    config = SearchConfig(method="exhaustive", budget=4, lambda_spa=0)
    result = search(lambda schemes: [reward[str(s)] for s in schemes], (1, 1), config)
    assert list(result.values) == ["0-0", "0-1", "1-0", "1-1"]
    assert best_so_far(result, truth).tolist() == [9, 7, 7, 6]
    assert best_so_far(result, truth, budget=6).tolist() == [9, 7, 7, 6, 6, 6]
    assert best_so_far(result, truth, budget=2).tolist() == [9, 7]
    assert best_so_far(result, truth)[-1] == truth[str(result.scheme)]


def test_chance_of_beating_by_hand():
    assert chance_of_beating(np.array([1, 2]), np.array([1, 3])) == (0.5 + 0 + 1 + 0) / 4
    same = np.array([4.0, 5.0, 6.0])
    assert chance_of_beating(same, same) == 0.5

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ean_lib.schemes import Scheme
from ean_lib.search import METHODS, SearchConfig, SearchResult, search
from ean_lib.search.departures import SWITCHES
from ean_lib.search.space import Space

STAGES = (2, 4)


class Additive:
    """75 percent plus a gain of each connected block, and a count of what was asked."""

    def __init__(self, seed, blocks=6):
        self.gains = torch.randn(blocks, generator=torch.Generator().manual_seed(seed)).tolist()
        self.asked = []

    def __call__(self, schemes):
        self.asked += schemes
        return [75 + sum(gain for gain, bit in zip(self.gains, scheme.bits, strict=True) if bit) for scheme in schemes]

    def best(self, config):
        return max(Scheme.all_of(STAGES), key=lambda s: config.objective(s, self([s])[0]))


@pytest.mark.parametrize(
    ("method", "budget"),
    [("reinforce", 40), ("evolution", 40), ("tpe", 40), ("greedy", 40), ("exhaustive", 64), ("random", 64)],
)
def test_method_finds_the_optimum_of_an_additive_table_within_its_budget(method, budget):
    for seed in range(10):
        config, reward = SearchConfig(method=method, budget=budget, steps=100, seed=seed), Additive(seed)
        result = search(reward, STAGES, config)
        assert result.scheme == Additive(seed).best(config)
        assert result.evaluations == len(set(reward.asked)) <= budget


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_controller_finds_the_one_block_that_matters_among_sixteen(mode):
    def reward(schemes):
        return [99.6 if scheme.bits[7] else 82.0 for scheme in schemes]

    result = search(reward, (3, 4, 6, 3), SearchConfig(mode=mode, steps=200))
    assert result.scheme.bits[7]
    assert mode == "official" or result.scheme.connected == 1


@pytest.mark.parametrize("method", METHODS)
def test_search_repeats_exactly_and_leaves_the_global_random_state(method):
    config = SearchConfig(method=method, budget=64 if method == "exhaustive" else 30, seed=5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = search(Additive(0), STAGES, config)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    np.random.rand()
    assert search(Additive(0), STAGES, config) == first
    replayed = search(lambda schemes: [first.values[str(s)] for s in schemes], list(STAGES), config)
    assert replayed == first


@pytest.mark.parametrize("method", METHODS)
def test_history_is_complete_and_schemes_are_asked_once(method):
    config = SearchConfig(method=method, budget=64 if method == "exhaustive" else 30)
    reward = Additive(1)
    result = search(reward, STAGES, config)
    assert [record["step"] for record in result.history] == list(range(len(result.history)))
    assert len(reward.asked) == len(set(reward.asked)) == result.calls == result.evaluations
    proposed = dict.fromkeys(text for record in result.history for text in record["schemes"])
    assert list(proposed) == list(result.values)
    for record in result.history:
        assert record["values"] == [result.values[text] for text in record["schemes"]]
        schemes = map(Scheme.parse, record["schemes"])
        assert record["objectives"] == [config.objective(s, v) for s, v in zip(schemes, record["values"], strict=True)]
    assert result.history[-1]["evaluations"] == result.evaluations
    assert result.history[-1]["best_scheme"] == str(result.scheme)
    assert result.best_so_far == sorted(result.best_so_far)
    assert len(result.best_so_far) == result.evaluations
    assert result.best_so_far[-1] == result.objective == result.history[-1]["best_objective"]
    assert (result.value, result.sparsity) == (result.values[str(result.scheme)], result.scheme.sparsity)


def test_records_of_the_controller_hold_what_a_page_needs_to_replay_them():
    result = search(Additive(0), STAGES, SearchConfig(steps=20))
    *steps, mode = result.history
    assert len(steps) == 20
    for record in steps:
        assert len(record["logits"]) == len(record["probabilities"]) == 6
        assert len(record["rewards"]) == len(record["bonus"]) == len(record["advantages"]) == 3
        assert {"baseline", "loss", "replay_loss", "entropy"} <= record.keys()
        assert record["rewards"] == pytest.approx(np.add(record["objectives"], record["bonus"]))
    bits = "".join("01"[p > 0.5] for p in mode["probabilities"])
    assert mode["schemes"] == [f"{bits[:2]}-{bits[2:]}"]


def test_official_search_asks_again_and_ends_with_the_most_probable_scheme():
    reward, config = Additive(0), SearchConfig(mode="official", steps=100)
    result = search(reward, STAGES, config)
    assert result.calls == len(reward.asked) > result.evaluations
    assert str(result.scheme) == result.history[-1]["schemes"][0]
    stopped = search(Additive(0), STAGES, SearchConfig(mode="official", budget=8))
    assert str(stopped.scheme) in stopped.values and stopped.evaluations <= 8
    cached = search(Additive(0), STAGES, SearchConfig(mode="official"), corrections=["cache"])
    assert cached.calls == cached.evaluations <= 64


@given(
    method=st.sampled_from(sorted(set(METHODS) - {"exhaustive", "tpe"})),
    budget=st.integers(1, 40),
    stages=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["official", "corrected"]),
)
@settings(max_examples=40, deadline=None)
def test_no_method_exceeds_its_budget_and_the_result_is_the_best_seen(method, budget, stages, seed, mode):
    config = SearchConfig(method=method, mode=mode, budget=budget, steps=20, seed=seed)
    reward = Additive(seed, sum(stages))
    result = search(reward, stages, config)
    assert len(set(reward.asked)) == result.evaluations <= min(budget, 2 ** sum(stages))
    if method != "reinforce":
        assert result.evaluations == min(budget, 2 ** sum(stages))
    if method != "reinforce" or mode == "corrected":
        assert result.objective == max(result.best_so_far)


def test_budget_is_steps_times_samples_unless_said():
    assert SearchConfig().max_evaluations == 900
    assert SearchConfig(budget=7).max_evaluations == 7


@given(value=st.floats(0, 100), gain=st.floats(0.01, 100), bits=st.lists(st.booleans(), min_size=6, max_size=6))
def test_objective_grows_with_the_value_and_with_every_block_left_out(value, gain, bits):
    config, scheme = SearchConfig(), Scheme(tuple(bits), STAGES)
    assert config.objective(scheme, value + gain) > config.objective(scheme, value)
    for block in range(6):
        sparser = Scheme(tuple(bit and i != block for i, bit in enumerate(bits)), STAGES)
        assert config.objective(sparser, value) >= config.objective(scheme, value)
    assert config.objective(Scheme.none(STAGES), value) == value + 2


def test_ties_go_to_the_fewest_connections_and_then_to_the_first_in_order():
    def reward(schemes):
        return [90.0 if scheme.connected in (2, 3) else 80.0 for scheme in schemes]

    for method in METHODS:
        result = search(reward, (2, 2), SearchConfig(method=method, budget=16, lambda_spa=0.0, steps=200))
        if result.evaluations == 16:
            assert str(result.scheme) == "00-11"
        tied = [s for s, v in result.values.items() if v == 90]
        assert str(result.scheme) == min(tied, key=lambda s: (s.count("1"), s))


@pytest.mark.parametrize("mode", ["official", "corrected"])
@pytest.mark.parametrize("method", METHODS)
def test_constant_reward_is_reported_and_leaves_only_sparsity(method, mode):
    config = SearchConfig(method=method, mode=mode, budget=16, steps=100)
    result = search(lambda schemes: [50.0] * len(schemes), (2, 2), config)
    assert result.constant_reward
    json.loads(result.to_json(), parse_constant=pytest.fail)
    if result.evaluations == 16 and mode == "corrected":
        assert result.scheme == Scheme.none((2, 2))
    silent = SearchConfig(method=method, mode=mode, budget=16, steps=30, lambda_spa=0.0, lambda_val=0.0)
    assert search(Additive(0, 4), (2, 2), silent).objective == 0


def test_result_survives_json():
    for corrections in (None, (), ["keep_best", "cache"]):
        result = search(Additive(0), STAGES, SearchConfig(steps=15), corrections=corrections)
        assert SearchResult.from_json(result.to_json()) == result
    assert result.corrections == ("cache", "keep_best")
    with pytest.raises(ValueError, match="unknown correction 'cash'"):
        search(Additive(0), STAGES, SearchConfig(steps=15), corrections=["cash"])


@pytest.mark.parametrize(
    ("mode", "switches", "corrections"),
    [
        ("corrected", {}, None),
        ("official", dict.fromkeys(SWITCHES, False), None),
        ("corrected", dict.fromkeys(SWITCHES, True), None),
        ("official", {"cache": True}, ("cache",)),
        ("corrected", {"logit_table": False, "cache": True}, tuple(s for s in SWITCHES if s != "logit_table")),
        ("corrected", dict.fromkeys(SWITCHES, False), ()),
    ],
)
def test_a_result_stored_when_corrections_were_options_is_understood(mode, switches, corrections):
    config = SearchConfig(mode=mode, steps=15)
    result = search(Additive(0), STAGES, config, corrections=corrections)
    stored = json.loads(result.to_json())
    del stored["corrections"]
    stored["config"] |= dict.fromkeys(SWITCHES) | switches
    assert SearchResult.from_json(json.dumps(stored)) == result


def test_all_corrections_by_name_are_the_corrected_mode():
    one = search(Additive(0), STAGES, SearchConfig(steps=15))
    same = search(Additive(0), STAGES, SearchConfig(steps=15), corrections=SWITCHES)
    assert one.history == same.history and one.scheme == same.scheme


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scheme": "1"}', '{"scheme": "1", "config": {"x": 1}}'])
def test_text_that_is_no_result_is_refused(text):
    with pytest.raises(ValueError, match="not the JSON of a search result"):
        SearchResult.from_json(text)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n: [1.0] * (n - 1), r"one number per scheme, 3 in all, got \[1\.0, 1\.0\]"),
        (lambda n: 90.0, r"one number per scheme, 3 in all, got 90\.0"),
        (lambda n: None, "one number per scheme, 3 in all, got None"),
        (lambda n: "123", "one number per scheme, 3 in all, got '123'"),
        (lambda n: [1.0] * (n - 1) + [math.nan], "reward of scheme [01]{2}-[01]{4} must be a finite number, .*nan"),
        (lambda n: [math.inf] * n, "reward of scheme [01]{2}-[01]{4} must be a finite number, .*inf"),
        (lambda n: ["90"] * n, "reward of scheme [01]{2}-[01]{4} must be a finite number, got '90'"),
        (lambda n: torch.ones(n, 2), "reward of scheme [01]{2}-[01]{4} must be a finite number"),
    ],
)
def test_a_reward_that_is_no_number_per_scheme_is_refused_by_name(answer, message):
    with pytest.raises(ValueError, match=message):
        search(lambda schemes: answer(len(schemes)), STAGES, SearchConfig(seed=1))


@pytest.mark.parametrize("convert", [tuple, np.array, torch.tensor, lambda v: [torch.tensor(x) for x in v]])
def test_arrays_and_tensors_are_numbers_too(convert):
    exact = search(lambda schemes: [float(s.connected) for s in schemes], STAGES, SearchConfig(steps=3))
    result = search(lambda schemes: convert([s.connected for s in schemes]), STAGES, SearchConfig(steps=3))
    assert result == exact


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "reinforced"}, "Did you mean 'reinforce'"),
        ({"budget": 0}, "budget must be a whole number of at least 1, got 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"lambda_val": -1.0}, "lambda_val must be a finite number of at least 0"),
        ({"lambda_spa": math.nan}, "lambda_spa must be a finite number of at least 0, got nan"),
        ({"seed": -1}, "seed must be a whole number of at least 0 and below 4294967296, got -1"),
        ({"population": 1.5}, "population must be a whole number"),
        ({"mode": "corected"}, "Did you mean 'corrected'?"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        SearchConfig(**options)
    assert message in str(error.value)


def test_exhaustive_search_beyond_budget_or_reason_is_refused():
    with pytest.raises(ValueError, match=r"2\^16 = 65536 schemes, .* evaluate 900.*budget=65536"):
        search(Additive(0, 16), (3, 4, 6, 3), SearchConfig(method="exhaustive"))
    with pytest.raises(ValueError, match=r"evaluate 65536: choose another method$"):
        search(Additive(0, 17), (17,), SearchConfig(method="exhaustive", budget=2**20))


@pytest.mark.parametrize("stages", [(), (3, 0), "34", 3])
def test_bad_stages_are_refused(stages):
    with pytest.raises(ValueError, match="stages"):
        search(Additive(0), stages, SearchConfig())


def test_optuna_speaks_as_before_after_a_search():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search(Additive(0), STAGES, SearchConfig(method="tpe", budget=5))
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    optuna.logging.set_verbosity(optuna.logging.INFO)


constraints = st.tuples(
    st.sampled_from([None, "??-????", "1?-0???", "0?-??11", "10-1010", "11-??00"]),
    st.one_of(st.none(), st.integers(4, 6)),
)


def allowed(scheme, fixed, most):
    pattern = "??????" if fixed is None else fixed.replace("-", "")
    bits = str(scheme).replace("-", "")
    return all(wanted in ("?", bit) for wanted, bit in zip(pattern, bits, strict=True)) and bits.count("1") <= (
        most or 6
    )


@given(
    method=st.sampled_from(sorted(METHODS)),
    limits=constraints,
    values=st.lists(st.integers(0, 20), min_size=64, max_size=64),
    budget=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_no_method_leaves_its_constraints_or_budget_asks_twice_or_differs_when_repeated(
    method, limits, values, budget, seed
):
    fixed, most = limits
    table = dict(zip(Scheme.all_of(STAGES), values, strict=True))
    inside = [scheme for scheme in table if allowed(scheme, fixed, most)]
    budget = 64 if method == "exhaustive" else budget
    config = SearchConfig(
        method=method, budget=budget, steps=10, seed=seed, fixed=fixed, max_connected=most, lambda_spa=0.0
    )
    asked = []

    def reward(schemes):
        asked.extend(schemes)
        return [table[scheme] for scheme in schemes]

    result = search(reward, STAGES, config)
    assert set(asked) <= set(inside)
    assert len(asked) == len(set(asked)) == result.evaluations <= min(budget, len(inside))
    if method != "reinforce":
        assert result.evaluations == min(budget, len(inside))
    proposed = [Scheme.parse(text) for record in result.history for text in record["schemes"]]
    assert set(proposed) == set(asked)
    assert table[result.scheme] == max(table[scheme] for scheme in asked)
    assert search(reward, STAGES, config) == result
    assert SearchResult.from_json(result.to_json()) == result


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"exhaustive"}))
def test_the_best_scheme_within_constraints_is_found(method):
    """Blocks 2 to 5 pay, the third most; one is fixed to be off, one to be on, and two may be connected."""
    gains = [-1.0, -1.0, 3.0, 5.0, 2.0, 4.0]

    def reward(schemes):
        return [60 + sum(gain for gain, bit in zip(gains, scheme.bits, strict=True) if bit) for scheme in schemes]

    options = {"fixed": "1?-?0??", "max_connected": 2, "lambda_spa": 0.0, "budget": 5, "steps": 60}
    result = search(reward, STAGES, SearchConfig(method=method, **options))
    assert str(result.scheme) == "10-0001"
    if method == "reinforce":
        p = result.history[-1]["probabilities"]
        assert p[5] > 0.9


def test_schemes_within_constraints_are_drawn_uniformly_also_where_they_are_few():
    space = Space((3, 40), fixed="1?0-" + "?" * 40, max_connected=2)
    assert space.size == 1 + 41
    everything = list(space.all())
    assert len(set(everything)) == space.size and all(scheme in space for scheme in everything)
    assert everything == sorted(everything, key=str)
    generator = torch.Generator().manual_seed(0)
    drawn = [space.random(generator) for _ in range(4200)]
    counts = [drawn.count(scheme) for scheme in everything]
    assert min(counts) > 60 and max(counts) < 150  # 100 each, with a deviation of 10
    config = SearchConfig(method="random", max_connected=1)
    result = search(lambda schemes: [50.0 + scheme.connected for scheme in schemes], (3, 40), config)
    assert result.evaluations == 44  # all there are: none, and each block alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fixed": "1-0"},
            r"fixed must be a pattern of 0, 1 and \? for stages of \(2, 4\) blocks, such as \"1\?-\?{4}\"",
        ),
        ({"fixed": "12-????"}, "fixed must be a pattern of 0, 1 and"),
        ({"fixed": ""}, "fixed must be a pattern of 0, 1 and"),
        ({"fixed": "11-1???", "max_connected": 2}, "max_connected is 2, but the pattern 11-1\\?\\?\\? connects 3"),
        ({"max_connected": -1}, "max_connected must be a whole number of at least 0"),
    ],
)
def test_constraints_that_cannot_be_kept_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(Additive(0), STAGES, SearchConfig(**options))


def test_an_exhaustive_search_counts_what_the_constraints_leave():
    config = SearchConfig(method="exhaustive", max_connected=2, budget=137)
    assert search(Additive(0, 16), (3, 4, 6, 3), config).evaluations == 1 + 16 + 120
    with pytest.raises(ValueError, match=r"137 of them within the constraints.*budget=137"):
        search(Additive(0, 16), (3, 4, 6, 3), SearchConfig(method="exhaustive", max_connected=2, budget=136))


def test_a_reward_that_the_price_outweighs_is_warned_of():
    """An F1 score between 0 and 1 is not a percentage: the search would disconnect everything, without a word."""

    def f1(schemes):
        return [0.5 + 0.4 * scheme.bits[0] for scheme in schemes]

    config = SearchConfig(method="exhaustive", budget=64)
    with pytest.warns(UserWarning, match=r"between 0\.5 and 0\.9, .* lambda_spa = 2: sparsity decides") as caught:
        assert search(f1, STAGES, config).scheme.connected <= 1
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(f1, STAGES, replace(config, lambda_val=100.0))
        search(f1, STAGES, replace(config, lambda_spa=0.0))
        search(lambda schemes: [0.5] * len(schemes), STAGES, config)  # `constant_reward` says so
        search(lambda schemes: [62 + s for s in f1(schemes)], STAGES, config)  # percentages may lie close together

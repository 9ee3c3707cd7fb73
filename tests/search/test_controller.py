import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ean_lib.schemes import Scheme
from ean_lib.search.controller import BY_MODE, Controller, ControllerConfig
from ean_lib.search.departures import DEPARTURES, SWITCHES, OfficialController, SummedNovelty, controller_type, mix
from ean_lib.search.novelty import Novelty

PLAIN = {"lambda_rnd": 0.0, "replay_size": 0}


def without(*corrections):
    """The controller with the departures that these corrections undo."""
    return controller_type(set(SWITCHES) - set(corrections))


def with_table(logits, kind=None, **options):
    """A controller whose logits are these, without bound, bonus and replay."""
    kind = kind or without("explore_tanh")
    controller = kind(len(logits), ControllerConfig(**(PLAIN | options)))
    with torch.no_grad():
        controller.table.copy_(torch.tensor(logits, dtype=torch.float64))
    return controller


def train(steps=15, blocks=5, seed=0, kind=None, mode="corrected", **options):
    """The records of a controller that is paid 70 percent plus 3 for each connected block."""
    kind = kind or {"corrected": Controller, "official": OfficialController}[mode]
    controller = kind(blocks, ControllerConfig(mode=mode, **options), seed)
    records = []
    for _ in range(steps):
        schemes = controller.sample()
        records.append(controller.update(schemes, 70 + 3.0 * schemes.sum(dim=1)) | {"schemes": schemes.tolist()})
    return controller, records


def test_policy_gradient_equals_the_hand_computed_one():
    controller = with_table([math.log(3), 0.0])  # p = 3/4, 1/2
    schemes = torch.tensor([[True, False], [False, False]])
    controller.policy_loss(schemes, torch.tensor([2.0, -1.0])).backward()
    # 1/2 (2 (p - (1, 0)) - (p - (0, 0))) = 1/2 ((-1/2, 1) - (3/4, 1/2)) = (-5/8, 1/4)
    torch.testing.assert_close(controller.table.grad, torch.tensor([-5 / 8, 1 / 4], dtype=torch.float64))


def test_entropy_gradient_equals_the_hand_computed_one():
    controller = with_table([math.log(3), 0.0], entropy_weight=2.0)
    controller.policy_loss(torch.tensor([[True, True]]), torch.zeros(1)).backward()
    # dH/dz = -z p (1 - p), so the loss has gradient 2 z p (1 - p)
    expected = torch.tensor([2 * math.log(3) * 3 / 16, 0.0], dtype=torch.float64)
    torch.testing.assert_close(controller.table.grad, expected)


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_probabilities_of_all_schemes_sum_to_one_and_give_the_entropy(mode):
    controller, _ = train(mode=mode)
    schemes = torch.stack([scheme.as_tensor() for scheme in Scheme.all_of((2, 3))])
    log_pi = controller.log_probs(schemes).sum(dim=1)
    assert log_pi.exp().sum().item() == pytest.approx(1)
    assert -(log_pi * log_pi.exp()).sum().item() == pytest.approx(controller.entropy().item())


def test_schemes_are_sampled_with_the_probabilities_of_the_policy():
    controller = with_table([-2.0, 0.0, 1.0], samples=4000)
    frequency = controller.sample().double().mean(dim=0)
    assert (frequency - controller.probabilities()).abs().max() < 0.03


def test_a_mode_sets_the_step_sizes_that_are_left_open():
    assert ControllerConfig(mode="official").resolved().learning_rate == 0.05
    assert ControllerConfig().resolved().learning_rate == 0.1
    assert ControllerConfig(learning_rate=0.0).resolved().learning_rate == 0
    for defaults in BY_MODE.values():
        assert all(getattr(ControllerConfig(), name) is None for name in defaults)


def test_each_correction_can_be_chosen_alone():
    assert len(SWITCHES) == 10
    assert controller_type(SWITCHES) is Controller
    assert controller_type([]) is controller_type(["cache", "keep_best"]) is OfficialController
    for name, departure in DEPARTURES.items():
        mended, broken = controller_type([name]), without(name)
        assert not issubclass(mended, departure) and issubclass(broken, departure)
        others = [other for other in DEPARTURES.values() if other is not departure]
        assert all(issubclass(mended, other) and not issubclass(broken, other) for other in others)
    with pytest.raises(ValueError, match=r"unknown correction 'keep_worst'\. Did you mean 'keep_best'"):
        controller_type(["keep_worst"])


def test_each_departure_overrides_what_the_clean_controller_has():
    for departure in DEPARTURES.values():
        own = [name for name in vars(departure) if not name.startswith("__")]
        assert 1 <= len(own) <= 2
        assert all(hasattr(Controller, name) for name in own)
        assert departure.__doc__[0] == str(list(DEPARTURES.values()).index(departure) + 1)


def test_official_memory_is_the_concatenated_and_reviewed_sample():
    schemes = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.bool)
    per_block = [schemes[1:, block] for block in range(3)]  # what the authors' sampling returns
    mixed = torch.cat(per_block).view(2, -1)
    assert mix(schemes).tolist() == [schemes[0].tolist(), *mixed.tolist()]
    assert mix(schemes)[1:].tolist() == [[True, False, False], [True, False, False]]
    assert mix(schemes[:1]).tolist() == [[True] * 3]
    for kind, remembered in ((OfficialController, mix(schemes)), (Controller, schemes)):
        controller = kind(3, ControllerConfig())
        controller.update(schemes, torch.zeros(3))
        assert torch.equal(controller.memory[0].schemes, remembered)


def test_stacking_matters_to_replay_and_bonus_only():
    mixed = without("stack_samples")
    assert train(kind=mixed, **PLAIN)[1] == train(**PLAIN)[1]
    assert train(kind=mixed)[1] != train()[1]


def test_official_bonus_is_the_same_for_all_samples_and_the_corrected_one_ranks_them():
    schemes = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], dtype=torch.bool)
    for kind in (SummedNovelty, Novelty):
        novelty = kind(4, 0.05, torch.Generator().manual_seed(0))
        errors = novelty.errors(schemes).detach()
        bonus = novelty.bonus(schemes)
        expected = errors / errors.std(correction=0) if kind is Novelty else errors.sum().repeat(3)
        torch.testing.assert_close(bonus, expected)


def test_bonus_fades_for_schemes_that_were_seen_and_stays_for_others():
    novelty = Novelty(6, 0.05, torch.Generator().manual_seed(0))
    seen, other = torch.zeros(2, 6, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool)
    seen[1, 0] = True
    first = novelty.bonus(seen)
    for _ in range(60):
        last = novelty.bonus(seen)
    assert last.max() < 0.01 * first.min()
    assert novelty.bonus(other).item() > 10 * last.max()


def test_bonus_of_a_single_first_scheme_is_zero_and_finite():
    assert Novelty(3, 0.05, torch.Generator()).bonus(torch.ones(1, 3).bool()).tolist() == [0.0]


def test_no_first_bonus_is_above_its_bound_where_the_errors_are_nearly_equal():
    """Over 3,000 seeds, three schemes of four blocks. In λ_rnd; the bonus divided by the deviation alone beside it."""
    config, bonuses, unbounded = ControllerConfig(), [], []
    for seed in range(3000):
        controller = Controller(4, config, seed)
        errors = controller.novelty.errors(controller.sample()).detach()
        bonuses.append(controller.novelty.scaled(errors).max())
        unbounded.append(errors.max() / errors.std(correction=0))
    bonuses, unbounded = torch.stack(bonuses), torch.stack(unbounded)
    assert unbounded[232].item() == pytest.approx(64_564, rel=1e-3)
    assert (unbounded > 20).double().mean().item() == pytest.approx(0.0647, abs=0.0005)
    assert bonuses.max() < 10 + math.sqrt(2)  # three errors: 10 + sqrt(n - 1)
    below = unbounded < 10
    assert below.double().mean() > 0.79
    torch.testing.assert_close(bonuses[below], unbounded[below])


def test_a_controller_whose_first_errors_are_nearly_equal_learns():
    """Seed 232 on four blocks began with a bonus of 6,456 points, and with a baseline that never came down from it."""
    controller, records = train(steps=150, blocks=4, seed=232)
    assert max(records[0]["bonus"]) < 1.1
    assert max(record["baseline"] for record in records) < 70 + 4 * 3 + 1.1
    assert controller.probabilities().min() > 0.9


@given(
    rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_no_bonus_is_ever_above_its_bound(rows, seed):
    novelty = Novelty(3, 0.05, torch.Generator().manual_seed(seed))
    for step in range(1, 5):
        bonus = novelty.bonus(torch.tensor(rows))
        assert bonus.isfinite().all() and bonus.min() >= 0
        assert bonus.max() <= 10 + math.sqrt(step * len(rows) - 1) + 1e-9


def test_replayed_rewards_hold_the_bonus_only_where_corrected():
    for with_bonus, kind in ((False, without("replay_with_bonus")), (True, Controller)):
        controller, records = train(steps=1, kind=kind, lambda_rnd=1.0)
        stored = controller.memory[0].rewards
        rewards, bonus = (torch.tensor(records[0][name], dtype=torch.float64) for name in ("rewards", "bonus"))
        assert bonus.abs().max() > 0
        torch.testing.assert_close(stored, rewards if with_bonus else rewards - bonus)


def replay_gradient(old_logits, advantages, kind=None):
    """Gradient at p = (3/4, 1/2) of replaying (1, 0) and (0, 0), drawn from a policy with old_logits."""
    schemes = torch.tensor([[True, False], [False, False]])
    old_log_probs = with_table(old_logits).log_probs(schemes).detach()
    controller = with_table([math.log(3), 0.0], kind, replay_weight=1.0)
    controller.replay_loss(schemes, old_log_probs, torch.tensor(advantages).double()).backward()
    return controller.table.grad


def test_replay_of_the_current_policy_has_the_policy_gradient():
    for kind in (without("explore_tanh"), without("explore_tanh", "scheme_ratio")):
        gradient = replay_gradient([math.log(3), 0.0], [2.0, -1.0], kind)
        torch.testing.assert_close(gradient, torch.tensor([-5 / 8, 1 / 4], dtype=torch.float64))


def test_clipping_stops_each_scheme_that_has_moved_far_enough():
    # From p = (1/2, 1/2) the ratios are 3/2 and 1/2: the first scheme became likelier, the second less.
    assert replay_gradient([0.0, 0.0], [1.0, -1.0]).tolist() == [0.0, 0.0]
    # Where it moved the wrong way: -1/2 · r A (s - p), by hand, for the first scheme and then for the second.
    torch.testing.assert_close(replay_gradient([0.0, 0.0], [-1.0, -1.0]), torch.tensor([3 / 16, -3 / 8]).double())
    torch.testing.assert_close(replay_gradient([0.0, 0.0], [1.0, 1.0]), torch.tensor([3 / 16, 1 / 8]).double())


def test_official_ratio_is_detached_per_bit_so_clipping_stops_nothing():
    # From p = (1/2, 1/2) the ratios of the bits are (3/2, 1) and (1/2, 1), and the unclipped batch sum of
    # r A log π is the smaller one. Its gradient is -1/2 Σ_i A_i r_il (s_il - p_l), where the corrected one is zero:
    # -1/2 (3/2 · 1/4 + 1/2 · 3/4) for the first bit, nothing for the second.
    gradient = replay_gradient([0.0, 0.0], [1.0, -1.0], without("explore_tanh", "scheme_ratio"))
    torch.testing.assert_close(gradient, torch.tensor([-3 / 8, 0.0]).double())


def test_advantage_is_taken_before_or_after_the_baseline_moves():
    for before, kind in ((False, without("advantage_before_baseline")), (True, Controller)):
        _, records = train(steps=2, kind=kind, **PLAIN)
        first, second = (sum(record["rewards"]) / 3 for record in records)
        assert records[0]["baseline"] == pytest.approx(first)
        assert records[1]["baseline"] == pytest.approx(first if before else 0.95 * first + 0.05 * second)
        for record in records:
            assert record["advantages"] == pytest.approx([r - record["baseline"] for r in record["rewards"]])


def test_the_constant_moves_the_baseline_and_nothing_else():
    _, with_constant = train(kind=without("drop_constant"))
    _, plain = train()
    for one, other in zip(with_constant, plain, strict=True):
        assert one["baseline"] == pytest.approx(other["baseline"] - 54)
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-9)
        assert one["schemes"] == other["schemes"]


def test_first_layer_of_the_official_network_never_gets_a_gradient():
    controller, _ = train(mode="official")
    assert not controller.network[0].weight.grad.any()
    assert controller.network[0].bias.grad.any()
    assert not hasattr(controller, "table")


def test_two_way_softmax_equals_the_bernoulli_probability():
    controller, _ = train(mode="official")
    two_way = controller.network(torch.zeros(20, dtype=torch.float64)).view(-1, 2) / 5
    torch.testing.assert_close(two_way.softmax(dim=1)[:, 1].detach(), controller.probabilities())


@given(logits=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_tanh_keeps_every_probability_away_from_zero_and_one(logits):
    p = with_table(logits, Controller).probabilities()
    assert p.min() > 0.0066
    assert p.max() < 0.9934
    assert with_table(logits).logits().tolist() == logits


def test_replay_starts_at_its_step_and_can_be_turned_off():
    _, records = train(steps=13)
    assert [record["replay_loss"] is not None for record in records] == [False] * 10 + [True] * 3
    assert all(record["replay_loss"] is None for record in train(steps=13, replay_size=0)[1])
    assert len(train(steps=40)[0].memory) == 30


def test_parts_have_their_own_random_numbers():
    first = train(steps=1)[1][0]["schemes"]
    assert first == train(steps=1, lambda_rnd=0.0, replay_size=0)[1][0]["schemes"]
    assert train(steps=12, mode="official")[1] == train(steps=12, mode="official")[1]
    assert train(seed=0)[1] != train(seed=1)[1]


def test_global_random_state_and_threads_are_left_alone():
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(mode="official")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_controller_learns_to_connect_what_pays(mode):
    controller, records = train(steps=150, mode=mode)
    assert controller.probabilities().min() > 0.9
    assert records[-1]["entropy"] < records[0]["entropy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "offical"}, "unknown mode 'offical'. Did you mean 'official'?"),
        ({"samples": 0}, "samples must be a whole number of at least 1, got 0"),
        ({"samples": 2.5}, "samples must be a whole number"),
        ({"samples": True}, "samples must be a whole number"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number of at least 0, got -0.1"),
        ({"lambda_rnd": math.nan}, "lambda_rnd must be a finite number of at least 0, got nan"),
        ({"entropy_weight": math.inf}, "entropy_weight must be a finite number of at least 0, got inf"),
        ({"replay_clip": "0.1"}, "replay_clip must be a finite number of at least 0, got '0.1'"),
        ({"baseline_decay": 1.5}, "baseline_decay must be a number of at least 0 and at most 1, got 1.5"),
        ({"adam_beta2": 1.0}, "adam_beta2 must be a number of at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        ControllerConfig(**options)
    assert message in str(error.value)

"""The scorer says what evaluating each scheme alone says, at a fraction of the cost."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import STAGES, tiny_data, tiny_net
from torch import nn

from ean_lib.data import Data
from ean_lib.experiments import steps
from ean_lib.experiments import task as tasks
from ean_lib.learning import TrainConfig, evaluate
from ean_lib.networks import AttentionResNet, Block, batchnorm, build_network
from ean_lib.runs import Runtime
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig
from ean_lib.supernet import SAMPLERS, SCHEMES_PER_STEP, PrefixWalk, Scorer


@pytest.mark.parametrize("attention", ["se", "sge", "dia"])
def test_scorer_equals_evaluating_each_scheme_alone(attention: str) -> None:
    net, data = tiny_net(attention), tiny_data()
    schemes = list(Scheme.all_of(STAGES))
    scores = Scorer(net, data, batch_size=25)(schemes)
    assert scores == [evaluate(net, data.val, scheme, batch_size=25) for scheme in schemes]


@pytest.mark.parametrize("attention", ["se", "sge", "dia"])
def test_the_walk_gives_each_scheme_its_own_class_scores(attention: str) -> None:
    net, schemes = tiny_net(attention).eval(), list(Scheme.all_of(STAGES))
    x = next(tiny_data().val.batches(20))[0]
    with torch.no_grad():
        walked = dict(PrefixWalk(net, schemes[::-1])(x))
        for scheme in schemes:
            assert torch.allclose(walked[scheme], net(x, scheme), rtol=0, atol=1e-5)
    assert len({round(float(scores.abs().sum()), 3) for scores in walked.values()}) == len(schemes)  # all differ


def by_hand_recalibrated(
    net: AttentionResNet, data: Data, scheme: Scheme, count: int, augment: tuple[str, ...] = ()
) -> float:
    """Reset the statistics, one training-mode pass of images drawn by a fixed generator, then evaluate."""
    order = {"generator": torch.Generator().manual_seed(0), "augment": augment}
    net = net.prune(scheme).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = 1.0
    with torch.no_grad():
        net(next(iter(data.train.batches(count, **order)))[0])
    return evaluate(net, data.val, batch_size=25)


@pytest.mark.parametrize("attention", ["se", "dia"])
def test_recalibrated_scores_equal_recalibrating_each_scheme_by_hand(attention: str) -> None:
    net, data = tiny_net(attention), tiny_data()
    schemes = list(Scheme.all_of(STAGES))[::3]
    scores = Scorer(net, data, batch_size=25, recalibrate=40)(schemes)
    assert scores == [by_hand_recalibrated(net, data, scheme, 40) for scheme in schemes]
    assert scores != Scorer(net, data, batch_size=25)(schemes)


def augmented_data() -> Data:
    return dataclasses.replace(tiny_data(), augment=("flip", "crop"))


def test_statistics_are_measured_on_images_augmented_as_in_training() -> None:
    net, data = tiny_net(), augmented_data()
    schemes = list(Scheme.all_of(STAGES))[::3]
    scores = Scorer(net, data, batch_size=25, recalibrate=40)(schemes)
    for scheme, score in zip(schemes, scores, strict=True):
        assert score == by_hand_recalibrated(net, data, scheme, 40, augment=data.augment)
    plain = Scorer(net, data, batch_size=25, recalibrate=40, augment=False)(schemes)
    assert plain == Scorer(net, tiny_data(), batch_size=25, recalibrate=40)(schemes) != scores


@pytest.mark.parametrize("augment", [True, False])
def test_a_search_augments_where_its_supernet_was_trained_so(
    augment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = augmented_data()
    monkeypatch.setattr(tasks, "_load_data", lambda *_, **__: data)
    task = tasks.Task("tiny", "resnet20", "se", blocks=(1, 1), width=8)
    runtime = Runtime(device="cpu", progress=False)
    made, found, config = tmp_path / "supernet", tmp_path / "search", TrainConfig(epochs=2, batch_size=16)
    steps.run_supernet(task, dataclasses.replace(config, augment=augment), 0, made, runtime)
    net = steps.load_network(made)
    values = steps.run_search(made, SearchConfig(method="exhaustive"), 0, found, runtime, recalibrate=40).values
    for flag in (True, False):
        scores = Scorer(net, data, recalibrate=40, augment=flag, device="cpu")(values)
        assert (scores == list(values.values())) == (flag == augment)


def test_recalibrated_scores_do_not_depend_on_what_is_asked_together() -> None:
    net, data = tiny_net(), tiny_data()
    schemes = list(Scheme.all_of(STAGES))
    together = Scorer(net, data, recalibrate=30)(schemes)
    alone = Scorer(net, data, recalibrate=30)
    assert [alone([scheme])[0] for scheme in reversed(schemes)] == together[::-1]


def test_all_schemes_of_m_blocks_cost_two_to_the_m_minus_one_block_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    branch = Block.branch
    monkeypatch.setattr(Block, "branch", lambda self, x: calls.append(len(x)) or branch(self, x))
    data = tiny_data(20)
    Scorer(tiny_net(), data)(Scheme.all_of(STAGES))
    assert len(calls) == 2 ** sum(STAGES) - 1
    calls.clear()
    scorer = Scorer(tiny_net(), data)
    scorer(["00-00-0", "00-00-1"])
    assert len(calls) == sum(STAGES)  # one path; only the last bit differs
    scorer(["00-00-1"])
    assert len(calls) == sum(STAGES)  # cached


def test_a_walk_keeps_features_only_where_schemes_part() -> None:
    """Otherwise the memory grows with depth: 54 blocks of a ResNet-164 took over 20 GB."""
    net = build_network("resnet20", "se", stages=(5, 5, 5), width=8, stem_stride=2).eval()
    seen, alive = [], []

    def count(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen.append(weakref.ref(inputs[0]))
        alive.append(sum(reference() is not None for reference in seen))

    for block in net.block_modules():
        block.conv1.register_forward_pre_hook(count)
    full, late = Scheme.full(net.stages), Scheme.parse("11111-11111-11110")
    for schemes, kept in (([full], 3), ([full, late], 4)):  # of 15 blocks
        seen.clear()
        alive.clear()
        with torch.no_grad():
            assert len(list(PrefixWalk(net, schemes)(torch.zeros(2, 3, 16, 16)))) == len(schemes)
        assert max(alive) <= kept


def test_training_on_does_not_change_a_scorer() -> None:
    net, data = tiny_net(), tiny_data()
    scorer = Scorer(net, data)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    schemes = list(Scheme.all_of(STAGES))[:4]
    assert scorer(schemes) == Scorer(tiny_net(), data)(schemes)


def test_known_scores_are_believed_and_not_computed_again() -> None:
    scorer = Scorer(tiny_net(), tiny_data(), known={Scheme.none(STAGES): 12.5})
    assert scorer([Scheme.none(STAGES)]) == [12.5]


def test_known_scores_may_have_texts_as_keys() -> None:
    known = {"00-00-0": 12.5, Scheme.full(STAGES): np.float32(50), "00001": 25}
    scorer = Scorer(tiny_net(), tiny_data(), known=known)
    assert scorer(["00-00-0", "11-11-1", "00-00-1"]) == [12.5, 50.0, 25.0]
    assert all(type(scheme) is Scheme and type(value) is float for scheme, value in scorer.known.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recalibrate": 1}, "recalibrate must be None or at least 2 training images, got 1"),
        ({"recalibrate": "all"}, "recalibrate must be None or at least 2 training images, got 'all'"),
        ({"recalibrate": 2.5}, "recalibrate must be None or at least 2"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"known": {"11-11": 50}}, r"stages of \(2, 2\) blocks, but stages of \(2, 2, 1\) blocks are expected"),
        ({"known": {"11-11-1": float("nan")}}, "the known accuracy of scheme 11-11-1 must be a finite number"),
        ({"known": {"11-11-1": 101}}, r"the known accuracy of scheme 11-11-1 must be .* in 0\.\.100, got 101"),
        ({"known": ["11-11-1"]}, "known must be accuracies by scheme, got"),
    ],
)
def test_scorer_names_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer(tiny_net(), tiny_data(), **options)


def test_scorer_names_a_scheme_that_the_network_cannot_compute() -> None:
    with pytest.raises(ValueError, match="no attention module"):
        Scorer(tiny_net().prune("00-00-1"), tiny_data())([Scheme.full(STAGES)])


def test_a_network_with_fewer_outputs_than_classes_is_refused() -> None:
    net = build_network("resnet20", "se", num_classes=3, width=8, stages=STAGES, seed=0)
    with pytest.raises(ValueError, match="3 outputs, but the labels go up to class 3: build it with num_classes=4"):
        Scorer(net, tiny_data())([Scheme.full(STAGES)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_have_no_accuracy(value: float) -> None:
    """NaN scores would all be the first class: 25 % here, which looks plausible."""
    net = tiny_net("se")
    with torch.no_grad():
        net.layer2.attention.fc1.weight[0] = value
    scorer = Scorer(net, tiny_data())
    with pytest.raises(ValueError, match=r"scores of scheme 00-11-0 are NaN .* layer2\.attention\.fc1\.weight holds"):
        scorer(["00-11-0"])
    assert not scorer.known
    assert scorer(["11-00-1"])  # this scheme does not use what is broken


@pytest.mark.parametrize("recalibrate", [None, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_another_precision_are_scored(dtype: torch.dtype, recalibrate: int | None) -> None:
    net, schemes = tiny_net("se"), list(Scheme.all_of(STAGES))[::5]
    expected = Scorer(net, tiny_data(), recalibrate=recalibrate)(schemes)
    scores = Scorer(net.to(dtype), tiny_data(), recalibrate=recalibrate)(schemes)
    tolerance = 0.01 if dtype == torch.float64 else 15  # % of 60 images
    assert max(abs(a - b) for a, b in zip(scores, expected, strict=True)) < tolerance


@pytest.mark.parametrize("recalibrate", [None, 40])
def test_a_scorers_network_keeps_the_supernets_statistics(recalibrate: int | None) -> None:
    net = tiny_net()
    scorer = Scorer(net, tiny_data(), recalibrate=recalibrate)
    scorer(list(Scheme.all_of(STAGES))[::7])
    own = scorer.net.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in net.state_dict().items())
    norms = [module for module in scorer.net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 and not norm.training and not norm._forward_hooks for norm in norms)


def test_statistics_are_measured_on_drawn_images_also_where_stored_ones_lie_class_by_class() -> None:
    """The first images in stored order would be of one class, or two."""
    mixed = tiny_data()
    part = mixed.train.select(mixed.train.labels.argsort())
    by_class = dataclasses.replace(mixed, train=part)
    scorer = Scorer(tiny_net(), by_class, recalibrate=12)
    drawn, labels = next(part.batches(12, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(scorer._calibration, drawn) and len(labels.unique()) == 4


def test_statistics_in_parts_rank_schemes_as_those_of_one_batch_do(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data, schemes = tiny_net("se"), tiny_data(), list(Scheme.all_of(STAGES))
    whole = Scorer(net, data, recalibrate=60)(schemes)
    monkeypatch.setattr(batchnorm, "PIXELS_AT_ONCE", 20 * 16 * 16)
    largest = []
    monkeypatch.setattr(Block, "branch", lambda self, x, branch=Block.branch: largest.append(len(x)) or branch(self, x))
    scorer = Scorer(net, data, recalibrate=60, batch_size=10)
    parts = scorer(schemes)
    assert max(largest) == 20
    assert parts != whole and np.corrcoef(parts, whole)[0, 1] > 0.8


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_turn_every_connection_on_half_of_the_time(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [scheme for _ in range(400) for scheme in SAMPLERS[name](STAGES, generator)]
    frequency = torch.stack([scheme.as_tensor() for scheme in drawn]).float().mean(0)
    assert ((frequency - 0.5).abs() < 0.09).all()  # 400 draws or more: 3.6 standard deviations


def test_complementary_pairs_and_the_sandwich_are_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    scheme, complement = SAMPLERS["complementary"](STAGES, generator)
    assert complement == ~scheme
    assert SAMPLERS["sandwich"](STAGES, generator)[:2] == [Scheme.full(STAGES), Scheme.none(STAGES)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_say_how_many_schemes_they_draw(name: str) -> None:
    assert len(SAMPLERS[name](STAGES, torch.Generator())) == SCHEMES_PER_STEP[name]
    assert set(SCHEMES_PER_STEP) == set(SAMPLERS)

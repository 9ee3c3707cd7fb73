"""Any metric of scores and labels, of a network and of every scheme, on any images."""

from __future__ import annotations

import pytest
import torch
from tiny import STAGES, tiny_data, tiny_net
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ean_lib.learning import evaluate
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig, search
from ean_lib.supernet import Scorer


def dataset() -> TensorDataset:
    return TensorDataset(*next(tiny_data().val.batches(60)))


def macro_f1(scores: Tensor, labels: Tensor) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN), counted one by one."""
    values = []
    for k in range(scores.shape[1]):
        hits = wrongly = missed = 0
        for guess, label in zip(scores.argmax(1).tolist(), labels.tolist(), strict=True):
            hits += guess == k and label == k
            wrongly += guess == k and label != k
            missed += guess != k and label == k
        values.append(2 * hits / (2 * hits + wrongly + missed))
    return sum(values) / len(values)


class UpdatedF1(nn.Module):
    """As torchmetrics' MulticlassF1Score: counts in buffers, update, compute, reset; a call would update it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("confusion", torch.zeros(4, 4))
        self.updates = 0

    def reset(self) -> None:
        self.confusion.zero_()
        self.updates = 0

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.updates += 1
        for guess, label in zip(scores.argmax(1).tolist(), labels.tolist(), strict=True):
            self.confusion[label, guess] += 1

    def compute(self) -> Tensor:
        hits = self.confusion.diag()
        return (2 * hits / (self.confusion.sum(0) + self.confusion.sum(1))).mean()


def test_the_f1_of_a_known_answer_is_the_one_computed_by_hand() -> None:
    """Guesses 0 0 1 1 for the labels 0 1 1 1: F1 is 2/3 of class 0 and 4/5 of class 1."""
    scores = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    assert macro_f1(scores, torch.tensor([0, 1, 1, 1])) == pytest.approx((2 / 3 + 4 / 5) / 2)

    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return scores[x[:, 0, 0, 0].long()]

    x = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)
    y = torch.tensor([0, 1, 1, 1])
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    assert evaluate(Answer(), batches, device="cpu", metric=macro_f1) == pytest.approx(11 / 15)
    assert evaluate(Answer(), batches, device="cpu") == 75


@pytest.mark.parametrize("attention", ["se", "dia"])
def test_a_metric_of_every_scheme_is_the_one_of_that_scheme_alone(attention: str) -> None:
    net, data, schemes = tiny_net(attention), tiny_data(), list(Scheme.all_of(STAGES))[::5]
    metric = UpdatedF1()
    expected = [evaluate(net, data.val, scheme, batch_size=25, device="cpu", metric=macro_f1) for scheme in schemes]
    for given in (macro_f1, metric):
        scorer = Scorer(net, data, batch_size=25, device="cpu", metric=given)
        assert scorer(schemes) == pytest.approx(expected, abs=1e-6)
        assert list(scorer.known) == schemes
    assert len(set(expected)) > 1
    assert metric.updates == 0  # copies of it were updated


def test_images_may_come_from_a_dataset_a_loader_or_a_list() -> None:
    net, data, schemes = tiny_net("se"), tiny_data(), list(Scheme.all_of(STAGES))[::7]
    expected = Scorer(net, data, batch_size=25, device="cpu")(schemes)
    loader = DataLoader(dataset(), batch_size=25)
    for images in (dataset(), loader, list(loader), data.val):
        assert Scorer(net, images, batch_size=25, device="cpu")(schemes) == expected
        assert evaluate(net, images, schemes[1], device="cpu") == expected[1]
    recalibrated = Scorer(net, data, recalibrate=40, device="cpu")(schemes)
    assert Scorer(net, loader, recalibrate=40, train=data.train, device="cpu")(schemes) == recalibrated
    shuffled = DataLoader(dataset(), batch_size=16, shuffle=True)
    before = torch.random.get_rng_state()
    drawn = [Scorer(net, loader, recalibrate=40, train=shuffled, device="cpu") for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert drawn[0]._calibration.shape == (40, 3, 16, 16)
    assert torch.equal(drawn[0]._calibration, drawn[1]._calibration)
    with pytest.raises(ValueError, match=r"recalibrate needs training images, .* pass train= as well"):
        Scorer(net, loader, recalibrate=40)


def test_a_generator_is_used_up_by_the_first_schemes() -> None:
    scorer = Scorer(tiny_net("se"), (batch for batch in DataLoader(dataset(), batch_size=25)), device="cpu")
    assert scorer(["11-11-1"])
    with pytest.raises(ValueError, match=r"the generator gave no batches\. If it gave some before"):
        scorer(["00-00-0"])
    with pytest.raises(ValueError, match="the list gave no batches"):
        evaluate(tiny_net("se"), [], device="cpu")


def test_labels_above_the_outputs_and_metrics_that_are_none_are_refused() -> None:
    net, (x, y) = tiny_net("se"), dataset().tensors
    for use in (lambda: evaluate(net, [(x, y + 3)], device="cpu"), lambda: Scorer(net, [(x, y + 3)])(["00-00-0"])):
        with pytest.raises(ValueError, match="has 4 outputs, but the labels go up to class 6"):
            use()
    with pytest.raises(ValueError, match=r"metric must be a function of \(scores, labels\), or an object with update"):
        Scorer(net, [(x, y)], metric="f1")
    for value in (float("nan"), torch.zeros(4), None):
        with pytest.raises(ValueError, match="what the metric gives must be one finite number, got"):
            evaluate(net, [(x, y)], device="cpu", metric=lambda scores, labels, value=value: value)


def test_known_values_of_a_metric_need_not_be_percentages() -> None:
    scorer = Scorer(tiny_net("se"), tiny_data(), metric=macro_f1, known={"00-00-0": -3.5, "11-11-1": 250})
    assert scorer(["00-00-0", "11-11-1"]) == [-3.5, 250.0]
    with pytest.raises(ValueError, match="the known value of scheme 00-00-0 must be a finite number, got nan"):
        Scorer(tiny_net("se"), tiny_data(), metric=macro_f1, known={"00-00-0": float("nan")})


def test_a_search_by_f1_needs_it_in_percent_or_a_weight() -> None:
    """Between 0 and 1 the price of connections decides; a hundred times that, or lambda_val=100, is the same search."""
    stages = STAGES
    values = {scheme: 0.2 + 0.1 * scheme.bits[0] for scheme in Scheme.all_of(stages)}
    config = {"method": "exhaustive", "budget": 32}
    with pytest.warns(UserWarning, match="sparsity decides more than the reward"):
        assert (
            search(lambda schemes: [values[s] for s in schemes], stages, SearchConfig(**config)).scheme.connected == 0
        )
    percent = search(lambda schemes: [100 * values[s] for s in schemes], stages, SearchConfig(**config))
    weighted = search(lambda schemes: [values[s] for s in schemes], stages, SearchConfig(**config, lambda_val=100))
    assert str(percent.scheme) == str(weighted.scheme) == "10-00-0"

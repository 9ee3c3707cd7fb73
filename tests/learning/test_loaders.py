"""Training on a Dataset, a DataLoader or an iterable, and what belongs to training as people do it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import STAGES, tiny_data, tiny_net
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from ean_lib.data import LoaderSplit
from ean_lib.learning import TrainConfig, evaluate, train
from ean_lib.learning.training import learning_rate
from ean_lib.runs import Run
from ean_lib.schemes import Scheme

FAST = TrainConfig(epochs=2, batch_size=16, lr=0.05, augment=False)
FULL = Scheme.full(STAGES)


def run(net: nn.Module, data: object, config: TrainConfig = FAST, scheme: Scheme | str = FULL, **options) -> list:
    return train(net, data, config, scheme, **{"device": "cpu", "progress": False, **options})


def trained_on(data: object, config: TrainConfig = FAST, scheme: Scheme | str = FULL, **options) -> dict:
    net = tiny_net("se")
    run(net, data, config, scheme, **options)
    return net.state_dict()


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def dataset() -> TensorDataset:
    return TensorDataset(*next(tiny_data().train.batches(60)))


class Order:
    """The order in which `train` goes through 60 images, as a DataLoader's sampler."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(FAST.seed)

    def __iter__(self):
        yield from torch.randperm(60, generator=self.generator).tolist()

    def __len__(self) -> int:
        return 60


def test_the_same_images_in_the_same_order_give_the_same_weights_to_the_bit_however_they_are_given() -> None:
    expected = trained_on(tiny_data())
    loader = DataLoader(dataset(), batch_size=16, sampler=Order(), drop_last=True)
    assert equal(trained_on(loader), expected)
    assert equal(trained_on(dataset()), expected)
    assert equal(trained_on(tiny_data().train), expected)
    generator = torch.Generator().manual_seed(FAST.seed)
    epochs = [list(tiny_data().train.batches(16, generator=generator, drop_last=True)) for _ in range(2)]
    endless = (batch for epoch in epochs for batch in epoch)
    assert equal(trained_on(LoaderSplit(endless, steps=3)), expected)


@pytest.mark.parametrize("sampler", ["uniform", "sandwich"])
def test_a_supernet_on_a_dataset_is_the_one_on_data(sampler: str) -> None:
    config = dataclasses.replace(FAST, sampler=sampler)
    assert equal(trained_on(dataset(), config, "random"), trained_on(tiny_data(), config, "random"))


class Killed(Exception):
    """Stands for the process dying after an epoch."""


def die(record: dict) -> None:
    raise Killed


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_training_on_a_shuffled_loader_goes_on_to_the_same_bits(own_generator: bool, tmp_path: Path) -> None:
    def options() -> dict:
        generator = torch.Generator().manual_seed(5) if own_generator else None
        net = tiny_net("se")
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        loader = DataLoader(dataset(), batch_size=16, shuffle=True, generator=generator)
        return {"net": net, "data": loader, "average": average, "batch_transform": v2.MixUp(num_classes=4)}

    whole = options()
    history = run(**whole)
    first, second = options(), options()
    with pytest.raises(Killed):
        run(**first, run=Run(tmp_path / "run", {}), on_epoch=die)
    assert run(**second, run=Run(tmp_path / "run", {})) == history
    assert equal(second["net"].state_dict(), whole["net"].state_dict())
    assert equal(second["average"].state_dict(), whole["average"].state_dict())
    assert not equal(second["average"].module.state_dict(), second["net"].state_dict())


def test_a_checkpoint_without_the_average_is_answered_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tiny_net("se"), tiny_data(), run=Run(tmp_path / "run", {}), on_epoch=die)
    net = tiny_net("se")
    with pytest.raises(ValueError, match="has no state of the average: its training began without one"):
        run(net, tiny_data(), run=Run(tmp_path / "run", {}), average=AveragedModel(net))


def test_batches_that_cannot_be_trained_on_are_refused() -> None:
    x, y = dataset().tensors
    with pytest.raises(ValueError, match="a generator has no length, and the schedule of the learning rate needs"):
        trained_on((x, y) for _ in range(3))
    with pytest.raises(ValueError, match="the batches ended after 2 of the 3 of an epoch"):
        trained_on(LoaderSplit(((x[:16], y[:16]) for _ in range(5)), steps=3))  # in the second epoch
    with pytest.raises(ValueError, match="the list has no batches"):
        trained_on([])
    with pytest.raises(ValueError, match=r"labels of a batch must be whole numbers .* got torch.float32 \(60,\)"):
        trained_on([(x, y.float())])
    with pytest.raises(ValueError, match=r"has 4 outputs, but the labels go up to class 6: .* num_classes=7"):
        trained_on([(x, y + 3)])
    sandwich = dataclasses.replace(FAST, sampler="sandwich")
    message = r"a batch has only 3 images, but the sampler 'sandwich' .* over 4 schemes: .* \(drop_last=True"
    net = tiny_net("se")
    with pytest.raises(ValueError, match=message):
        run(net, DataLoader(dataset(), batch_size=19), sandwich, "random")
    assert equal(net.state_dict(), tiny_net("se").state_dict())  # it is known beforehand
    with pytest.raises(ValueError, match=message):
        trained_on([(x, y), (x[:3], y[:3])], sandwich, "random")


def test_weights_of_the_classes_are_weights_of_the_loss() -> None:
    weights = torch.tensor([1.0, 2.0, 0.0, 3.0])
    history = run(tiny_net("se"), [dataset().tensors], loss=nn.CrossEntropyLoss(weight=weights))
    net = tiny_net("se")
    x, y = dataset().tensors
    errors = F.cross_entropy(net(x), y, reduction="none")
    by_hand = (weights[y] * errors).sum() / weights[y].sum()
    assert history[0]["loss"] == pytest.approx(by_hand.item(), rel=1e-5)


def test_an_optimiser_of_ones_own_has_its_groups_scheduled_each_from_its_own_rate() -> None:
    def groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        head = [p for p in parameters if p.shape[0] == 4]  # the weights and biases of 4 outputs
        others = [p for p in parameters if p.shape[0] != 4]
        made.append(torch.optim.SGD([{"params": head, "lr": 0.02}, {"params": others}], lr=0.001))
        return made[0]

    made: list[torch.optim.Optimizer] = []
    config = dataclasses.replace(FAST, epochs=1, batch_size=30)
    net, start = tiny_net("se"), tiny_net("se").state_dict()
    run(net, tiny_data(), config, optimizer=groups)
    fraction = learning_rate(1, 2, config) / config.lr
    assert [group["lr"] for group in made[0].param_groups] == pytest.approx([0.02 * fraction, 0.001 * fraction])
    assert not torch.equal(net.fc.weight, start["fc.weight"])

    def as_the_configuration(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=FAST.lr, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)

    assert equal(trained_on(tiny_data(), optimizer=as_the_configuration), trained_on(tiny_data()))
    with pytest.raises(ValueError, match=r"what `optimizer` returns must be a torch\.optim\.Optimizer, got None"):
        trained_on(tiny_data(), optimizer=lambda parameters: None)
    with pytest.raises(ValueError, match="optimizer must be a function of the parameters"):
        trained_on(tiny_data(), optimizer="adam")


def test_mixed_labels_are_shares_of_which_the_largest_counts() -> None:
    def mix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        shares = 0.7 * F.one_hot(y, 4) + 0.3 * F.one_hot(y.roll(1), 4)
        return 0.7 * x + 0.3 * x.roll(1, 0), shares

    x, y = dataset().tensors
    history = run(tiny_net("se"), [(x, y)], dataclasses.replace(FAST, epochs=1), batch_transform=mix)
    scores = tiny_net("se")(mix(x, y)[0])
    by_hand = 0.7 * F.cross_entropy(scores, y) + 0.3 * F.cross_entropy(scores, y.roll(1))
    assert history[0]["loss"] == pytest.approx(by_hand.item(), rel=1e-5)
    assert history[0]["accuracy"] == pytest.approx(100 * (scores.argmax(1) == y).double().mean().item(), abs=1e-3)
    for transform in (v2.MixUp(num_classes=4), v2.CutMix(num_classes=4)):
        first, second = (trained_on(tiny_data(), FAST, "random", batch_transform=transform) for _ in range(2))
        assert equal(first, second)
        assert not equal(first, trained_on(tiny_data(), FAST, "random"))
    with pytest.raises(ValueError, match="the labels are shares of 5 classes, and the network has 4 outputs"):
        trained_on(tiny_data(), batch_transform=v2.MixUp(num_classes=5))


def test_an_average_is_updated_after_each_step() -> None:
    net = tiny_net("se")
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    run(net, tiny_data(), dataclasses.replace(FAST, batch_size=60), average=average)  # two steps
    assert average.n_averaged == 2
    after_one = tiny_net("se")
    half = dataclasses.replace(FAST, batch_size=60)
    states: list[dict] = []
    run(after_one, tiny_data(), half, on_epoch=lambda _: states.append(copy.deepcopy(after_one.state_dict())))
    expected = 0.5 * states[0]["fc.weight"] + 0.5 * states[1]["fc.weight"]  # the first update is a copy
    assert torch.allclose(average.module.fc.weight, expected)
    assert equal(states[1], net.state_dict())
    with pytest.raises(ValueError, match=r"average must be an AveragedModel of torch\.optim\.swa_utils, got 'float'"):
        trained_on(tiny_data(), average=0.999)


def test_a_validation_each_epoch_is_in_the_records_and_changes_no_bit() -> None:
    seen = []

    def validate(net: nn.Module) -> float:
        seen.append((net.training, torch.is_grad_enabled()))
        net.eval()
        return evaluate(net, tiny_data().val, FULL, device="cpu")

    net = tiny_net("se")
    history = run(net, tiny_data(), validate=validate)
    assert seen == [(False, False)] * 2
    assert history[-1]["validation"] == evaluate(net, tiny_data().val, FULL, device="cpu")
    assert net.training and equal(net.state_dict(), trained_on(tiny_data()))
    average = AveragedModel(net)
    asked = []
    run(net, tiny_data(), average=average, validate=lambda net: asked.append(net) or torch.tensor(2.5))
    assert asked == [average.module] * 2
    with pytest.raises(ValueError, match="what `validate` returns must be one finite number, got nan"):
        trained_on(tiny_data(), validate=lambda net: float("nan"))


def test_without_any_of_them_the_records_are_what_they_were() -> None:
    assert set(run(tiny_net("se"), tiny_data())[0]) == {"epoch", "step", "lr", "loss", "accuracy"}

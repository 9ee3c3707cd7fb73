"""BatchNorm statistics are measured anew from given images, and nothing else of a network changes."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_net
from torch import nn

from ean_lib.networks import batchnorm, reestimate_batchnorm
from ean_lib.networks.batchnorm import Moments, find_batchnorms, in_parts


def images(count: int = 12, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 + 1


def statistics(net: nn.Module) -> list[torch.Tensor]:
    return [value for norm in find_batchnorms(net) for value in (norm.running_mean, norm.running_var)]


def by_hand(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """Reset, then one pass in training mode whose statistics are taken as they are."""
    net = copy.deepcopy(net).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = 1.0
    with torch.no_grad():
        net(x)
    return net


@pytest.mark.parametrize("attention", ["se", "dia", "timm:cbam"])
def test_one_batch_gives_the_statistics_of_that_batch_to_the_bit(attention: str) -> None:
    if attention == "timm:cbam":
        pytest.importorskip("timm")
    net = tiny_net("se" if attention == "timm:cbam" else attention)
    expected = by_hand(net, images())
    reestimate_batchnorm(net, images())
    assert all(torch.equal(a, b) for a, b in zip(statistics(net), statistics(expected), strict=True))


def test_nothing_is_continued_and_nothing_else_changes() -> None:
    net = tiny_net().train()
    net.layer1.eval()
    broken = copy.deepcopy(net)
    for norm in find_batchnorms(broken):
        norm.running_mean.fill_(torch.nan)
        norm.running_var.fill_(torch.inf)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    for network in (net, broken):
        reestimate_batchnorm(network, images())
    assert all(torch.equal(a, b) for a, b in zip(statistics(net), statistics(broken), strict=True))
    assert modes == [module.training for module in net.modules()]
    assert all(norm.momentum == 0.1 and not norm._forward_hooks for norm in find_batchnorms(net))
    for name, value in net.state_dict().items():
        kept = "running" not in name and "batches_tracked" not in name
        assert not kept or torch.equal(value, before[name])


def test_after_an_error_the_network_is_as_it_was() -> None:
    net = tiny_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="the images' shape"):
        reestimate_batchnorm(net, torch.zeros(4, 5, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(norm.momentum == 0.1 and not norm._forward_hooks for norm in find_batchnorms(net))


def test_more_than_fits_goes_through_in_parts_and_gives_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tiny_net(), tiny_net()
    x = images(64)
    reestimate_batchnorm(whole, x)
    monkeypatch.setattr(batchnorm, "PIXELS_AT_ONCE", 16 * 16 * 16)
    sizes = []
    parts.conv1.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    reestimate_batchnorm(parts, x)
    assert sizes == [16, 16, 16, 16]
    # The first BatchNorm sees the same values; those after it see values that its part's statistics have normalised.
    torch.testing.assert_close(parts.bn1.running_mean, whole.bn1.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.bn1.running_var, whole.bn1.running_var, rtol=1e-5, atol=1e-6)
    for a, b in zip(statistics(parts), statistics(whole), strict=True):
        assert (a - b).abs().max() < 0.1 * b.abs().max()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_are_equal_and_hold_at_least_two_images(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchnorm, "PIXELS_AT_ONCE", 1)
    sizes = [len(part) for part in in_parts(torch.zeros(count, 3, 4, 4))]
    assert sum(sizes) == count and min(sizes) >= min(2, count) and max(sizes) - min(sizes) <= 1


def test_recorded_sizes_are_one_batch_and_large_pictures_are_not() -> None:
    assert len(in_parts(torch.empty(1000, 3, 32, 32, device="meta"))) == 1
    assert len(in_parts(torch.empty(4000, 3, 32, 32, device="meta"))) == 1
    parts = in_parts(torch.empty(1000, 3, 224, 224, device="meta"))
    assert {len(part) for part in parts} == {76, 77} and sum(len(part) for part in parts) == 1000


def test_pooled_moments_are_those_of_all_values() -> None:
    values = torch.randn(3, 50, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * 3 + 5
    first, second = values[:, :13], values[:, 13:]
    pooled = Moments(13, first.mean(1), first.var(1)).pooled(Moments(37, second.mean(1), second.var(1)))
    torch.testing.assert_close(pooled.mean, values.mean(1))
    torch.testing.assert_close(pooled.var, values.var(1))


def test_a_batchnorm_that_is_called_twice_gets_the_statistics_of_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.unused = nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.mean((2, 3))[:, :2]
            return self.norm(x) + self.norm(x + 10)

    net, x = Twice(), images(30)
    reestimate_batchnorm(net, x)
    seen = torch.cat([x.mean((2, 3))[:, :2] + shift for shift in (0, 10)])
    torch.testing.assert_close(net.norm.running_mean, seen.mean(0))
    torch.testing.assert_close(net.norm.running_var, seen.var(0))
    assert torch.equal(net.unused.running_var, torch.ones(2))


def test_dropout_is_off_and_batchnorms_without_statistics_are_left_alone() -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    assert find_batchnorms(net) == [net[1]]
    reestimate_batchnorm(net, images(50))
    torch.testing.assert_close(net[1].running_mean, images(50).mean((0, 2, 3)))


def test_batchnorm_of_many_processes_is_measured_by_this_one_alone() -> None:
    """In training mode SyncBatchNorm waits for all processes (and refuses a CPU): they are elsewhere by now."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="SyncBatchNorm"):  # so the test can fail
            shared.train()(images())
        for network in (net, shared):
            reestimate_batchnorm(network, images())
    finally:
        torch.distributed.destroy_process_group()
    assert type(shared[1]) is nn.SyncBatchNorm
    assert all(torch.equal(a, b) for a, b in zip(statistics(net), statistics(shared), strict=True))

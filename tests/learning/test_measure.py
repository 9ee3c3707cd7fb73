"""Costs: counted by hand, and timed in turn."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ean_lib.devices import device_name
from ean_lib.learning.measure import count_macs, count_parameters, latency, measure, quartiles, relative_time_increment
from ean_lib.networks import build_network
from ean_lib.schemes import Scheme

SMALL = {"blocks": (1, 2), "width": 8, "stem_stride": 2}
SHAPE = (2, 3, 16, 16)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.depthwise(self.bn(self.conv(x)))).mean((2, 3)))


def test_macs_and_parameters_of_a_tiny_network_are_those_counted_by_hand():
    net = Tiny()
    # 8x8 outputs of 4 channels, each 3x3x3 products; the same with 3x3x1; then 4 x 5
    assert count_macs(net, (7, 3, 16, 16)) == 8 * 8 * 4 * 27 + 8 * 8 * 4 * 9 + 20
    assert count_parameters(net) == 4 * 27 + 2 * 4 + (4 * 9 + 4) + (20 + 5)


def test_counting_leaves_mode_and_statistics_as_they_were():
    net = Tiny()
    net.depthwise.eval()
    count_macs(net, SHAPE)
    assert net.training and net.bn.training and not net.depthwise.training
    assert net.bn.num_batches_tracked == 0


def test_se_adds_the_macs_and_parameters_of_its_two_products_per_connected_block():
    backbone = build_network("resnet20", **SMALL)
    net = build_network("resnet20", "se", scheme="1-01", attention_kwargs={"rd_channels": 2}, **SMALL)
    assert count_macs(net, SHAPE) - count_macs(backbone, SHAPE) == 2 * 8 * 2 + 2 * 16 * 2
    assert count_parameters(net) - count_parameters(backbone) == (2 * 8 * 2 + 2 + 8) + (2 * 16 * 2 + 2 + 16)


def test_resnet50_has_the_known_macs_and_parameters():
    with torch.device("meta"):
        net = build_network("resnet50", num_classes=1000)
    assert count_parameters(net) == 25_557_032
    assert count_macs(net, (1, 3, 224, 224)) == 4_089_184_256  # the 4.09 G of torchvision's table


def test_increment_of_a_network_half_as_slow_again_is_one_half():
    assert relative_time_increment(15.0, 10.0) == 0.5
    assert relative_time_increment(9.0, 10.0) == pytest.approx(-0.1)


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6), st.floats(1e-3, 1e3))
def test_increment_does_not_depend_on_the_unit_of_time(own, reference, unit):
    assert relative_time_increment(own * unit, reference * unit) == pytest.approx(
        relative_time_increment(own, reference), rel=1e-9, abs=1e-9
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_taken_and_named_where_there_is_one():
    net = build_network("resnet20")
    result = measure({"net": net}, net, (8, 3, 32, 32), device="auto", rounds=2)["net"]
    assert result.device == torch.cuda.get_device_name() and result.median_ms > 0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_increment_refuses_a_time_that_is_not_positive_and_finite(bad):
    with pytest.raises(ValueError, match="attention_ms must be a positive, finite time in milliseconds"):
        relative_time_increment(bad, 1.0)
    with pytest.raises(ValueError, match="backbone_ms must be a positive, finite time in milliseconds"):
        relative_time_increment(1.0, bad)


def test_increments_are_paired_within_rounds():
    backbone, net = np.array([10.0, 20.0, 40.0]), np.array([11.0, 24.0, 44.0])
    assert relative_time_increment(net, backbone) == pytest.approx([0.1, 0.2, 0.1])
    assert quartiles(backbone) == [15.0, 20.0, 30.0]
    with pytest.raises(ValueError, match="attention_ms must be a positive, finite time in milliseconds"):
        relative_time_increment(np.array([11.0, 0.0, 44.0]), backbone)


@pytest.fixture
def quick(monkeypatch):
    """One warm-up pass, and one pass per timing."""
    module = importlib.import_module("ean_lib.learning.measure")  # the package's name `measure` is the function
    monkeypatch.setattr(module, "WARMUP", 1)
    monkeypatch.setattr(module, "BLOCK_S", 0)


def test_latency_times_every_network_in_every_round_and_leaves_it_alone(quick):
    tiny = Tiny()
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    times = latency([tiny, nn.Sequential(Tiny(), nn.Linear(5, 5))], SHAPE, "cpu", rounds=3)
    assert times.shape == (2, 3) and (times > 0).all()
    assert tiny.training
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())


def test_networks_take_turns_and_the_order_shifts_from_round_to_round(quick):
    calls = []

    class Noted(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            if calls[-1:] != [self.name]:
                calls.append(self.name)
            return x

    latency([Noted(name) for name in "abc"], SHAPE, "cpu", rounds=3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"


def test_a_measurement_is_of_the_pruned_and_fused_network():
    backbone = build_network("resnet20", **SMALL)
    networks = {
        "share": build_network("resnet20", "se", **SMALL),
        "none": build_network("resnet20", "se", scheme=Scheme.none((1, 2)), **SMALL),
        "org": build_network("resnet20", "se", "none", scheme="1-01", **SMALL),
    }
    results = measure(networks, backbone, SHAPE, device="cpu", rounds=2)
    assert list(results) == ["share", "none", "org"]
    # SE with C/16 < 1 hidden channels has 1: 3C + 1 parameters for C channels
    assert [r.extra_parameters for r in results.values()] == [25 + 49, 0, 25 + 49]
    assert [r.extra_macs for r in results.values()] == [16 + 32 + 32, 0, 16 + 32]
    for result in results.values():
        assert result.parameters == count_parameters(backbone) + result.extra_parameters
        assert result.time_increment == relative_time_increment(result.median_ms, result.backbone_ms)
        assert result.quartiles_ms[0] <= result.median_ms <= result.quartiles_ms[1]
        assert result.paired_quartiles[0] <= result.paired_increment <= result.paired_quartiles[1]
        assert result.device == device_name("cpu") and result.threads == torch.get_num_threads()
        assert (result.rounds, result.input_shape) == (2, SHAPE)
        assert json.loads(json.dumps(asdict(result)))["input_shape"] == list(SHAPE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_any_type_are_measured_in_it(quick, dtype):
    backbone = build_network("resnet20", **SMALL).to(dtype)
    net = build_network("resnet20", "se", **SMALL).to(dtype)
    result = measure({"net": net}, backbone, SHAPE, device="cpu", rounds=1)["net"]
    same = measure({"net": net.float()}, backbone.float(), SHAPE, device="cpu", rounds=1)["net"]
    assert (result.macs, result.parameters) == (same.macs, same.parameters)
    mixed = latency([backbone, net.to(dtype), Tiny()], SHAPE, "cpu", rounds=1)  # each gets its own
    assert mixed.shape == (3, 1)


def test_numbers_of_numpy_and_torch_are_sizes_too(quick):
    sizes = (np.int64(2), torch.tensor(3), 16, 16)
    assert count_macs(Tiny(), sizes) == count_macs(Tiny(), SHAPE)
    result = measure({"net": Tiny()}, Tiny(), sizes, device="cpu", rounds=1)["net"]
    assert json.loads(json.dumps(asdict(result)))["input_shape"] == list(SHAPE)


BAD = {
    "flat shape": (([Tiny()], (3, 16, 16)), {}, r"four positive integers \(B, C, H, W\).* got \(3, 16, 16\)"),
    "empty batch": (([Tiny()], (0, 3, 16, 16)), {}, "input_shape must be four positive integers"),
    "a number": (([Tiny()], 32), {}, "input_shape must be four positive integers .* got 32"),
    "no rounds": (([Tiny()], SHAPE), {"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
    "unknown device": (([Tiny()], SHAPE), {"device": "gpu"}, "no device 'gpu' here .* try 'cpu', or 'auto'"),
    "absent device": (([Tiny()], SHAPE), {"device": "cuda:99"}, "no device 'cuda:99' here"),
}


@pytest.mark.parametrize("positional, keywords, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_say_what_was_expected_and_what_came(positional, keywords, message):
    with pytest.raises(ValueError, match=message):
        latency(*positional, **keywords)


def test_measuring_nothing_is_refused():
    with pytest.raises(ValueError, match="the networks to measure must be at least one"):
        measure({}, Tiny(), SHAPE)

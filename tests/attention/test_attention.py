"""Attention modules against slow loops and hand computation, in every shape and precision; the registry."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ean_lib.attention import create_attention, list_attentions, register_attention, registry
from ean_lib.attention.registry import is_registered_elsewhere
from ean_lib.attention.sge import default_groups

OWN = [name for name in list_attentions() if not name.startswith("timm:") and not is_registered_elsewhere(name)]
STATELESS = [name for name in OWN if name != "dia"]
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))


def randomised(name, channels, seed=0, **keywords):
    """A module whose every parameter is random, so that none of them hides behind its initial value."""
    generator = torch.Generator().manual_seed(seed)
    module = create_attention(name, channels, **keywords).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.double))
    return module


def images(*shape, seed=1, dtype=torch.double):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double).to(dtype)


def total_parameters(name, channels, **keywords):
    modules = [create_attention(name, c, **keywords) for c in channels]
    return sum(p.numel() for module in modules for p in module.parameters())


# What ResNet-50's four stages need when each has one shared module.
@pytest.mark.parametrize("name, expected", [("se", 700_400), ("sge", 512), ("dia", 2_801_020)])
def test_share_full_resnet50_has_the_official_number_of_attention_parameters(name, expected):
    assert total_parameters(name, (256, 512, 1024, 2048)) == expected


def test_org_full_se_resnet50_has_the_official_number_of_attention_parameters():
    channels = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert total_parameters("se", channels) == 28_114_584 - 25_583_592


@pytest.mark.parametrize("name", OWN)
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000), scale=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e4]))
def test_output_has_the_input_shape_and_every_gradient_is_finite(name, shape, seed, scale):
    module = randomised(name, shape[1], seed).float()
    x = (images(*shape, seed=seed, dtype=torch.float) * scale).requires_grad_()
    y, state = module(x, None)
    y, state = module(y, state)
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", OWN)
def test_a_sample_is_gated_by_itself_alone(name):
    module, x = randomised(name, 12), images(4, 12, 5, 3)
    together, _ = module(x, None)
    alone = torch.cat([module(x[i : i + 1], None)[0] for i in range(4)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", OWN)
def test_the_input_is_not_overwritten(name):
    module, x = randomised(name, 12), images(2, 12, 5, 3)
    before = x.clone()
    y, _ = module(x, None)
    assert torch.equal(x, before) and y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("name", OWN)
def test_channels_last_input_gives_channels_last_output(name):
    x = images(2, 12, 5, 3).to(memory_format=torch.channels_last)
    y, _ = randomised(name, 12)(x, None)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, randomised(name, 12)(x.contiguous(), None)[0])


@pytest.mark.parametrize("name", STATELESS)
def test_stateless_modules_pass_the_state_through(name):
    state = object()
    assert create_attention(name, 8)(images(1, 8, 2, 2, dtype=torch.float), state)[1] is state


def test_se_equals_a_loop_over_samples_and_channels():
    module, x = randomised("se", 6, rd_channels=2), images(2, 6, 3, 4)
    w1, b1 = module.fc1.weight[:, :, 0, 0], module.fc1.bias
    w2, b2 = module.fc2.weight[:, :, 0, 0], module.fc2.bias
    expected = torch.zeros_like(x)
    for b in range(2):
        pooled = [sum(x[b, c, i, j] for i in range(3) for j in range(4)) / 12 for c in range(6)]
        hidden = [max(sum(w1[r, c] * pooled[c] for c in range(6)) + b1[r], 0) for r in range(2)]
        for c in range(6):
            logit = sum(w2[c, r] * hidden[r] for r in range(2)) + b2[c]
            expected[b, c] = x[b, c] / (1 + torch.exp(-logit))
    torch.testing.assert_close(module(x)[0], expected, rtol=1e-10, atol=1e-12)


def test_sge_equals_a_loop_over_samples_groups_and_positions():
    module, x = randomised("sge", 6, groups=2), images(2, 6, 3, 4)
    expected = torch.zeros_like(x)
    for b in range(2):
        for g in range(2):
            part = x[b, 3 * g : 3 * g + 3]  # (3, H, W)
            mean = [part[c].sum() / 12 for c in range(3)]
            t = torch.stack([sum(part[c, i, j] * mean[c] for c in range(3)) for i in range(3) for j in range(4)])
            t = (t - t.mean()) / (torch.sqrt(((t - t.mean()) ** 2).sum() / 11) + 1e-5)
            gate = torch.sigmoid(t * module.weight[0, g, 0, 0] + module.bias[0, g, 0, 0]).view(3, 4)
            expected[b, 3 * g : 3 * g + 3] = part * gate
    torch.testing.assert_close(module(x)[0], expected, rtol=1e-10, atol=1e-12)


def test_cbam_equals_its_equation_step_by_step():
    module, x = randomised("cbam", 6, rd_channels=2, spatial_kernel_size=3), images(2, 6, 5, 4)
    w1, w2 = module.fc1.weight[:, :, 0, 0], module.fc2.weight[:, :, 0, 0]
    kernel = module.spatial.weight[0]  # (2, 3, 3)
    expected = torch.zeros_like(x)
    for b in range(2):
        average, largest = x[b].flatten(1).mean(1), x[b].flatten(1).max(1).values
        logits = w2 @ (w1 @ average).clamp(min=0) + w2 @ (w1 @ largest).clamp(min=0)
        gated = x[b] * torch.sigmoid(logits)[:, None, None]
        maps = torch.zeros(2, 7, 6, dtype=x.dtype)  # one row or column of zeros around
        maps[0, 1:6, 1:5], maps[1, 1:6, 1:5] = gated.mean(0), gated.max(0).values
        for i in range(5):
            for j in range(4):
                gate = torch.sigmoid((maps[:, i : i + 3, j : j + 3] * kernel).sum())
                expected[b, :, i, j] = gated[:, i, j] * gate
    torch.testing.assert_close(module(x)[0], expected, rtol=1e-10, atol=1e-12)


def test_dia_equals_two_hand_computed_steps():
    module, x = randomised("dia", 3, rd_channels=2), images(2, 3, 4, 5)

    def bottleneck(layers, vector):  # with @ only
        hidden = layers[0].weight @ vector + layers[0].bias
        return layers[2].weight @ torch.where(hidden > 0, hidden, 0) + layers[2].bias

    state, y = None, x
    for _ in range(2):
        before, (y, state) = (state, y), module(y, state)
        for b in range(2):
            pooled = before[1][b].flatten(1).mean(1)
            zeros = torch.zeros(3, dtype=x.dtype)
            h, c = (zeros, zeros) if before[0] is None else (before[0][0][b], before[0][1][b])
            gates = bottleneck(module.ih, pooled) + bottleneck(module.hh, h)
            enter, forget, leave = (torch.sigmoid(gates[s : s + 3]) for s in (0, 3, 9))
            c = forget * c + enter * torch.tanh(gates[6:9])
            h = leave * torch.sigmoid(c)
            torch.testing.assert_close(state[0][b], h)
            torch.testing.assert_close(state[1][b], c)
            torch.testing.assert_close(y[b], before[1][b] * h[:, None, None])


def test_dia_with_transparent_bottlenecks_has_the_cell_state_of_an_lstm_cell():
    channels = 4
    module = randomised("dia", channels, rd_channels=channels)
    cell = nn.LSTMCell(channels, channels).double()
    with torch.no_grad():  # non-negative numbers pass the first Linear and the ReLU unchanged
        for part in (module.ih, module.hh):
            part[0].weight.copy_(torch.eye(channels))
            part[0].bias.zero_()
        cell.weight_ih.copy_(module.ih[2].weight)
        cell.bias_ih.copy_(module.ih[2].bias)
        cell.weight_hh.copy_(module.hh[2].weight)
        cell.bias_hh.copy_(module.hh[2].bias)
    state = None
    for step in range(3):
        x = images(2, channels, 3, 3, seed=step).abs()
        before = (torch.zeros(2, channels).double(),) * 2 if state is None else state
        _, state = module(x, state)
        h, c = cell(x.mean((2, 3)), before)
        torch.testing.assert_close(state[1], c)
        torch.testing.assert_close(state[0], h / torch.tanh(c) * torch.sigmoid(c))


def test_dia_without_a_state_starts_from_zeros():
    module, x = randomised("dia", 4), images(2, 4, 3, 3)
    zeros = torch.zeros(2, 4, dtype=torch.double)
    y, state = module(x, None)
    again, same = module(x, (zeros, zeros))
    assert torch.equal(y, again) and all(torch.equal(a, b) for a, b in zip(state, same, strict=True))
    assert (zeros == 0).all()


def test_dia_gates_depend_on_the_blocks_before():
    module, x = randomised("dia", 4), images(2, 4, 3, 3)
    first, state = module(x, None)
    assert not torch.allclose(module(x, state)[0], first)


@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (2, 8, 4, 5)])
def test_sge_gates_a_constant_map_by_its_bias_alone_with_finite_gradients(shape):
    module = randomised("sge", 8)
    # small integers: their sums are exact, so that the deviations are exactly 0
    x = torch.arange(16.0, dtype=torch.double).view(2, 8, 1, 1).expand(shape).clone().requires_grad_()
    y, _ = module(x)
    gate = torch.sigmoid(module.bias).repeat_interleave(8 // module.groups, dim=1)
    torch.testing.assert_close(y, x * gate)
    y.sum().backward()
    assert x.grad.isfinite().all() and module.weight.grad.eq(0).all() and module.bias.grad.ne(0).any()


def test_sge_is_the_same_gate_everywhere_before_training():
    x = images(2, 64, 4, 4, dtype=torch.float)
    torch.testing.assert_close(create_attention("sge", 64)(x)[0], x * torch.sigmoid(torch.tensor(1.0)))


@given(st.integers(1, 4096))
def test_sge_default_groups_divide_the_channels(channels):
    groups = default_groups(channels)
    assert channels % groups == 0 and 1 <= groups <= 64
    assert groups == 1 or channels // groups >= 4


def test_sge_default_groups_are_the_official_64_in_resnet50():
    assert [default_groups(c) for c in (256, 512, 1024, 2048)] == [64] * 4
    assert [default_groups(c) for c in (1, 3, 16, 32, 64)] == [1, 1, 4, 8, 16]


def test_eca_kernel_grows_with_the_logarithm_of_the_channels():
    sizes = [create_attention("eca", c).conv.kernel_size[0] for c in (1, 16, 64, 256, 512, 2048)]
    assert sizes == [3, 3, 3, 5, 5, 7]  # odd next to (log2(C) + 1) / 2: 0.5, 2.5, 3.5, 4.5, 5, 6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OWN)
def test_half_precision_stays_close_to_double_precision(name, dtype, device):
    module, x = randomised(name, 16).to(device), images(2, 16, 7, 5).to(device)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.3)
    expected, state = module(x, None)
    expected, _ = module(expected, state)
    module, half = module.to(dtype), x.to(dtype).requires_grad_()
    y, state = module(half, None)
    y, _ = module(y, state)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=0.05, atol=0.05)
    y.sum().backward()
    assert half.grad.dtype == dtype and half.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OWN)
def test_statistics_do_not_overflow_in_fp16(name, device):
    module = create_attention(name, 16).half().to(device)
    x = torch.full((2, 16, 32, 32), 300.0, dtype=torch.float16, device=device)  # sum and squares exceed 65504
    x[:, :, 0] = -200
    assert module(x, None)[0].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OWN)
def test_under_autocast_the_output_has_the_input_dtype(name, device):
    module, x = create_attention(name, 16).to(device), images(2, 16, 4, 4).to(device)
    with torch.autocast(device, torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            y, state = module(x.to(dtype), None)
            y, state = module(y, state)
            assert y.dtype == dtype
    if name == "dia":
        assert all(part.dtype == torch.float32 for part in state)


BAD = {
    "unknown name": ("sg", 8, {}, r"unknown attention module 'sg'\. Did you mean 'sge'"),
    "capital letters": ("SGE", 8, {}, r"unknown attention module 'SGE'\. Did you mean 'sge'"),
    "nothing like it": ("transformer!", 8, {}, "Known are: " + ", ".join(OWN)),
    "no text": (None, 8, {}, "must be a text such as 'se', got None"),
    "no channels": ("se", 0, {}, "channels must be a whole number of at least 1, got 0"),
    "negative channels": ("sge", -4, {}, "channels must be a whole number of at least 1, got -4"),
    "half a channel": ("eca", 8.5, {}, "channels must be a whole number of at least 1, got 8.5"),
    "boolean channels": ("dia", True, {}, "channels must be a whole number of at least 1, got True"),
    "misspelt option": ("se", 8, {"rd_ration": 0.5}, r"'se' has no option 'rd_ration'\. Did you mean 'rd_ratio'"),
    "option of another": ("eca", 8, {"groups": 2}, r"no option 'groups'\. Known are: kernel_size, gamma, beta"),
    "ratio zero": ("se", 8, {"rd_ratio": 0}, "rd_ratio must .* above 0 and at most 1, such as 1/16, got 0"),
    "ratio above one": ("dia", 8, {"rd_ratio": 4}, "rd_ratio must .* got 4"),
    "ratio not a number": ("cbam", 8, {"rd_ratio": float("nan")}, "rd_ratio must .* got nan"),
    "ratio a text": ("se", 8, {"rd_ratio": "1/4"}, "rd_ratio must .* got '1/4'"),
    "bottleneck zero": ("dia", 8, {"rd_channels": 0}, "rd_channels must be a whole number of at least 1, got 0"),
    "groups do not divide": ("sge", 10, {"groups": 4}, "groups must be a divisor of the 10 channels, such as 2, got 4"),
    "groups zero": ("sge", 8, {"groups": 0}, "groups must be a whole number of at least 1, got 0"),
    "even kernel": ("eca", 8, {"kernel_size": 4}, "kernel_size must be a positive odd number, got 4"),
    "even spatial kernel": (
        "cbam",
        8,
        {"spatial_kernel_size": 6},
        "spatial_kernel_size must be a positive odd number, got 6",
    ),
    "gamma a text": ("eca", 8, {"gamma": "2"}, "gamma must be positive, got '2'"),
    "beta not a number": ("eca", 8, {"beta": float("nan")}, "beta must be a finite number, got nan"),
    "gamma zero": ("eca", 8, {"gamma": 0}, "gamma must be positive, got 0"),
}


@pytest.mark.parametrize("name, channels, keywords, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_say_what_was_expected_and_what_came(name, channels, keywords, message):
    with pytest.raises(ValueError, match=message):
        create_attention(name, channels, **keywords)


def test_a_registered_module_can_be_created_by_name(monkeypatch):
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))

    @register_attention("halve")
    class Halve(nn.Module):
        def __init__(self, channels, factor=0.5):
            super().__init__()
            self.factor = factor

        def forward(self, x, state=None):
            return x * self.factor, state

    assert "halve" in list_attentions()
    assert create_attention("halve", 3, factor=0.25)(torch.ones(1, 3, 1, 1))[0].sum() == 0.75
    with pytest.raises(ValueError, match=r"no option 'factr'\. Did you mean 'factor'"):
        create_attention("halve", 3, factr=1)
    with pytest.raises(ValueError, match=r"'halve' is taken by .*Halve: choose another"):
        register_attention("halve")(lambda channels: Halve(channels))
    with pytest.raises(ValueError, match=r"the attention module 'third' must be a class, or a function .* got None"):
        register_attention("third")(None)
    for name in ("", "timm:halve", None):
        with pytest.raises(ValueError, match="name must be a text that does not begin with"):
            register_attention(name)


CELL = """
from torch import nn
from ean_lib import register_attention

@register_attention("mine")
class Mine(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x, state=None):
        return FACTOR * x, state
"""


def test_a_cell_that_registers_a_module_can_be_run_again(monkeypatch):
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    for factor in (2, 3):  # the second time it is another class of the same name, and takes the place of the first
        exec(CELL.replace("FACTOR", str(factor)), {"__name__": "__main__"})
        assert create_attention("mine", 4)(torch.ones(1))[0] == factor
    with pytest.raises(ValueError, match=r"The attention name 'mine' is taken by __main__\.Mine: choose another\."):
        exec(CELL, {"__name__": "another_notebook"})
    assert create_attention("mine", 4)(torch.ones(1))[0] == 3


@pytest.mark.parametrize("name", OWN)
def test_a_built_in_module_is_not_replaced_by_one_of_its_name(name, monkeypatch):
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    built_in = registry._factories[name]
    namesake = type(built_in.__name__, (nn.Module,), {"__module__": "__main__"})
    with pytest.raises(ValueError, match=rf"'{name}' is taken by ean_lib\.attention\.{name}\.{built_in.__name__}"):
        register_attention(name)(namesake)
    assert registry._factories[name] is built_in


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("se", {"rd_ratio": np.float32(0.25)}),
        ("se", {"rd_channels": torch.tensor(4)}),
        ("dia", {"rd_ratio": torch.tensor(0.25)}),
        ("eca", {"kernel_size": np.int64(5), "gamma": torch.tensor(2), "beta": np.float64(1)}),
        ("sge", {"groups": torch.tensor(4)}),
        ("cbam", {"rd_channels": np.int32(4), "spatial_kernel_size": torch.tensor(3)}),
    ],
)
def test_numbers_of_numpy_and_torch_are_taken_as_pythons(name, options):
    shapes = []
    for values in (options, {key: value.item() for key, value in options.items()}):
        module = create_attention(name, np.int64(16), **values)
        shapes.append([tuple(parameter.shape) for parameter in module.parameters()])
    assert shapes[0] == shapes[1]
    assert type(create_attention("sge", 16, groups=torch.tensor(4)).groups) is int


def test_without_timm_its_layers_are_not_listed_and_asking_for_one_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    assert [name for name in list_attentions() if name.startswith("timm:")] == []
    with pytest.raises(ValueError, match=r"'timm:gc' needs the package timm: .*pip install timm"):
        create_attention("timm:gc", 8)

"""Our modules against timm's, and timm's layers behind our names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

timm_layers = pytest.importorskip("timm.layers")
cbam = pytest.importorskip("timm.layers.cbam")

from ean_lib.attention import create_attention, list_attentions  # noqa: E402

TIMM_NAMES = [name for name in list_attentions() if name.startswith("timm:")]


@pytest.fixture
def x():
    return torch.randn(2, 32, 6, 5, generator=torch.Generator().manual_seed(0))


def randomised(module):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def test_se_equals_timms(x):
    theirs = randomised(timm_layers.SEModule(32, rd_channels=2))
    ours = create_attention("se", 32)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [8, 32, 256])
def test_eca_equals_timms(channels):
    x = torch.randn(2, channels, 6, 5, generator=torch.Generator().manual_seed(0))
    theirs = randomised(timm_layers.EcaModule(channels))
    ours = create_attention("eca", channels)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=1e-6)


def test_cbam_equals_timms_but_for_the_batchnorm(x):
    theirs = randomised(cbam.CbamModule(32, rd_channels=2))
    theirs.spatial.conv.bn = nn.Identity()
    ours = create_attention("cbam", 32)
    ours.fc1.weight, ours.fc2.weight = theirs.channel.fc1.weight, theirs.channel.fc2.weight
    ours.spatial.weight = theirs.spatial.conv.conv.weight
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=1e-6)


def test_timms_layers_are_listed():
    assert {"timm:se", "timm:gc", "timm:nl", "timm:splat"} <= set(TIMM_NAMES)


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_every_listed_timm_layer_keeps_shape_and_state_on_all_maps(name):
    module = create_attention(name, 32).eval()
    assert create_attention(name, 32).training  # the probe leaves no trace
    state = object()
    for size in ((8, 8), (3, 7), (1, 1)):
        x = torch.randn(2, 32, *size)
        y, after = module(x, state)
        assert y.shape == x.shape and after is state and y.isfinite().all()
    x = torch.randn(2, 32, 4, 4, dtype=torch.bfloat16)
    assert module.bfloat16()(x)[0].dtype == torch.bfloat16


def test_the_probe_leaves_batchnorm_statistics_and_the_random_numbers_alone():
    torch.manual_seed(0)
    layer = timm_layers.create_attn("cbam", 8)
    expected = torch.rand(3)
    torch.manual_seed(0)
    module = create_attention("timm:cbam", 8)
    assert torch.equal(torch.rand(3), expected)
    for key, value in layer.state_dict().items():
        assert torch.equal(module.layer.state_dict()[key], value)


def test_a_timm_layer_can_be_built_without_memory_for_its_weights():
    with torch.device("meta"):
        assert next(create_attention("timm:gc", 8).parameters()).is_meta


def test_options_reach_timms_layer():
    assert create_attention("timm:se", 32, rd_channels=5).layer.fc1.out_channels == 5


BAD = {
    "unknown": ("timm:sse", {}, r"timm has no attention layer 'sse'\. Did you mean"),
    "empty": ("timm:", {}, "timm has no attention layer ''"),
    "unknown option": ("timm:se", {"rd_rato": 1}, r"'se' has no option 'rd_rato'\. Did you mean 'rd_ratio'"),
    "swallowed option": ("timm:ese", {"rd_ratio": 0.5}, "'ese' has no option 'rd_ratio'"),
    "missing option": ("timm:bottleneck", {}, "could not be built: AssertionError: A concrete feature size"),
    "fixed sizes only": ("timm:halo", {}, "fails on a map of 5x7: AssertionError"),
    "another shape": ("timm:sk", {"out_channels": 64}, r"turns the shape \(1, 32, 8, 8\) into \(1, 64, 8, 8\)"),
}


@pytest.mark.parametrize("name, keywords, message", BAD.values(), ids=BAD.keys())
def test_a_timm_layer_that_does_not_serve_is_refused_with_the_reason(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        create_attention(name, 32, **keywords)


def test_a_layer_for_one_size_of_map_serves_at_that_size():
    x = torch.randn(2, 32, 4, 6)
    assert create_attention("timm:bottleneck", 32, feat_size=(4, 6))(x)[0].shape == x.shape

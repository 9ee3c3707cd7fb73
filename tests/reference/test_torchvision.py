"""Our networks against torchvision's and timm's with the same weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from ean_lib.learning.measure import count_parameters
from ean_lib.networks import build_network


def with_random_statistics(net):
    """The network in eval mode, its BatchNorms no longer near the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1, generator=generator)
                module.bias.normal_(std=0.3, generator=generator)
    return net.eval()


def assert_same_outputs(ours, theirs):
    x = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(x)
        assert expected.abs().max() > 0.01
        assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_without_attention_the_network_is_torchvisions(name):
    theirs = with_random_statistics(getattr(torchvision.models, name)(weights=None))
    ours = build_network(name, num_classes=1000).eval()
    ours.load_backbone(theirs.state_dict())
    assert_same_outputs(ours, theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_imagenet_backbones_have_torchvisions_shapes(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        ours = build_network(name, num_classes=1000).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_org_full_se_resnet50_is_timms_seresnet50():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = with_random_statistics(timm.create_model("seresnet50"))
    ours = build_network("resnet50", "se", "none", num_classes=1000).eval()
    weights = {}
    for key, value in theirs.state_dict().items():
        stage, _, rest = key.partition(".")
        block, _, part = rest.partition(".se.")
        weights[f"{stage}.attention.{block}.{part}" if part else key] = value
    ours.load_state_dict(weights)
    assert count_parameters(ours) == count_parameters(theirs) == 28_114_584 - 26_560
    assert_same_outputs(ours, theirs)

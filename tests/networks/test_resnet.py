"""The forms of one network agree with each other, and with what they are made from."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from ean_lib.networks import BACKBONES, AttentionResNet, build_network
from ean_lib.networks.blocks import NarrowShortcut, shortcut_convolution
from ean_lib.schemes import Scheme

STAGES = (2, 1, 2)
ATTENTIONS = ["se", "sge", "dia", "eca", "cbam"]


def small(attention: str | None, share: str = "stage", **options) -> AttentionResNet:
    """A 5-block network with BatchNorm statistics and affine weights that are not the trivial ones."""
    net = build_network("resnet20", attention, share, width=8, stages=STAGES, seed=3, **options)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return net.eval()


def images(height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(2))


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def tie(org: AttentionResNet, share: AttentionResNet) -> None:
    """Copy the shared modules' weights into every block's own module, and the backbone's weights too."""
    org.load_state_dict({k: v for k, v in share.state_dict().items() if ".attention." not in k}, strict=False)
    for ours, theirs in zip(org.stage_modules(), share.stage_modules(), strict=True):
        for module in ours.attention.values():
            module.load_state_dict(theirs.attention.state_dict())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_org_with_tied_weights_equals_share(attention: str) -> None:
    org, share = small(attention, "none"), small(attention, "stage")
    tie(org, share)
    for scheme in ("11-1-11", "01-0-11"):
        with torch.no_grad():
            assert difference(org(images(), Scheme.parse(scheme)), share(images(), Scheme.parse(scheme))) <= 1e-5


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("share", ["stage", "none"])
def test_static_gated_pruned_and_fused_networks_agree_for_every_scheme(attention: str, share: str) -> None:
    net = small(attention, share)
    x = images(16, 24)
    with torch.no_grad():
        for scheme in itertools.islice(Scheme.all_of(STAGES), 0, None, 3):
            static = net(x, scheme)
            assert difference(static, net(x, scheme.as_tensor())) <= 1e-5
            assert difference(static, net.prune(scheme)(x)) <= 1e-5
            assert difference(static, net.prune(scheme).fuse()(x)) <= 1e-5
            assert difference(static, net(x, list(scheme.bits))) == 0


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_scheme_of_ones_is_share_full_and_scheme_of_zeros_is_the_backbone(attention: str) -> None:
    net, backbone = small(attention), small(None)
    backbone.load_state_dict(net.state_dict(), strict=False)
    with torch.no_grad():
        assert difference(net(images(), Scheme.full(STAGES)), net(images())) == 0
        assert difference(net(images(), Scheme.none(STAGES)), backbone(images())) == 0
        assert difference(net(images()), backbone(images())) > 1e-3  # the test can fail


def test_forms_of_one_seed_start_from_the_same_backbone() -> None:
    reference = build_network("resnet20", seed=5).state_dict()
    for attention, share in itertools.product(["se", "dia"], ["stage", "none"]):
        state = build_network("resnet20", attention, share, seed=5).state_dict()
        assert all(torch.equal(state[key], value) for key, value in reference.items())


def test_building_with_a_seed_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_network("resnet20", "se", seed=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("share", ["stage", "none"])
def test_every_parameter_has_one_key_and_sharing_makes_one_module_per_stage(share: str) -> None:
    net = build_network("resnet20", "se", share, seed=0)
    assert len(net.state_dict()) == len(list(net.parameters())) + len(list(net.buffers()))
    modules = {
        key.split(".attention.")[0] + key.split(".attention.")[1].split("fc")[0]
        for key in net.state_dict()
        if "attention" in key
    }
    assert len(modules) == (3 if share == "stage" else 9)


def test_an_off_block_leaves_dia_memory_as_it_was() -> None:
    """Switching a block off in a stage equals a stage whose later blocks never saw that block's gate."""
    net = small("dia", "none")
    with torch.no_grad():
        off = net(images(), Scheme.parse("01-0-00"))
        for parameter in net.layer1.attention["0"].parameters():
            parameter.add_(1.0)  # the module of the block that is off
        assert difference(off, net(images(), Scheme.parse("01-0-00"))) == 0
        on = net(images(), Scheme.parse("11-0-00"))
        for parameter in net.layer1.attention["0"].parameters():
            parameter.sub_(1.0)
        assert difference(on, net(images(), Scheme.parse("11-0-00"))) > 1e-5


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_tensor_gate_gives_every_parameter_a_gradient_and_the_static_scheme_the_same_one(attention: str) -> None:
    scheme = Scheme.parse("10-0-01")
    gated, static = small(attention).train(), small(attention).train()
    gated(images(), scheme.as_tensor()).square().sum().backward()
    static(images(), scheme).square().sum().backward()
    for (name, a), (_, b) in zip(gated.named_parameters(), static.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.allclose(a.grad, torch.zeros_like(a) if b.grad is None else b.grad, rtol=1e-4, atol=1e-5), name


def test_pruning_drops_unused_attention_and_keeps_the_network_it_came_from() -> None:
    net = small("se")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    pruned = net.prune("10-0-00")
    assert {key.split(".attention")[0] for key in pruned.state_dict() if "attention" in key} == {"layer1"}
    assert pruned.scheme == Scheme.parse("10-0-00")
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any("attention" in key for key in net.prune(Scheme.none(STAGES)).state_dict())


def test_fused_network_has_no_batchnorm() -> None:
    assert not any(isinstance(m, nn.BatchNorm2d) for m in small("se").fuse().modules())


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_its_stages_and_runs_on_its_images(name: str) -> None:
    net = build_network(name, "se", num_classes=7, seed=0).eval()
    assert net.stages == BACKBONES[name].stages
    if name in ("resnet20", "resnet18", "resnet50"):
        size = 32 if BACKBONES[name].family == "cifar" else 64
        with torch.no_grad():
            assert net(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_cifar_depths_count_their_weighted_layers() -> None:
    """ResNet-n has n weighted layers along the main path: the stem, the blocks' convolutions, the classifier."""
    for name, depth in {"resnet20": 20, "resnet56": 56, "resnet110": 110, "resnet164": 164}.items():
        net = build_network(name)
        convolutions = sum(isinstance(m, nn.Conv2d) for key, m in net.named_modules() if "downsample" not in key)
        assert convolutions + 1 == depth


def test_backbone_weights_load_and_attention_keeps_its_own() -> None:
    net, backbone = small("se"), small(None)
    own = net.layer1.attention.fc1.weight.clone()
    net.load_backbone(backbone.state_dict())
    assert torch.equal(net.layer1.attention.fc1.weight, own)
    with torch.no_grad():
        assert difference(net(images(), Scheme.none(STAGES)), backbone(images())) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_half_precision_networks_run_and_stay_near_single_precision(attention: str, dtype: torch.dtype) -> None:
    net = small(attention)
    with torch.no_grad():
        exact = net(images())
        half = net.to(dtype)(images().to(dtype))
    assert half.dtype == dtype
    assert difference(half.float(), exact) <= 0.05 * exact.abs().max().item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet21",), "unknown backbone 'resnet21'. Did you mean"),
        (("resnet20", "see"), "see"),
        (("resnet20", "se", "block"), "share must be 'stage'"),
        (("resnet20", "se", "stage", "110"), "(3, 3, 3)"),
        (("resnet20", None, "stage", "111-000-000"), "attention is None"),
        (("resnet20", "se", "stage", None, 0), "num_classes must be a whole number of at least 1, got 0"),
    ],
)
def test_building_from_bad_input_says_what_was_expected(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError) as error:
        build_network(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("options", [{"width": -1}, {"stem_stride": 0}, {"blocks": (2, 0)}, {"blocks": ()}])
def test_sizes_that_make_no_network_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        build_network("resnet20", **options)


def test_images_of_the_wrong_shape_and_schemes_without_module_are_named() -> None:
    net = small("se").prune("10-0-00")
    with pytest.raises(ValueError, match=r"the images' shape must be \(batch, 3, height, width\).* got \(3, 16, 16\)"):
        net(images()[0])
    with pytest.raises(ValueError, match="connects block 0 of stage 2, but the network has no attention module there"):
        net(images(), Scheme.full(STAGES))
    with pytest.raises(ValueError, match="stages"):
        net(images(), Scheme.parse("1-1"))


def test_foreign_backbone_weights_are_refused_and_nothing_is_loaded() -> None:
    net = small("se")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = small(None).state_dict()
    for broken in ({}, {**state, "head.bias": torch.zeros(1)}, {**state, "fc.weight": torch.zeros(2, 2)}):
        with pytest.raises(ValueError, match="the backbone's weights do not fit"):
            net.load_backbone(broken)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


NARROW_AND_LARGE = """
import torch
from ean_lib.networks import build_network
net = build_network("resnet18", "se", width=8, stages=(1, 1, 1, 1), seed=0).to(memory_format=torch.channels_last)
for _ in range(8):
    x = torch.randn(2, 3, 224, 224).to(memory_format=torch.channels_last)
    net(x).sum().backward()
    others = [torch.randn(50 * n) for n in range(1, 60)]
print("alive")
"""


def test_a_narrow_network_is_trained_on_large_images() -> None:
    """A shortcut's strided convolution wrote over foreign memory: "free(): invalid next size"."""
    environment = {"MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NARROW_AND_LARGE]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a_narrow_shortcut_computes_what_a_convolution_does() -> None:
    narrow = shortcut_convolution(8, 16, 2).double()
    assert type(narrow) is NarrowShortcut and type(shortcut_convolution(16, 32, 2)) is nn.Conv2d
    plain = nn.Conv2d(8, 16, 1, 2, bias=False).double()
    plain.load_state_dict(narrow.state_dict())
    results = []
    for convolution in (narrow, plain):
        x = torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
        y = convolution(x)
        y.square().sum().backward()
        results.append((y, x.grad, convolution.weight.grad))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs)

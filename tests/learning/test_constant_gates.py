"""The control that replaces each gate by its mean."""

from __future__ import annotations

import pytest
import torch

from ean_lib.learning import evaluate, fold_constant_gates, gate_moments
from ean_lib.learning.constant_gates import last_batchnorm
from ean_lib.networks import AttentionResNet, build_network, plug
from ean_lib.schemes import Scheme
from tests.tiny import STAGES, tiny_data, tiny_net

DATA = tiny_data()
SCHEMES = ["11-11-1", "10-01-0", "01-00-1"]


def with_constant_gates(attention: str) -> AttentionResNet:
    """A network whose gates are not 1/2, differ between channels and blocks, and are the same for all pictures."""
    net = tiny_net(attention)
    with torch.no_grad():
        for stage in net.stage_modules():
            module = stage.attention
            if attention == "se":
                module.fc2.weight.zero_()
            elif attention == "sge":
                module.weight.zero_()
            else:
                module.ih[2].weight.zero_()
                module.hh[2].weight.zero_()
    return net


def images() -> torch.Tensor:
    return next(DATA.test.batches(20))[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("attention", ["se", "dia", "sge"])
def test_folding_is_exact_where_gates_are_constant(attention: str, scheme: str) -> None:
    net = with_constant_gates(attention).eval()
    folded = fold_constant_gates(net, DATA.train, scheme)
    with torch.no_grad():
        expected, plain = net(images(), scheme), net(images(), "00-00-0")
        torch.testing.assert_close(folded(images()), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2), "the gates do something"


def test_a_folded_network_is_the_plain_backbone_and_fuses() -> None:
    net = tiny_net("se")
    folded = fold_constant_gates(net, DATA.train, "11-01-1")
    backbone = build_network("resnet20", None, num_classes=4, width=8, blocks=STAGES)
    assert folded.state_dict().keys() == backbone.state_dict().keys()
    torch.testing.assert_close(folded.fuse()(images()), folded(images()), atol=1e-3, rtol=1e-3)


def test_the_network_itself_keeps_its_weights_and_mode() -> None:
    net = tiny_net("se").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fold_constant_gates(net, DATA.train)
    assert net.training and all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("attention", ["se", "dia", "eca"])
def test_the_mean_gate_is_the_mean_over_pictures_of_what_the_module_multiplies_with(attention: str) -> None:
    net = tiny_net(attention).eval()
    if attention == "se":
        for stage in net.stage_modules():
            torch.nn.init.constant_(stage.attention.fc1.bias, 3.0)  # its only unit is not to be dead
    moments = gate_moments(net, DATA.train, "10-11-0", batch_size=7)
    assert [(m.stage, m.block) for m in moments] == [(1, 0), (2, 0), (2, 1)]
    ratios: list[torch.Tensor] = []

    def divide(_module, inputs, output) -> None:
        ratio = output[0].double() / inputs[0].double()
        ratios.append(ratio.flatten(2).nanmedian(2).values)

    hooks = [stage.attention.register_forward_hook(divide) for stage in net.stage_modules()]
    x, _ = next(DATA.train.batches(60))
    with torch.no_grad():
        net(x, "10-11-0")
    for hook in hooks:
        hook.remove()
    for moment, ratio in zip(moments, ratios, strict=True):
        torch.testing.assert_close(moment.mean, ratio.mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(moment.std, ratio.std(0), atol=1e-4, rtol=1e-3)
    assert max(moment.std.max() for moment in moments) > 0.01


def test_a_spatial_gate_is_averaged_over_positions_and_shared_by_its_group() -> None:
    net = tiny_net("sge").eval()
    moment = gate_moments(net, DATA.train, "10-00-0")[0]
    x, _ = next(DATA.train.batches(60))
    with torch.no_grad():
        y = net.stage_modules()[0].blocks[0].branch(net.stem(x))
        gate = net.stage_modules()[0].attention.gate(y)
    expected = gate.double().mean((0, 2, 3)).repeat_interleave(8 // gate.shape[1])
    torch.testing.assert_close(moment.mean, expected, atol=1e-6, rtol=1e-5)


def test_org_networks_fold_each_blocks_own_module() -> None:
    net = build_network("resnet20", "se", "none", num_classes=4, width=8, blocks=STAGES, seed=0).eval()
    with torch.no_grad():
        for _, block, module in net.connections():
            module.fc2.weight.zero_()
            module.fc2.bias.fill_(float(block))
    folded = fold_constant_gates(net, DATA.train)
    torch.testing.assert_close(folded(images()), net(images()), atol=1e-4, rtol=1e-4)


def test_a_pruned_network_folds_like_the_unpruned_one() -> None:
    net, scheme = tiny_net("se"), "01-10-0"
    pruned = fold_constant_gates(net.prune(scheme), DATA.train)
    assert evaluate(pruned, DATA.test) == evaluate(fold_constant_gates(net, DATA.train, scheme), DATA.test)


def test_what_has_no_mean_gate_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="no block is connected"):
        gate_moments(tiny_net("se"), DATA.train, Scheme.none(STAGES))
    with pytest.raises(ValueError, match="CBAM is not one gate that is multiplied with the map"):
        fold_constant_gates(tiny_net("cbam"), DATA.train)
    with pytest.raises(ValueError, match="at least 2 pictures, got 1"):
        gate_moments(tiny_net("se"), DATA.train, pictures=1)
    with pytest.raises(ValueError, match=r"BasicBlock has none: .* before fuse\(\)"):
        fold_constant_gates(tiny_net("se").fuse(), DATA.train)
    with pytest.raises(ValueError, match="Conv2d has none: it must be a network of torchvision's residual blocks"):
        last_batchnorm(torch.nn.Conv2d(3, 3, 1))


def test_attention_that_was_plugged_into_a_network_folds_too() -> None:
    plugged = plug(tiny_net("se").prune(Scheme.none(STAGES)), "se", example=images()).eval()
    with torch.no_grad():
        for _, _, module in plugged.connections():
            module.fc2.weight.zero_()
            module.fc2.bias.copy_(torch.linspace(-1, 1, len(module.fc2.bias)))
        folded = fold_constant_gates(plugged, DATA.train)
        torch.testing.assert_close(folded(images()), plugged(images()), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(folded(images()), plugged(images(), Scheme.none(plugged.stages)), atol=1e-2)


def test_hooks_are_gone_after_an_error() -> None:
    net = tiny_net("se")
    net.fc = torch.nn.Linear(3, 4)
    with pytest.raises(RuntimeError):
        gate_moments(net, DATA.train)
    assert not any(module._forward_hooks for module in net.modules())

"""Whatever fulfils the contract can be trained, scored, pruned, measured, looked into and explored."""

from __future__ import annotations

import copy

import pytest
import torch
from handwritten import STAGES, PreNet, Tangle, handwritten
from tiny import tiny_data, tiny_net
from torch import nn

from ean_lib.learning import TrainConfig, evaluate, grad_cam, measure, train
from ean_lib.learning.gradcam import attention_gates
from ean_lib.networks import (
    AttentionResNet,
    ChainNetwork,
    Network,
    as_chain,
    attention_modules,
    check_scheme,
    network_dtype,
    reestimate_batchnorm,
)
from ean_lib.schemes import Scheme
from ean_lib.supernet import OneByOne, PrefixWalk, Scorer
from ean_lib.widgets import SchemeExplorer

KINDS = [Tangle, PreNet]
SCHEMES = list(Scheme.all_of(STAGES))


def test_an_attention_resnet_is_a_network_and_a_chain() -> None:
    net = tiny_net()
    assert isinstance(net, Network) and isinstance(net, ChainNetwork) and as_chain(net) is not None
    assert not isinstance(nn.Linear(2, 2), Network)


def test_a_network_with_stem_and_head_is_a_chain_only_where_its_blocks_come_apart() -> None:
    assert isinstance(Tangle(), ChainNetwork) and as_chain(Tangle()) is None
    assert as_chain(PreNet()) is not None and not isinstance(PreNet(), AttentionResNet)


@pytest.mark.parametrize("attention", ["se", "dia"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_each_scheme_alone(kind: type[nn.Module], attention: str) -> None:
    net, data = handwritten(kind, attention), tiny_data()
    scores = Scorer(net, data, batch_size=25)(SCHEMES)
    assert scores == [evaluate(net, data.val, scheme, batch_size=25) for scheme in SCHEMES]
    assert len(set(scores)) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_recalibrated_scores_are_those_of_each_scheme_measured_alone(kind: type[nn.Module]) -> None:
    net, data = handwritten(kind), tiny_data()
    images = next(data.train.batches(40, generator=torch.Generator().manual_seed(0)))[0]
    alone = []
    for scheme in SCHEMES:
        own = copy.deepcopy(net)
        reestimate_batchnorm(own, images, scheme)
        alone.append(evaluate(own, data.val, scheme, batch_size=25))
    assert Scorer(net, data, batch_size=25, recalibrate=40)(SCHEMES) == alone
    assert alone != Scorer(net, data, batch_size=25)(SCHEMES)


def test_a_chain_is_given_the_same_scores_walked_and_scheme_by_scheme() -> None:
    """Also where the head has a BatchNorm, whose statistics depend on all bits."""
    for net in (handwritten(PreNet), tiny_net().eval()):
        schemes = list(Scheme.all_of(net.stages))[::2]
        x = next(tiny_data().train.batches(20))[0]
        with torch.no_grad():
            walks = PrefixWalk(net, schemes), OneByOne(net, schemes)
            for walk in walks:
                walk.calibrate(x[:10])
            walked, alone = (dict(walk(x)) for walk in walks)
        for scheme in schemes:
            torch.testing.assert_close(walked[scheme], alone[scheme], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_handwritten_network_is_trained(kind: type[nn.Module]) -> None:
    net = handwritten(kind)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    (record,) = train(net, tiny_data(), TrainConfig(epochs=1, batch_size=20), device="cpu", progress=False)
    assert record["loss"] > 0
    changed = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert any(name.startswith("attention.") for name in changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_handwritten_network_is_pruned_and_measured(kind: type[nn.Module]) -> None:
    net = handwritten(kind)
    pruned = net.prune("10-00")
    assert len(attention_modules(net)) == 2 and len(attention_modules(pruned)) == 1
    costs = measure({"sparse": pruned, "full": net}, net.prune("00-00"), (2, 3, 16, 16), device="cpu", rounds=2)
    per_stage = sum(parameter.numel() for parameter in net.attention[0].parameters())
    assert (costs["sparse"].extra_parameters, costs["full"].extra_parameters) == (per_stage, 2 * per_stage)
    assert 0 < costs["sparse"].extra_macs < costs["full"].extra_macs


@pytest.mark.parametrize("kind", KINDS)
def test_grad_cam_of_a_handwritten_network_looks_at_its_last_block(kind: type[nn.Module]) -> None:
    net = handwritten(kind)
    x = next(tiny_data().test.batches(3))[0]
    maps = grad_cam(net, x)
    assert torch.equal(maps, grad_cam(net, x, layer=net.block_modules()[-1])) and maps.amax() == 1
    gates = attention_gates(net, x, "10-01")
    assert {place: tuple(gate.shape) for place, gate in gates.items()} == {(1, 0): (3, 8), (2, 1): (3, 8)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_explorer_scores_a_handwritten_network(kind: type[nn.Module]) -> None:
    net, data = handwritten(kind), tiny_data()
    explorer = SchemeExplorer(net=net, data=data)
    explorer.asked = {"scheme": "01-00"}
    answer = explorer.answers["01-00"]
    assert answer["supernet"] == evaluate(net, data.val, Scheme.parse("01-00"))
    assert answer["extra_parameters"] == sum(parameter.numel() for parameter in net.attention[0].parameters())


def test_a_scheme_is_checked_against_what_the_network_has() -> None:
    net = handwritten(Tangle).prune("10-00")
    assert check_scheme(net, None) == Scheme.parse("10-00")
    bits = torch.tensor([True, False, False, False])
    assert check_scheme(handwritten(Tangle), bits) is bits
    for scheme in ("10-01", bits):  # a tensor's bits may change: every block needs its module
        with pytest.raises(ValueError, match=r"connects block \d of stage 2, but the network has no attention module"):
            check_scheme(net, scheme)
    with pytest.raises(ValueError, match="stages"):
        check_scheme(net, "1-1")


def test_the_type_of_a_network_is_that_of_its_weights() -> None:
    assert network_dtype(tiny_net()) == torch.float32
    assert network_dtype(tiny_net().double()) == torch.float64
    assert network_dtype(nn.ReLU()) == torch.get_default_dtype()

"""Grad-CAM on networks small enough to compute by hand, what it leaves behind, and the scores of its maps."""

from __future__ import annotations

import copy
import gc
import re

import pytest
import torch
from tiny import tiny_net
from torch import nn

from ean_lib import build_network, grad_cam
from ean_lib.learning.gradcam import (
    attention_gates,
    deletion_insertion,
    edge_map,
    energy_inside,
    pointing_game,
    random_maps,
    randomised_copy,
)
from ean_lib.schemes import Scheme

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture
def x():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    return tiny_net("se").eval()


class ByHand(nn.Module):
    """The image is the activation A, (B, 2, 2, 2); class 0 scores 4 A_0[0, 0] - 8 A_1[1, 1], class 1 minus that."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        a = self.layer(x)
        score = 4 * a[:, 0, 0, 0] - 8 * a[:, 1, 1, 1]
        return torch.stack([score, -score], dim=1)


def test_a_map_of_2x2_equals_the_one_computed_by_hand():
    a = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 2], [1, 0]]]])
    # w = (4/4, -8/4) = (1, -2);  A_0 - 2 A_1 = [[1, -2], [1, 4]];  after the ReLU [[1, 0], [1, 4]]
    assert grad_cam(ByHand(), a, [0], "layer", normalize=False).tolist() == [[[1, 0], [1, 4]]]
    assert grad_cam(ByHand(), a, [0], "layer").tolist() == [[[0.25, 0], [0.25, 1]]]
    # class 1 has the opposite weights
    assert grad_cam(ByHand(), a, [1], "layer", normalize=False).tolist() == [[[0, 2], [0, 0]]]


def test_the_default_layer_is_the_last_block(net, x):
    block = net.layer3.blocks[-1]
    maps = grad_cam(net, x)
    assert maps.shape == (3, 16, 16) and maps.amin() == 0 and maps.amax() == 1
    assert torch.equal(maps, grad_cam(net, x, layer=block))
    assert torch.equal(maps, grad_cam(net, x, layer="layer3.0"))


def test_targets_are_indices_one_index_a_function_or_the_preferred_class(net, x):
    best = net(x).argmax(1)
    maps = grad_cam(net, x)
    for targets in (best, best.tolist(), best.int(), lambda scores: scores.amax(1)):
        assert torch.equal(maps, grad_cam(net, x, targets))
    assert torch.equal(grad_cam(net, x, [2, 2, 2]), grad_cam(net, x, 2))
    # the map's linear part is linear in the score, so a difference of classes is a target too
    contrast = grad_cam(net, x, lambda s: s[:, 0] - s[:, 1])
    assert contrast.isfinite().all() and not torch.equal(contrast, grad_cam(net, x, 0))


def test_a_batch_equals_its_images_one_by_one(net, x):
    targets = [0, 3, 1]
    single = [grad_cam(net, x[i : i + 1], targets[i : i + 1], normalize=False) for i in range(3)]
    torch.testing.assert_close(grad_cam(net, x, targets, normalize=False), torch.cat(single), rtol=0, atol=1e-6)


def test_a_scheme_gives_the_map_of_its_pruned_network(net, x):
    scheme = Scheme.parse("10-01-0", net.stages)
    expected = grad_cam(net.prune(scheme), x, normalize=False)
    torch.testing.assert_close(grad_cam(net, x, scheme=scheme, normalize=False), expected)
    torch.testing.assert_close(grad_cam(net, x, scheme=scheme.as_tensor(), normalize=False), expected)
    assert not torch.allclose(grad_cam(net, x, normalize=False), expected)


def one_module_per_block(net, attention):
    """The same function as a shared network, but each call of a shared module is that of a module of its own."""
    org = build_network("resnet20", attention, "none", num_classes=4, width=8, blocks=net.stages)
    org.load_backbone({key: value for key, value in net.state_dict().items() if ".attention." not in key})
    for own, shared in zip(org.stage_modules(), net.stage_modules(), strict=True):
        for module in own.attention.values():
            module.load_state_dict(shared.attention.state_dict())
    return org.eval()


@pytest.mark.parametrize("attention", ["se", "dia", "sge"])
def test_each_call_of_a_shared_module_has_the_map_of_a_module_of_its_own(attention, x):
    shared = tiny_net(attention).eval()
    org = one_module_per_block(shared, attention)
    torch.testing.assert_close(org(x), shared(x))
    maps = []
    for call in range(2):
        maps.append(grad_cam(shared, x, 1, "layer1.attention", call_index=call, normalize=False))
        expected = grad_cam(org, x, 1, f"layer1.attention.{call}", normalize=False)
        torch.testing.assert_close(maps[-1], expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(*maps)
    assert torch.equal(grad_cam(shared, x, 1, "layer1.attention", call_index=-1, normalize=False), maps[1])


def test_a_module_that_the_scheme_calls_once_needs_no_call_index(net, x):
    scheme = Scheme.parse("01-00-0", net.stages)
    maps = grad_cam(net, x, layer=net.layer1.attention, scheme=scheme)
    assert torch.equal(maps, grad_cam(net, x, layer=net.layer1.attention, scheme=scheme, call_index=0))


class InPlace(nn.Module):
    """A residual block whose operations after `conv` are in place, or not."""

    def __init__(self, in_place):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.fc, self.in_place = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2), in_place
            self.shortcut = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(in_place)

    def forward(self, x):
        y, shortcut = self.conv(x), self.shortcut(x)
        if self.in_place:
            y += shortcut
        else:
            y = y + shortcut
        return self.fc(self.relu(y).mean((2, 3)))


@pytest.mark.parametrize("layer", ["conv", "relu"])
@pytest.mark.parametrize("frozen", [False, True])
def test_in_place_operations_do_not_change_the_map(layer, frozen, x):
    plain, in_place = InPlace(False).requires_grad_(not frozen), InPlace(True).requires_grad_(not frozen)
    in_place.load_state_dict(plain.state_dict())
    expected = grad_cam(plain, x, 0, layer, normalize=False)
    assert expected.any() and torch.equal(grad_cam(in_place, x, 0, layer, normalize=False), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_callers_grad_mode_and_frozen_parameters_do_not_matter(mode, frozen, net, x):
    net.requires_grad_(not frozen)
    for layer in (None, "conv1"):
        expected = grad_cam(net, x, 1, layer)
        with mode():
            grad = torch.is_grad_enabled()
            maps = grad_cam(net, x + 0, 1, layer)  # in inference mode, x + 0 is an inference tensor
            assert torch.is_grad_enabled() == grad
        assert torch.equal(maps, expected) and not maps.requires_grad and not maps.is_inference()


@pytest.mark.parametrize("device", DEVICES)
def test_half_and_double_precision_give_the_same_map(device, net, x):
    net, x = net.to(device), x.to(device)
    expected = grad_cam(net, x, 1)
    double = grad_cam(net.double(), x.double(), 1)
    assert double.dtype == torch.float64 and double.device == expected.device
    torch.testing.assert_close(double.float(), expected, rtol=0, atol=1e-4)
    half = grad_cam(net.bfloat16(), x.bfloat16(), 1)
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert (half - expected).abs().mean() < 0.05
    with torch.autocast(device, torch.bfloat16):
        assert (grad_cam(net.float(), x, 1) - expected).abs().mean() < 0.05


def traces(net):
    """Everything that a call could leave in a network, its tensors copied."""
    state = {name: value.clone() for name, value in net.state_dict().items()}
    flags = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    gradients = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in net.parameters()]
    return state, flags, gradients


def assert_no_trace(net, before):
    after = traces(net)
    assert after[1] == before[1]
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    torch.testing.assert_close(after[2], before[2], rtol=0, atol=0)


def test_the_network_and_the_images_are_left_as_they_were(net, x):
    net.train()
    net.layer2.eval()
    net.fc.weight.requires_grad_(False)
    net(x).sum().backward()
    net.conv1.weight.grad = None
    before, given = traces(net), x.clone().requires_grad_()
    maps = grad_cam(net, given, 1)
    assert_no_trace(net, before)
    assert torch.equal(given, x) and given.requires_grad and given.grad is None
    torch.testing.assert_close(maps, grad_cam(copy.deepcopy(net).eval(), x, 1), rtol=0, atol=0)
    attention_gates(net, x)
    deletion_insertion(net, x, maps, steps=2)
    assert_no_trace(net, before)


def test_no_hook_and_no_mode_is_left_after_an_error_in_the_forward_pass(net, x):
    def fail(*_):
        raise RuntimeError("broken head")

    net.train()
    net.fc.forward = fail
    before = traces(net)
    for call in (lambda: grad_cam(net, x, 1), lambda: attention_gates(net, x)):
        with torch.no_grad(), pytest.raises(RuntimeError, match="broken head"):
            call()
        assert_no_trace(net, before)
        assert torch.is_grad_enabled()
    with torch.no_grad():
        with pytest.raises(RuntimeError):
            grad_cam(net, x, 1)
        assert not torch.is_grad_enabled()


def test_memory_does_not_grow_over_200_calls():
    net, x = InPlace(True), torch.randn(2, 3, 4, 4)

    def tensors():
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    grad_cam(net, x, 1, "conv")
    gc.collect()
    before = tensors()
    gc.disable()  # nothing may need the collector: cycles would pile up on a GPU
    try:
        for _ in range(200):
            grad_cam(net, x, 1, "conv")
        assert tensors() == before
    finally:
        gc.enable()
    assert not net.conv._forward_hooks


def test_nothing_before_the_layer_is_kept_for_the_backward_pass(net, x):
    def saved(layer):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            grad_cam(net, x, 1, layer)
        return len(kept)

    assert saved(None) < 10 < saved("conv1")


def test_a_map_without_differences_is_zero(x):
    net = ByHand()
    flat = torch.ones(2, 2, 5, 5)  # every position the same, so there is nothing to see
    assert torch.equal(grad_cam(net, flat, 0, "layer"), torch.zeros(2, 5, 5))
    dead = grad_cam(net, -flat.abs(), [0, 0], "layer", normalize=False)
    assert dead.isfinite().all()
    small = build_network("resnet20", num_classes=4, width=8, blocks=(1, 1, 1), seed=0).eval()
    assert torch.equal(grad_cam(small, torch.rand(2, 3, 4, 4)), torch.zeros(2, 4, 4))  # the last map is 1x1


class Foreign(nn.Module):
    """Layers and outputs that make no map."""

    def __init__(self):
        super().__init__()
        self.conv, self.flat, self.unused, self.late = (nn.Identity() for _ in range(4))

    def forward(self, x):
        scores = self.flat(self.conv(x).mean((2, 3)))
        self.late(x)
        return scores


ERRORS = {
    "one image without batch": (dict(x=torch.rand(3, 8, 8)), r"images' shape must be \(batch, .*\), got \(3, 8, 8\)"),
    "too few targets": (dict(targets=[0]), r"one class index per image, \(2,\), not torch.int64 \(1,\)"),
    "too many targets": (dict(targets=[0, 1, 2]), r"one class index per image, \(2,\), not torch.int64 \(3,\)"),
    "targets that are scores": (dict(targets=torch.rand(2)), r"one class index per image.*float32 \(2,\)"),
    "bool targets": (dict(targets=[True, False]), "one class index per image.*bool"),
    "a class too high": (dict(targets=[0, 3]), r"must be in 0..2, got \[0, 3\]"),
    "a negative class": (dict(targets=[-1, 0]), r"must be in 0..2, got \[-1, 0\]"),
    "a function that sums": (dict(targets=lambda s: s.sum()), r"return one value per image, \(2,\).*float32 \(\)"),
    "a function without tensor": (dict(targets=lambda s: 1.0), "return one value per image.* float$"),
    "no layer": (dict(layer=None), "which layer of the Foreign"),
    "an unknown name": (dict(layer="convv"), r"no such layer \(convv\)"),
    "a foreign module": (dict(layer=nn.ReLU()), r"no such layer \(ReLU\)"),
    "an index for a layer": (dict(layer=3), r"no such layer \(int\)"),
    "a flat layer": (dict(layer="flat"), r"needs an output \(2, channels, height, width\), the layer's is .*\(2, 3\)"),
    "a layer never called": (dict(layer="unused"), "was not called in the forward pass"),
    "a layer without influence": (dict(layer="late"), "do not depend on the layer's output"),
    "a call that is not": (dict(call_index=1), "called 1 times"),
    "a call before the first": (dict(call_index=-2), "called 1 times"),
}


@pytest.mark.parametrize("wrong, message", ERRORS.values(), ids=ERRORS.keys())
def test_what_makes_no_map_is_refused_with_the_reason(wrong, message):
    net = Foreign().train()
    with pytest.raises(ValueError, match=message):
        grad_cam(net, **(dict(x=torch.rand(2, 3, 8, 8), layer="conv") | wrong))
    assert net.training and not any(module._forward_hooks for module in net.modules())


def test_a_module_called_twice_asks_for_the_call_and_says_how_many(net, x):
    with pytest.raises(ValueError, match=re.escape("called 2 times") + ".*call_index=0 to 1"):
        grad_cam(net, x, layer="layer1.attention")
    with pytest.raises(ValueError, match="called 2 times"):
        grad_cam(net, x, layer="layer1.attention", call_index=2)
    with pytest.raises(ValueError, match=r"not called.*does not connect"):
        grad_cam(net, x, layer="layer1.attention", scheme=Scheme.none(net.stages))


def test_a_network_that_gives_no_scores_takes_a_function():
    class Two(ByHand):
        def forward(self, x):
            return super().forward(x), "more"

    a = torch.rand(2, 2, 2, 2)
    with pytest.raises(ValueError, match=r"the network gives tuple, not \(2, classes\); give a function"):
        grad_cam(Two(), a, layer="layer")
    maps = grad_cam(Two(), a, lambda output: output[0][:, 1], "layer")
    assert torch.equal(maps, grad_cam(ByHand(), a, 1, "layer"))


def test_the_pointing_game_looks_at_the_highest_point():
    maps = torch.tensor([[[0.0, 1], [0, 0]], [[0, 0.5], [1, 0]], [[0, 0], [0, 0]]])
    masks = torch.tensor([[[0, 1], [0, 0]], [[0, 1], [0, 0]], [[1, 1], [1, 1]]]).bool()
    assert pointing_game(maps, masks).tolist() == [True, False, False]


def test_energy_is_the_fraction_of_the_sum_inside_the_mask():
    maps = torch.tensor([[[1.0, 2], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [3, 0]]])
    masks = torch.tensor([[[1, 0], [0, 1]], [[1, 1], [1, 1]], [[0, 0], [1, 0]]]).bool()
    assert energy_inside(maps, masks).tolist() == [0.5, 0, 1]


@pytest.mark.parametrize("score", [pointing_game, energy_inside])
def test_maps_and_masks_must_fit(score):
    for masks in (torch.ones(2, 4, 5).bool(), torch.ones(1, 4, 4).bool(), torch.ones(2, 4, 4)):
        with pytest.raises(ValueError, match="bool masks like them"):
            score(torch.rand(2, 4, 4), masks)


class Brightness(nn.Module):
    """Class 1 scores the sum of the pixels of the left half; the rest does not count."""

    def forward(self, x):
        score = x[:, :, :, : x.shape[3] // 2].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(score), 10 * score], dim=1)


def test_deletion_falls_and_insertion_rises_sooner_with_the_right_map():
    net, size = Brightness(), 8
    x = torch.zeros(2, 3, size, size)
    x[:, :, 2:6, :3] = 1  # bright where it counts
    right = x[:, 0]
    curves = {name: deletion_insertion(net, x, maps, 1, steps=4) for name, maps in
              {"right": right, "wrong": 1 - right}.items()}  # fmt: skip
    for curve in curves.values():
        assert curve.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert curve.deletion.shape == curve.insertion.shape == (2, 5)
        full = net(x).softmax(1)[:, 1]
        torch.testing.assert_close(curve.deletion[:, 0], full)
        torch.testing.assert_close(curve.insertion[:, -1], full)
        torch.testing.assert_close(curve.deletion[:, -1], curve.insertion[:, 0])  # nothing but the blur
    assert (curves["right"].deletion_auc < curves["wrong"].deletion_auc).all()
    assert (curves["right"].insertion_auc > curves["wrong"].insertion_auc).all()
    by_hand = (curves["right"].deletion[0, :-1] + curves["right"].deletion[0, 1:]).sum() / 8
    torch.testing.assert_close(curves["right"].deletion_auc[0], by_hand)


def test_deletion_takes_the_preferred_class_and_a_scheme(net, x):
    maps = grad_cam(net, x)
    best = net(x).argmax(1)
    ours, given = deletion_insertion(net, x, maps, steps=3), deletion_insertion(net, x, maps, best, steps=3)
    assert torch.equal(ours.deletion, given.deletion)
    none = deletion_insertion(net, x, maps, best, scheme=Scheme.none(net.stages), steps=3)
    assert not torch.allclose(none.deletion, given.deletion)


@pytest.mark.parametrize("wrong", [dict(maps=torch.rand(3, 8, 8)), dict(targets=lambda s: s[:, 0]), dict(steps=0)])
def test_deletion_refuses_what_does_not_fit(wrong, net, x):
    with pytest.raises(ValueError, match="expected maps like images"):
        deletion_insertion(net, **(dict(x=x, maps=torch.rand(3, 16, 16)) | wrong))


def test_the_edge_map_is_bright_at_an_edge_and_nowhere_else():
    x = torch.zeros(1, 3, 5, 6)
    x[..., 3:] = 1
    assert torch.equal(edge_map(x)[0], torch.tensor([[0.0, 0, 1, 1, 0, 0]] * 5))


def test_random_maps_come_from_their_generator():
    first, again, other = (random_maps(2, (8, 6), (3, 2), torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert first.shape == (2, 8, 6) and torch.equal(first, again) and not torch.equal(first, other)
    assert first.amin() == 0 and first.amax() == 1


def test_a_randomised_copy_has_the_same_numbers_in_another_order(net, x):
    before = {name: p.clone() for name, p in net.named_parameters()}
    shuffled = randomised_copy(net, torch.Generator().manual_seed(0))
    for name, parameter in shuffled.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        assert torch.equal(net.get_parameter(name), before[name])
    assert not torch.allclose(shuffled(x), net(x))


@pytest.mark.parametrize(
    "attention, shape", [("se", (3, 8)), ("dia", (3, 8)), ("eca", (3, 8)), ("sge", (3, 2, 16, 16))]
)
def test_gates_are_what_the_modules_multiply_with(attention, shape, x):
    net = tiny_net(attention).eval()
    scheme = Scheme.parse("11-01-0", net.stages)
    calls = []
    handles = [
        stage.attention.register_forward_hook(lambda _m, inputs, output: calls.append((inputs[0], output[0])))
        for stage in net.stage_modules()
    ]
    gates = attention_gates(net, x, scheme)
    for handle in handles:
        handle.remove()
    assert list(gates) == [(1, 0), (1, 1), (2, 1)] and gates[1, 0].shape == shape
    for gate, (before, after) in zip(gates.values(), calls, strict=True):
        assert gate.min() > 0 and gate.max() < 1 and not gate.requires_grad
        gate = gate[:, :, None, None] if gate.dim() == 2 else gate.repeat_interleave(4, dim=1)
        torch.testing.assert_close(before * gate, after)


def test_gates_of_all_blocks_are_the_default_and_cbam_has_none(net, x):
    assert list(attention_gates(net, x)) == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    assert attention_gates(net, x, Scheme.none(net.stages)) == {}
    with pytest.raises(ValueError, match="CBAM has no single gate"):
        attention_gates(tiny_net("cbam"), x)


def test_no_pictures_whole_numbers_and_weights_that_are_not_finite_make_no_map(net, x):
    for use in (grad_cam, attention_gates, lambda net, x: deletion_insertion(net, x, torch.zeros(len(x), 16, 16))):
        with pytest.raises(ValueError, match="the number of images must be at least one, got 0"):
            use(net, x[:0])
        with pytest.raises(ValueError, match=r"floating-point numbers, normalised as for training, got torch\.uint8"):
            use(net, x.to(torch.uint8))
    with torch.no_grad():
        net.layer3.blocks[-1].conv1.weight[0] = float("nan")
    with pytest.raises(ValueError, match="the map holds NaN or infinite values"):
        grad_cam(net, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_get_the_type_of_the_network(net, x, dtype):
    net.to(dtype)
    assert grad_cam(net, x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert attention_gates(net, x).keys() == attention_gates(net, x.to(dtype)).keys()
    assert deletion_insertion(net, x, grad_cam(net, x), steps=2).deletion.shape == (3, 3)


def test_images_on_another_device_than_the_network_are_refused(net, x):
    with pytest.raises(ValueError, match="the images are on meta, the network is on cpu: move one of them"):
        grad_cam(net, x.to("meta"))

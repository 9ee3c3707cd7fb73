"""Our maps against captum's and pytorch-grad-cam's, and the cases in which one of them is wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

LayerGradCam = pytest.importorskip("captum.attr").LayerGradCam
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")

from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

from ean_lib import build_network, grad_cam  # noqa: E402
from ean_lib.schemes import Scheme  # noqa: E402

CLASSES = 5
TARGETS = [3, 0, 4]
SIZES = [(48, 48), (40, 72), (65, 33)]


def randomised(net):
    """Weights and BatchNorm statistics that differ between channels, so that maps have some of everything."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    nn.init.normal_(net.fc.weight, 0, 1, generator=generator)
    return net.eval()


def resnet18():
    torch.manual_seed(0)  # a rare draw has a map of so few differences that stretching it shows the rounding
    return torchvision.models.resnet18(weights=None, num_classes=CLASSES)


def cifar_network():
    return build_network("resnet20", num_classes=CLASSES, blocks=(2, 1, 1), seed=0)


def ean_network():
    return build_network("resnet20", "se", scheme="10-01", num_classes=CLASSES, blocks=(2, 2), seed=0).prune()


# network, layer and what is special about it
CASES = {
    "resnet18, last block": (resnet18, "layer4.1"),
    "resnet18, a whole stage": (resnet18, "layer2"),
    "resnet18, a convolution": (resnet18, "layer3.1.conv1"),
    "cifar, last block": (cifar_network, "layer3.0"),
    "cifar, a convolution of a shortcut": (cifar_network, "layer2.0.downsample.0"),
    "ean, last block": (ean_network, "layer2.1"),
    "ean, first stage": (ean_network, "layer1"),
}
every_case = pytest.mark.parametrize("make, layer", CASES.values(), ids=CASES.keys())
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))


def images(size, count=3):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def by_captum(net, x, layer, targets=TARGETS, **keywords):
    """Raw maps at the images' size."""
    cam = LayerGradCam(net, net.get_submodule(layer))
    maps = cam.attribute(x, targets, relu_attributions=True, **keywords).detach()
    return F.interpolate(maps, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def by_pytorch_grad_cam(net, x, layer, targets=TARGETS):
    """Maps that are stretched to 0..1."""
    with pytorch_grad_cam.GradCAM(net, [net.get_submodule(layer)]) as cam:
        return torch.from_numpy(cam(x, [ClassifierOutputTarget(t) for t in targets]))


def assert_equals_captum(ours, theirs):
    assert ours.amax() > 0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=min(1e-6, 1e-4 * ours.amax().item()))


def assert_equals_pytorch_grad_cam(ours, theirs):
    assert ours.amax() > 0.99
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@every_size
@every_case
def test_maps_of_a_batch_equal_both_references(make, layer, size):
    net, x = randomised(make()), images(size)
    assert_equals_captum(grad_cam(net, x, TARGETS, layer, normalize=False), by_captum(net, x, layer))
    assert_equals_pytorch_grad_cam(grad_cam(net, x, TARGETS, layer), by_pytorch_grad_cam(net, x, layer))


@every_case
def test_maps_of_frozen_networks_equal_both_references(make, layer):
    net, x = randomised(make()).requires_grad_(False), images(SIZES[1])
    raw, stretched = grad_cam(net, x, TARGETS, layer, normalize=False), grad_cam(net, x, TARGETS, layer)
    assert_equals_captum(raw, by_captum(net, x.clone(), layer))
    # pytorch-grad-cam needs images with a gradient here: without one it stops with an error
    with pytest.raises((RuntimeError, AttributeError)):
        by_pytorch_grad_cam(net, x, layer)
    assert_equals_pytorch_grad_cam(stretched, by_pytorch_grad_cam(net, x.clone().requires_grad_(), layer))


def test_a_scheme_that_is_passed_on_equals_captum():
    net = randomised(build_network("resnet20", "dia", num_classes=CLASSES, blocks=(2, 2), seed=0))
    scheme, x = Scheme.parse("01-11", (2, 2)), images(SIZES[0])
    theirs = by_captum(net, x, "layer2.1", additional_forward_args=(scheme,))
    assert_equals_captum(grad_cam(net, x, TARGETS, scheme=scheme, normalize=False), theirs)


@every_size
def test_an_activation_that_is_overwritten_equals_captum_and_pytorch_grad_cam_is_wrong(size):
    """torchvision's blocks go on with `out += identity` and an in-place ReLU."""
    net, x, layer = randomised(resnet18()), images(size), "layer4.1.bn2"
    raw = grad_cam(net, x, TARGETS, layer, normalize=False)
    assert_equals_captum(raw, by_captum(net, x, layer))
    # on the CPU pytorch-grad-cam keeps the tensor itself, which by then is the block's output
    theirs = by_pytorch_grad_cam(net, x, layer)
    assert (grad_cam(net, x, TARGETS, layer) - theirs).abs().max() > 0.1


def test_a_module_called_twice_is_captums_last_call_and_pytorch_grad_cams_first():
    """torchvision's blocks call their one in-place ReLU twice."""
    net, x, layer = randomised(resnet18()), images(SIZES[1]), "layer3.0.relu"
    with pytest.raises(ValueError, match="called 2 times"):
        grad_cam(net, x, TARGETS, layer)
    last = grad_cam(net, x, TARGETS, layer, call_index=1, normalize=False)
    assert_equals_captum(last, by_captum(net, x, layer))
    first = grad_cam(net, x, TARGETS, layer, call_index=0)
    assert_equals_pytorch_grad_cam(first, by_pytorch_grad_cam(net, x, layer))
    assert (first - grad_cam(net, x, TARGETS, layer, call_index=1)).abs().max() > 0.1


class SharedInPlace(nn.Module):
    """One module that three blocks share; each adds its shortcut to the module's output in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            y = self.shared(x)
            y += x
            x = torch.relu_(y)
        return self.fc(x.mean((2, 3)))


def by_hand(net, x, call):
    """The map of one call of `shared`, with nothing in place and no hook; the forward pass written out."""
    x, size = net.stem(x), x.shape[-2:]
    for i in range(3):
        y = net.shared(x)
        if i == call:
            kept = y
        x = torch.relu(y + x)
    scores = net.fc(x.mean((2, 3)))
    value = sum(scores[b, t] for b, t in enumerate(TARGETS))
    (gradient,) = torch.autograd.grad(value, kept)
    maps = torch.zeros(len(x), *kept.shape[-2:])
    for b in range(len(x)):
        for k in range(kept.shape[1]):
            maps[b] += gradient[b, k].mean() * kept[b, k].detach()
    return F.interpolate(maps.relu()[:, None], size, mode="bilinear", align_corners=False)[:, 0]


@every_size
def test_every_call_of_a_shared_module_in_front_of_an_in_place_addition_is_right(size):
    torch.manual_seed(0)
    net, x = SharedInPlace(), images(size)
    for call in range(3):
        ours = grad_cam(net, x, TARGETS, "shared", call_index=call, normalize=False)
        torch.testing.assert_close(ours, by_hand(net, x, call), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours, by_captum(net, x, "shared"), rtol=0, atol=1e-6)  # the last call
    # both the first call and overwritten, so neither call's map
    theirs = by_pytorch_grad_cam(net, x, "shared")
    for call in range(3):
        assert (grad_cam(net, x, TARGETS, "shared", call_index=call) - theirs).abs().max() > 0.01


def test_the_references_cannot_do_a_module_that_hands_on_a_state():
    """An attention module returns (y, state); for ours the map of y is computed."""
    net = randomised(build_network("resnet20", "se", num_classes=CLASSES, blocks=(2, 2), seed=0))
    x, layer = images(SIZES[0]), "layer1.attention"
    for reference in (by_captum, by_pytorch_grad_cam):
        with pytest.raises((AttributeError, AssertionError, TypeError)):
            reference(net, x, layer)

    class Gated(nn.Module):
        """The second block of the first stage, with the module's output passing through a layer of its own."""

        def __init__(self, attention):
            super().__init__()
            self.attention, self.out = attention, nn.Identity()

        def forward(self, y, state):
            y, state = self.attention(y, state)
            return self.out(y), state

    ours = [grad_cam(net, x, TARGETS, layer, call_index=i, normalize=False) for i in range(2)]
    net.layer1.attention = Gated(net.layer1.attention)
    layer += ".out"
    assert_equals_captum(ours[1], by_captum(net, x, layer))
    stretched = grad_cam(net, x, TARGETS, layer, call_index=0)
    assert_equals_pytorch_grad_cam(stretched, by_pytorch_grad_cam(net, x, layer))
    torch.testing.assert_close(ours[0], grad_cam(net, x, TARGETS, layer, call_index=0, normalize=False))

"""Grad-CAM (Selvaraju et al., ICCV 2017), scores of its maps, and the gates of the attention modules themselves.

A map is ReLU(sum_k w_k A_k): A_k is channel k of a layer's output, w_k the mean over positions of the gradient of
the class score with respect to A_k. Two things are unusual here. A module that blocks share is called several times
in one forward pass, so a map belongs to a *call* of a layer, not to a layer. And what comes after the layer gets a
copy of its output, so that an in-place operation cannot spoil the activation that the map is made from.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from ean_lib.attention.common import statistics_dtype
from ean_lib.checks import check
from ean_lib.networks import Network, eval_mode, network_dtype
from ean_lib.schemes import Scheme

Targets = int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None


def grad_cam(
    net: nn.Module, x: Tensor, targets: Targets = None, layer: nn.Module | str | None = None, *,
    scheme: Any = None, call_index: int | None = None, normalize: bool = True,
) -> Tensor:  # fmt: skip
    """Where in the images the evidence for a class lies, as this layer sees it: maps (B, H, W) of the images' size.

    The network computes in eval mode and is left as it was: training flags, gradients, hooks. One forward pass and
    one backward pass, from the scores to the layer, serve the whole batch. The maps are at least float32.

    Args:
        net: any module; a `Network` of ean_lib.networks needs no `layer`.
        x: images (B, C, H, W).
        targets: class index of each image, or one for all; None takes the class that the network prefers. A function
            gets what the network returns and gives one value per image (B,), such as `lambda s: s[:, 3] - s[:, 5]`.
        layer: a module of the network, or its name, with output (B, K, h, w), or a tuple that begins with it (as
            attention modules give); None is the last block.
        scheme: passed on to the network where it is given.
        call_index: which call of the layer in the forward pass, from 0, or from -1 backwards. A layer that is called
            more than once, such as a shared attention module, needs it.
        normalize: stretch each map to 0..1 (a map without differences becomes 0); False leaves the ReLU's values.

    Raises:
        ValueError: for targets, layers, calls and shapes that make no map.
    """
    x = _images_for(net, x)
    module = _find_layer(net, layer)
    count = len(x)
    calls: list[Tensor] = []  # the layer's output at each call

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        """Note the output, and pass a copy on: a later operation in place then changes the copy."""
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor) or first.dim() != 4 or len(first) != count:
            raise ValueError(f"a map needs an output ({count}, channels, height, width), the layer's is {_kind(first)}")
        torch.set_grad_enabled(True)  # what comes before the layer's first call needs no graph
        calls.append(first if first.requires_grad else first.detach().requires_grad_())
        passed_on = calls[-1].clone()
        return (passed_on, *output[1:]) if isinstance(output, tuple) else passed_on

    with torch.inference_mode(False), torch.no_grad():
        x = x.clone() if x.is_inference() else x.detach()
        with eval_mode(net), module.register_forward_hook(keep):
            scores = net(x) if scheme is None else net(x, scheme)
        activation = _choose_call(calls, call_index)  # (B, K, h, w)

        with torch.enable_grad():
            values = _target_values(scores, targets, count).sum()  # images do not mix, so one sum serves all of them
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values, activation, allow_unused=True)
        if gradient is None:
            raise ValueError("the targets' scores do not depend on the layer's output; choose a layer before them")

        dtype = statistics_dtype(activation)
        weights = gradient.to(dtype).mean((2, 3), keepdim=True)  # (B, K, 1, 1)
        maps = torch.relu((weights * activation.detach().to(dtype)).sum(1, keepdim=True))  # (B, 1, h, w)
        if not maps.isfinite().all():
            raise ValueError("the map holds NaN or infinite values: look for such values in the images or the weights")
        maps = _stretch(maps) if normalize else maps
        maps = F.interpolate(maps, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return _stretch(maps) if normalize else maps


def _images_for(net: nn.Module, x: Tensor) -> Tensor:
    """Images (B, C, H, W) in the type of the network's numbers.

    Raises:
        ValueError: if they are no such images, or lie on another device than the network.
    """
    check("the images' shape", tuple(x.shape), x.dim() == 4, "(batch, channels, height, width)")
    check("the number of images", len(x), len(x) > 0, "at least one")
    check("the images", x.dtype, x.is_floating_point(), "floating-point numbers, normalised as for training")
    parameter = next(net.parameters(), None)
    if parameter is None:
        return x
    if x.device != parameter.device:
        raise ValueError(f"the images are on {x.device}, the network is on {parameter.device}: move one of them")
    return x.to(network_dtype(net))


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _find_layer(net: nn.Module, layer: nn.Module | str | None) -> nn.Module:
    if layer is None:
        if not isinstance(net, Network):
            raise ValueError(f"which layer of the {type(net).__name__}? Its last block is not known; give `layer`")
        return net.block_modules()[-1]
    for name, module in net.named_modules():
        if layer is module or layer == name:
            return module
    given = layer if isinstance(layer, str) else _kind(layer)
    raise ValueError(f"the network has no such layer ({given}); give a module of it, or a name of net.named_modules()")


def _choose_call(calls: list[Tensor], index: int | None) -> Tensor:
    if not calls:
        why = "it may belong to a block that the scheme does not connect (or to a compiled network: give the plain one)"
        raise ValueError(f"the layer was not called in the forward pass: {why}")
    if index is None and len(calls) == 1:
        return calls[0]
    if index is None or not -len(calls) <= index < len(calls):
        advice = f"say which by call_index=0 to {len(calls) - 1}"
        advice += "" if index is None else f", not {index}"
        raise ValueError(f"the layer was called {len(calls)} times, and each call has its own map; {advice}")
    return calls[index]


def _target_values(scores: Any, targets: Targets, count: int) -> Tensor:
    """The number (B,) of each image whose gradient is taken."""
    if callable(targets):
        values = targets(scores)
        if not isinstance(values, Tensor) or values.shape != (count,):
            raise ValueError(f"`targets` must return one value per image, ({count},), but it returned {_kind(values)}")
        return values
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != count:
        raise ValueError(f"the network gives {_kind(scores)}, not ({count}, classes); give a function as `targets`")
    index = scores.argmax(1) if targets is None else torch.as_tensor(targets, device=scores.device)
    if index.shape not in ((), (count,)) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"`targets` must be one class index per image, ({count},), not {_kind(index)}")
    classes = scores.shape[1]
    check("`targets`", index.tolist(), index.min() >= 0 and index.max() < classes, f"in 0..{classes - 1}")
    return scores.gather(1, index.long().expand(count)[:, None])[:, 0]


def _stretch(maps: Tensor) -> Tensor:
    """Each map of the batch to 0..1, and to 0 where it has no differences."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


def attention_gates(net: Network, x: Tensor, scheme: Any = None) -> dict[tuple[int, int], Tensor]:
    """The gates, between 0 and 1, that the attention modules set for images x: no gradient, attention itself.

    Returns:
        {(stage from 1, block in the stage from 0): gate} of the connected blocks in order. A gate is (B, C) of a
        module that weights channels (se, dia, eca), and (B, groups, h, w) of one that weights positions (sge).

    Raises:
        ValueError: if a module has no method `gate(x, state)`, or x is no batch of images.
    """
    x = _images_for(net, x)
    scheme = Scheme.parse(net.scheme if scheme is None else scheme, net.stages)
    connected = [place for place, bit in zip(net.connections(), scheme.bits, strict=True) if bit]
    gates: list[Tensor] = []  # of one call after another, so in the order of the blocks

    def note(module: nn.Module, inputs: Any, _output: Any) -> None:
        gates.append(module.gate(*inputs))

    with torch.no_grad(), eval_mode(net), ExitStack() as hooks:
        for module in {module for _, _, module in connected if module is not None}:  # a shared one once
            if not hasattr(module, "gate"):
                raise ValueError(f"{type(module).__name__} has no single gate; these have one: se, dia, eca, sge")
            hooks.enter_context(module.register_forward_hook(note))
        net(x, scheme)
    return {(stage, block): gate for (stage, block, _), gate in zip(connected, gates, strict=True)}


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.dim() != 3 or masks.shape != maps.shape or masks.dtype != torch.bool:
        raise ValueError(f"expected maps (B, H, W) and bool masks like them, got {_kind(maps)} and {_kind(masks)}")


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the highest point of each map (B, H, W) lies in its mask: bool (B,) (Zhang et al., ECCV 2016).

    The first of equally high points counts. A map without differences points nowhere: a miss.
    """
    _check(maps, masks)
    flat = maps.flatten(1)
    hits = masks.flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0]
    return hits & (flat.amax(1) > flat.amin(1))


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """The fraction (B,) of each map's sum that lies in its mask (Wang et al., CVPR-W 2020); 0 for a map of zeros."""
    _check(maps, masks)
    return (maps * masks).sum((1, 2)) / maps.sum((1, 2)).clamp_min(torch.finfo(maps.dtype).tiny)


class Curves(NamedTuple):
    """Probability of the target class as pixels are deleted from the image or inserted into the baseline."""

    fractions: Tensor  # (S + 1,): of the pixels, from 0 to 1
    deletion: Tensor  # (B, S + 1); a good map makes it fall soon
    insertion: Tensor  # (B, S + 1); a good map makes it rise soon

    @property
    def deletion_auc(self) -> Tensor:
        """Area under the deletion curve (B,), lower is better."""
        return torch.trapezoid(self.deletion, self.fractions)

    @property
    def insertion_auc(self) -> Tensor:
        """Area under the insertion curve (B,), higher is better."""
        return torch.trapezoid(self.insertion, self.fractions)


def deletion_insertion(
    net: nn.Module, x: Tensor, maps: Tensor, targets: Targets = None, *,
    scheme: Any = None, steps: int = 16,
) -> Curves:  # fmt: skip
    """Deletion and insertion curves (RISE: Petsiuk et al., BMVC 2018), pixels in the order of the maps, highest first.

    Args:
        net, x, targets, scheme: as in `grad_cam`; targets are class indices or None.
        maps: (B, H, W) of the size of x.
        steps: S; each of the S + 1 points is one forward pass of 2 B images.

    What stands for "no pixel" is the image under a Gaussian blur of an eighth of its size.
    """
    x = _images_for(net, x)
    if maps.shape != (len(x), *x.shape[-2:]) or callable(targets) or steps < 1:
        raise ValueError(f"expected maps like images {_kind(x)}, class indices and steps >= 1, got maps {_kind(maps)}")
    height, width = x.shape[-2:]
    sigma = min(height, width) / 8
    blurred = gaussian_blur(x, 2 * round(2 * sigma) + 1, sigma)
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).view(len(x), 1, height, width)  # of each pixel, 0 where the map is highest
    fractions = torch.linspace(0, 1, steps + 1, device=x.device)
    arguments = () if scheme is None else (scheme,)
    points = []
    with torch.no_grad(), eval_mode(net):
        targets = net(x, *arguments).argmax(1) if targets is None else targets
        for fraction in fractions:
            chosen = rank < torch.round(fraction * height * width)
            deleted, inserted = torch.where(chosen, blurred, x), torch.where(chosen, x, blurred)
            probabilities = net(torch.cat([deleted, inserted]), *arguments).float().softmax(1)
            points.append([_target_values(half, targets, len(x)) for half in probabilities.chunk(2)])
    deletion, insertion = (torch.stack(curve, dim=1) for curve in zip(*points, strict=True))  # (B, S + 1)
    return Curves(fractions, deletion, insertion)


def edge_map(x: Tensor) -> Tensor:
    """How much the brightness of images x (B, C, H, W) changes at each pixel (Sobel), 0..1: maps (B, H, W).

    A control: it knows nothing of the network (Adebayo et al., NeurIPS 2018).
    """
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=x.device, dtype=x.dtype)
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    filters = torch.stack([sobel, sobel.T])[:, None]  # (2, 1, 3, 3): changes from left to right, and from top to bottom
    across, down = F.conv2d(grey, filters).unbind(1)
    return _stretch(torch.hypot(across, down))


def random_maps(count: int, size: tuple[int, int], grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Maps (count, *size) of random numbers on a coarse grid, enlarged as Grad-CAM's maps are: the other control."""
    coarse = torch.rand(count, 1, *grid, generator=generator)
    return _stretch(F.interpolate(coarse, size, mode="bilinear", align_corners=False)[:, 0])


def randomised_copy(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in which the numbers of each parameter are shuffled: same distribution, nothing learned.

    If a map looks the same for it, the map does not show what the network learned (Adebayo et al., NeurIPS 2018).
    """
    net = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return net

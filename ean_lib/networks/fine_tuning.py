"""Begin with weights that were trained on other images: which of them are taken, and what is trained further."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ean_lib.networks.state_dicts import check_state_dict, named_tensors


def head_names(net: nn.Module) -> list[str]:
    """The names of the layers that give the class scores: those that timm's networks name, or the last Linear.

    Raises:
        ValueError: if there is none.
    """
    layers = net.get_classifier() if hasattr(net, "get_classifier") else None  # a layer, or several in timm's DeiT
    wanted = list(layers) if isinstance(layers, Sequence | nn.ModuleList) else [layers]
    names = [name for name, module in net.named_modules() if any(module is layer for layer in wanted)]
    if not names:
        names = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not names:
        raise ValueError(f"{type(net).__name__} has no Linear layer, so it is not known which layer is its head")
    return names


def backbone_weights(
    weights: Mapping[str, Any], own: Mapping[str, Tensor], heads: Sequence[str], new_head: bool
) -> dict[str, Tensor]:
    """What a network takes of a backbone's weights.

    Args:
        weights: by name; a dictionary around them and DataParallel's "module." in front of names are taken off.
        own: the network's weights without attention.
        heads: the names of the layers that give the class scores.
        new_head: those are left out.

    Raises:
        ValueError: if a weight is missing, foreign or of another shape.
    """
    head_keys = tuple(f"{name}." for name in heads)
    taken = {key: value for key, value in named_tensors(weights).items() if key != "connected"}  # a plugged network's
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):  # old files lack them
            taken.setdefault(key, value)
    if new_head:
        taken = {key: value for key, value in taken.items() if not key.startswith(head_keys)}
        own = {key: value for key, value in own.items() if not key.startswith(head_keys)}
    else:
        for key in (f"{name}.weight" for name in heads):
            if key in own and isinstance(taken.get(key), Tensor) and taken[key].dim() and own[key].dim():
                _check_classes(len(taken[key]), len(own[key]))
    check_state_dict(taken, own, "the backbone's weights")
    return taken


def _check_classes(came: int, expected: int) -> None:
    if came != expected:
        advice = "take all but the last layer: --new-head on the command line, new_head=True in Python"
        what = f"the backbone's weights do not fit: they are for {came} classes, this network has {expected}"
        raise ValueError(f"{what}; {advice}")


def freeze(net: nn.Module, without: Iterable[nn.Module]) -> None:
    """Keep the parameters of net as they are to the bit, and the statistics of its BatchNorms.

    `train` leaves alone what needs no gradient, and BatchNorms that are in eval mode.

    Args:
        net: changed in place.
        without: modules that are trained all the same.
    """
    trained = {inner for module in without for inner in module.modules()}
    for module in net.modules():
        if module in trained:
            continue
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if isinstance(module, _BatchNorm):
            module.eval()

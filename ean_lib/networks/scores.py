"""Whether what a network gives are class scores from which an accuracy can be told."""

from typing import Any

from torch import Tensor, nn

from ean_lib.networks.contract import network_dtype


def check_scores(scores: Any, images: int, classes: int) -> None:
    """`ValueError` unless a network's output is a tensor (images, outputs) with an output for each class."""
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != images:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"the network must give class scores ({images}, {classes}) for {images} images, it gave {shape}"
        )
    outputs = scores.shape[1]
    if outputs < classes:
        advice = f"build it with num_classes={classes}"
        raise ValueError(f"the network has {outputs} outputs, but the labels go up to class {classes - 1}: {advice}")


def find_broken(net: nn.Module) -> str:
    """What may have made a network's scores NaN or infinite, and what to do, in words."""
    for name, values in net.state_dict().items():
        if not values.isfinite().all():
            return f"the network's {name} holds such values; train it again (with a lower lr), or load other weights"
    return f"the weights are finite; {network_dtype(net)} may be too narrow for them, or the images hold such values"

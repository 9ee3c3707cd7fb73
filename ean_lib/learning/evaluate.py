"""The accuracy of a network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ean_lib.data import Split
from ean_lib.devices import find_device
from ean_lib.networks import Network, SchemeLike, check_scores, eval_mode, find_broken, network_dtype

Metric = Callable[[Tensor, Tensor], Any]


@torch.no_grad()
def evaluate(
    net: Network | nn.Module, split: Split, scheme: SchemeLike | None = None, *,
    batch_size: int = 500, device: str = "auto", metric: Metric | None = None,
) -> float:  # fmt: skip
    """Accuracy (%) of a network on a split, or another metric, in eval mode.

    The network is moved to the device, in channels-last order, and stays there. Its mode is put back.

    Args:
        net: a network of the contract; or any module, where no scheme is given. It gets images of its own type, such as
            float64.
        split: images and labels.
        scheme: the connections; None takes the network's own.
        batch_size: images of a forward pass.
        device: ``"auto"`` (a GPU if there is one), or the name of one.
        metric: gets the class scores (N, outputs) and the labels (N,) of all images, on the device, and returns a
            number; None is the accuracy in %.

    Raises:
        ValueError: for bad options; if the network has fewer outputs than the split has classes; or if its class scores
            are not finite, as with broken weights: the highest of them would say nothing.
    """
    target = find_device(device)
    net.to(target, memory_format=torch.channels_last)
    dtype = network_dtype(net)
    classes = int(split.labels.max()) + 1
    arguments = () if scheme is None else (scheme,)
    seen = []  # class scores and labels of each batch, for the metric
    hits, finite = [], []  # tensors, so that nothing waits for the GPU before the end
    with eval_mode(net):
        for x, y in split.batches(batch_size, device=target):
            scores = net(x.to(dtype), *arguments)  # (B, outputs)
            check_scores(scores, len(y), classes)
            hits.append((scores.argmax(1) == y).sum())
            finite.append(scores.isfinite().all())
            if metric is not None:
                seen.append((scores, y))
    if not torch.stack(finite).all():
        raise ValueError(f"the class scores are NaN or infinite, so they have no accuracy: {find_broken(net)}")
    if metric is not None:
        scores, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
        return float(metric(scores, labels))
    return 100 * torch.stack(hits).sum().item() / len(split)

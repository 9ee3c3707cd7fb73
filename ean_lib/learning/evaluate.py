"""The accuracy of a network."""

import torch
from torch import nn

from ean_lib.data import Images, as_split, num_classes
from ean_lib.devices import find_device
from ean_lib.networks import (
    Metric,
    Network,
    SchemeLike,
    check_scores,
    eval_mode,
    find_broken,
    network_dtype,
    start_tally,
)


@torch.no_grad()
def evaluate(
    net: Network | nn.Module, split: Images, scheme: SchemeLike | None = None, *,
    batch_size: int = 500, device: str = "auto", metric: Metric | None = None,
) -> float:  # fmt: skip
    """Accuracy (%) of a network on a split, or another metric, in eval mode.

    The network is moved to the device, in channels-last order, and stays there. Its mode is put back.

    Args:
        net: a network of the contract; or any module, where no scheme is given. It gets images of its own type, such as
            float64.
        split: images and labels: a `Split`, a torch `Dataset`, a `DataLoader`, or any iterable of (images, labels); see
            `ean_lib.data.loaders`.
        scheme: the connections; None takes the network's own.
        batch_size: images of a forward pass; batches that are made already are taken as they are.
        device: ``"auto"`` (a GPU if there is one), or the name of one.
        metric: None is the accuracy in %. A function gets the class scores (N, outputs) and the labels (N,) of all
            images, on the CPU, and returns a number. Of an object with `update` and `compute`, such as a metric of
            torchmetrics, a copy is updated by each batch, on the device.

    Raises:
        ValueError: for bad options, images or labels; if the network has fewer outputs than there are classes; if its
            class scores are not finite, as with broken weights: the highest of them would say nothing; or if the metric
            gives anything but one finite number.
    """
    target = find_device(device)
    split = as_split(split)
    tally = start_tally(metric, target)
    net.to(target, memory_format=torch.channels_last)
    dtype = network_dtype(net)
    arguments = () if scheme is None else (scheme,)
    with eval_mode(net):
        for x, y in split.batches(batch_size, device=target):
            scores = net(x.to(dtype), *arguments)  # (B, outputs)
            check_scores(scores, len(y), num_classes(split))
            tally.add(scores, y)
    if not tally.is_finite:
        raise ValueError(f"the class scores are NaN or infinite, so they have no accuracy: {find_broken(net)}")
    return tally.value()

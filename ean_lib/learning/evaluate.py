"""The accuracy of a network."""

import torch

from ean_lib.data import Split
from ean_lib.devices import find_device
from ean_lib.networks import Network, SchemeLike, check_scores, eval_mode, find_broken, network_dtype


@torch.no_grad()
def evaluate(
    net: Network, split: Split, scheme: SchemeLike | None = None, *, batch_size: int = 500, device: str = "auto"
) -> float:
    """Accuracy (%) of a network on a split, in eval mode.

    The network is moved to the device, in channels-last order, and stays there. Its mode is put back.

    Args:
        net: a network of the contract. Images are given in its own type, such as float64.
        split: images and labels.
        scheme: the connections; None takes the network's own.
        batch_size: images of a forward pass.
        device: ``"auto"`` (a GPU if there is one), or the name of one.

    Raises:
        ValueError: for bad options; if the network has fewer outputs than the split has classes; or if its class scores
            are not finite, as with broken weights: the highest of them would say nothing.
    """
    target = find_device(device)
    net.to(target, memory_format=torch.channels_last)
    dtype = network_dtype(net)
    classes = int(split.labels.max()) + 1
    hits, finite = [], []  # tensors, so that nothing waits for the GPU before the end
    with eval_mode(net):
        for x, y in split.batches(batch_size, device=target):
            scores = net(x.to(dtype), scheme)  # (B, outputs)
            check_scores(scores, len(y), classes)
            hits.append((scores.argmax(1) == y).sum())
            finite.append(scores.isfinite().all())
    if not torch.stack(finite).all():
        raise ValueError(f"the class scores are NaN or infinite, so they have no accuracy: {find_broken(net)}")
    return 100 * torch.stack(hits).sum().item() / len(split)

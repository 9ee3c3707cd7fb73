"""The accuracy of a network."""

import torch

from ean_lib.data import Split
from ean_lib.devices import find_device
from ean_lib.networks import Network, eval_mode
from ean_lib.schemes import Scheme


@torch.no_grad()
def evaluate(
    net: Network, split: Split, scheme: Scheme | None = None, *, batch_size: int = 500, device: str = "auto"
) -> float:
    """Accuracy (%) of net on a split, in eval mode; the network's mode is put back."""
    target = find_device(device)
    net.to(target, memory_format=torch.channels_last)
    with eval_mode(net):
        hits = [(net(x, scheme).argmax(1) == y).sum() for x, y in split.batches(batch_size, device=target)]
    return 100 * torch.stack(hits).sum().item() / len(split)

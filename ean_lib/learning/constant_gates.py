"""Is it attention, or only a learned scale? The control that replaces each gate by its mean.

A channel gate that hardly varies from picture to picture is a scale of the channel, which a BatchNorm has already: it
can be folded into it and costs nothing (ASR, arXiv 2304.06345). Where the folded network is as accurate, the gate was a
scale; where it is not, what the gate says about the single picture matters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from ean_lib.attention import create_attention
from ean_lib.data import Split
from ean_lib.devices import find_device
from ean_lib.networks import Network, PluggedNetwork, eval_mode
from ean_lib.schemes import Scheme


@dataclass(frozen=True)
class GateMoments:
    """How the gate of one connected block varies, for each channel: over pictures, after a mean over positions."""

    stage: int  # from 1
    block: int  # in the stage, from 0
    mean: Tensor  # float64 (C,)
    std: Tensor  # float64 (C,), of n - 1


@torch.no_grad()
def gate_moments(
    net: Network, split: Split, scheme: Scheme | str | None = None, *,
    pictures: int = 5000, batch_size: int = 500, device: str = "auto",
) -> list[GateMoments]:  # fmt: skip
    """Mean and standard deviation over pictures of every connected block's gate, in the order of the blocks.

    A gate that differs from position to position (SGE) is averaged over positions, and one that several channels share
    is given to each of them.

    Args:
        net: in any mode; it is moved to the device, and computes in eval mode.
        split: pictures to average over, usually training pictures; they are drawn at random, always the same.
        scheme: the connections; None takes the network's own.
        pictures: how many to draw; all, if there are fewer.

    Raises:
        ValueError: if nothing is connected, if a module has no single multiplicative gate (CBAM and timm's layers),
            or if there are fewer than two pictures.
    """
    target = find_device(device)
    net.to(target, memory_format=torch.channels_last)
    scheme = Scheme.parse(net.scheme if scheme is None else scheme, net.stages)
    places = [place for place, bit in zip(net.connections(), scheme.bits, strict=True) if bit]
    if not places:
        raise ValueError("no block is connected to attention, so there is no gate to average")
    for _, _, module in places:
        if module is not None:
            _check_gate(module)
    if min(pictures, len(split)) < 2:
        raise ValueError(f"the mean gate needs at least 2 pictures, got {min(pictures, len(split))}")

    rows: list[list[Tensor]] = [[] for _ in places]  # of each place, gates (B, C) of every batch
    calls: list[Tensor] = []  # the gates of one forward pass, in the order of the blocks

    def note(module: nn.Module, inputs: tuple, _output: tuple) -> None:
        calls.append(channel_gate(module, *inputs))

    modules = {id(module): module for _, _, module in places if module is not None}
    hooks = [module.register_forward_hook(note) for module in modules.values()]
    seen = 0
    try:
        with eval_mode(net):
            generator = torch.Generator().manual_seed(0)
            for x, _ in split.batches(batch_size, device=target, generator=generator):
                calls.clear()
                net(x[: pictures - seen], scheme)
                for row, gate in zip(rows, calls, strict=True):
                    row.append(gate.double())
                seen += len(x)
                if seen >= pictures:
                    break
    finally:
        for hook in hooks:
            hook.remove()
    moments = []
    for (stage, block, _), row in zip(places, rows, strict=True):
        gates = torch.cat(row)
        moments.append(GateMoments(stage, block, gates.mean(0).cpu(), gates.std(0).cpu()))
    return moments


def _check_gate(module: nn.Module) -> None:
    if not hasattr(module, "gate"):
        name = type(module).__name__
        raise ValueError(f"{name} is not one gate that is multiplied with the map; it has no mean to be folded")


def check_foldable(net: Network) -> None:
    """`ValueError` unless `fold_constant_gates` can do every block of the network: a gate, after a BatchNorm."""
    for (_, _, module), block in zip(net.connections(), _where_branches_end(net), strict=True):
        if module is not None:
            _check_gate(module)
            last_batchnorm(block)


def _where_branches_end(net: Network) -> list[nn.Module]:
    """For each bit the module that `last_batchnorm` is to look at: a plugged network knows the branch's end."""
    return net.branch_modules() if isinstance(net, PluggedNetwork) else list(net.block_modules())


def has_gate(attention: str) -> bool:
    """Whether the attention of that name is one gate that is multiplied with the map; False for unknown names."""
    try:
        return hasattr(create_attention(attention, 64), "gate")
    except ValueError:
        return False


def channel_gate(module: nn.Module, x: Tensor, state: object = None) -> Tensor:
    """What the module multiplies each channel of x (B, C, H, W) with, (B, C): over positions, its mean."""
    gate = module.gate(x, state)
    if gate.ndim == 4:  # (B, G, H, W): one map for each group of channels
        gate = gate.mean((2, 3))
    return gate.repeat_interleave(x.shape[1] // gate.shape[1], dim=1)


@torch.no_grad()
def fold_constant_gates(
    net: Network, split: Split, scheme: Scheme | str | None = None, *,
    pictures: int = 5000, batch_size: int = 500, device: str = "auto",
) -> Network:  # fmt: skip
    """A copy without attention in which each connected block's gate is its mean over pictures, and costs nothing.

    The last BatchNorm of a block's branch gives y; attention makes g * y of it. With a constant g per channel this is
    the BatchNorm with its scale and shift multiplied by g. So the copy is exact where gates are constant.

    Args:
        net: stays as it is, but is moved to the device.
        split, scheme, pictures, batch_size, device: as in `gate_moments`.

    Returns:
        The plain backbone, pruned to the scheme that connects nothing, in eval mode.

    Raises:
        ValueError: as `gate_moments`; or if a block's branch is not known to end with a BatchNorm.
    """
    moments = gate_moments(net, split, scheme, pictures=pictures, batch_size=batch_size, device=device)
    folded = net.prune(Scheme.none(net.stages)).eval()
    places = [(c.stage, c.block) for c in folded.connections()]
    blocks = dict(zip(places, _where_branches_end(folded), strict=True))
    for gate in moments:
        norm = last_batchnorm(blocks[gate.stage, gate.block])
        scale = gate.mean.to(norm.weight)
        norm.weight.mul_(scale)
        norm.bias.mul_(scale)
    return folded


def last_batchnorm(block: nn.Module) -> nn.BatchNorm2d:
    """The BatchNorm at the end of a residual block's branch; or `block` itself, where it is one."""
    norm = None
    if isinstance(block, nn.BatchNorm2d) and isinstance(getattr(block, "act", None), nn.Identity | None):
        norm = block  # timm's have an activation, which a scale cannot be moved across
    elif isinstance(block, resnet.BasicBlock):
        norm = block.bn2
    elif isinstance(block, resnet.Bottleneck):
        norm = block.bn3
    if not isinstance(norm, nn.BatchNorm2d) or norm.weight is None:
        what = f"a gate is folded into the BatchNorm before it, and {type(block).__name__} has none"
        advice = "it must be a network of torchvision's residual blocks, or one whose branches end with a BatchNorm"
        raise ValueError(f"{what}: {advice}, before fuse()")
    return norm

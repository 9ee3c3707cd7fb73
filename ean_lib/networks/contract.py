"""What the rest of the library needs of a network, written down as two protocols.

`Network` is what training, evaluating, scoring, pruning, measuring, Grad-CAM and the widgets use. Whoever fulfils it
can be searched, however its layers are arranged. `ChainNetwork` is for those that compute one block after the other:
schemes with the same first bits then share the work of those blocks (`ean_lib.supernet.PrefixWalk`).
`AttentionResNet` fulfils both. Nothing has to be inherited: an `nn.Module` with these methods is enough.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ean_lib.schemes import Scheme

# What `forward` takes: a Scheme or any way of writing one, which skips the modules that are not connected; or a bool
# tensor (blocks,), which computes all of them and chooses, so that every scheme has the same graph.
SchemeLike = Scheme | str | Sequence[bool] | Tensor


class Connection(NamedTuple):
    """A place where attention can be called: after the residual branch of one block."""

    stage: int  # from 1
    block: int  # within the stage, from 0
    module: nn.Module | None  # what is called there as `y, state = module(y, state)`; None: nothing (any more)


@runtime_checkable
class Network(Protocol):
    """An `nn.Module` whose blocks can be connected to attention.

    Attributes:
        stages: blocks per stage; a scheme has one bit for each of these blocks.
        scheme: the connections used where `forward` is given none.
    """

    stages: tuple[int, ...]
    scheme: Scheme

    def connections(self) -> Iterable[Connection]:
        """The places for attention, one for each bit of a scheme, in the order in which they are computed."""

    def block_modules(self) -> Sequence[nn.Module]:
        """For each bit the submodule whose output (B, C, H, W) is the block's; Grad-CAM draws its maps there."""

    def forward(self, x: Tensor, scheme: SchemeLike | None = None) -> Tensor:
        """Class scores (B, classes) of images (B, 3, H, W) under a scheme, checked by `check_scheme`."""

    def prune(self, scheme: Scheme | str | None = None) -> "Network":
        """A copy that is the plain sparse network of that scheme (None: its own), without unused modules."""

    def fuse(self) -> "Network":
        """A copy for deployment, in eval mode; where BatchNorms can be folded into convolutions, they are."""


@runtime_checkable
class ChainBlock(Protocol):
    """A block computes `merge(shortcut(x), y)`, where y is `branch(x)`, or what attention has made of it."""

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch f(x)."""

    def shortcut(self, x: Tensor) -> Tensor:
        """What the branch is added to."""

    def merge(self, shortcut: Tensor, y: Tensor) -> Tensor:
        """The block's output, out of place: neither argument is changed, as other schemes still need them."""


@runtime_checkable
class ChainNetwork(Network, Protocol):
    """A network whose forward pass is `stem`, then the blocks in order, then `head`, and nothing else.

    Its `block_modules()` are `ChainBlock`s. The state of a module goes from one connected block to the next within a
    stage, and starts with None.
    """

    def stem(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the first block's input."""

    def head(self, x: Tensor) -> Tensor:
        """The last block's output to class scores (B, classes)."""


class Chain(NamedTuple):
    """The parts of a network that computes one block after the other."""

    stem: Callable[[Tensor], Tensor]
    blocks: Sequence[ChainBlock]  # each also lists its `modules()`, as an nn.Module does
    head: Callable[[Tensor], Tensor]


def as_chain(net: Network) -> Chain | None:
    """The network as a chain of blocks, or None where it is none.

    A `ChainNetwork` is one as it stands. Another network can have a method `chain()` that gives its chain, or None, as
    a plugged one has.
    """
    if hasattr(net, "chain"):
        return net.chain()
    if not isinstance(net, ChainNetwork):
        return None
    blocks = net.block_modules()
    if not all(isinstance(block, ChainBlock) for block in blocks):
        return None
    return Chain(net.stem, blocks, net.head)


def check_scheme(net: Network, scheme: SchemeLike | None) -> Scheme | Tensor:
    """The scheme that net is to compute with: its own where `scheme` is None.

    Returns:
        A `Scheme`; or a bool tensor (blocks,) as it came. That one is not looked into, since that would wait for the
        GPU; as any of its bits may be on, it needs a module at every block.

    Raises:
        ValueError: if it is no scheme of the network's stages, or connects a block that has no attention module.
    """
    blocks = sum(net.stages)
    if isinstance(scheme, Tensor) and scheme.dtype == torch.bool and scheme.shape == (blocks,):
        may_connect = [True] * blocks
    else:
        scheme = Scheme.parse(net.scheme if scheme is None else scheme, net.stages)
        may_connect = scheme.bits
    for (stage, block, module), connected in zip(net.connections(), may_connect, strict=True):
        if connected and module is None:
            there = f"no attention module there (it was built or pruned for {net.scheme})"
            advice = "build it with attention, or use the unpruned network"
            raise ValueError(
                f"the scheme connects block {block} of stage {stage}, but the network has {there}; {advice}"
            )
    return scheme


def attention_modules(net: Network) -> list[nn.Module]:
    """The attention modules of a network, each once, in the order of their first block."""
    modules: dict[nn.Module, None] = {}
    for _, _, module in net.connections():
        if module is not None:
            modules[module] = None
    return list(modules)


def network_dtype(net: Any) -> torch.dtype:
    """The type of a network's numbers, which its images must have: that of its first floating-point parameter."""
    for parameter in net.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.get_default_dtype()

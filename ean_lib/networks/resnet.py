"""Residual networks with attention that is shared per stage and connected where a scheme says so.

Block l of a stage computes  x <- relu(shortcut(x) + (M(f(x)) if a_l else f(x)))  with the residual branch f, the
attention module M and the connection bit a_l (EAN, arXiv 2011.14058).

What is unusual here: the whole of "where is attention plugged in" is one argument of ``forward``. A ``Scheme`` skips
the modules that are not connected (fast); a bool tensor computes them all and chooses (one graph for all schemes, every
parameter used, so that distributed training never waits for a gradient that does not come). Both give the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ean_lib.attention.common import State
from ean_lib.checks import check
from ean_lib.networks.blocks import Block, shortcut_convolution
from ean_lib.networks.connect import Bit, connect
from ean_lib.networks.contract import Connection, SchemeLike, attention_modules, check_scheme
from ean_lib.networks.fine_tuning import backbone_weights, freeze
from ean_lib.schemes import Scheme


class Stage(nn.Module):
    """The blocks between two changes of resolution, of which the first has the stride, and the attention they share.

    ``attention`` is one module (shared), a ModuleDict by block index (Org), or None. It is a child of the stage and of
    nothing else, so every parameter has exactly one key in the state_dict.
    """

    def __init__(self, inputs: int, planes: int, depth: int, stride: int, block: type[Block]) -> None:
        super().__init__()
        self.depth = depth
        self.out_channels = planes * block.expansion
        for i in range(depth):
            downsample = None
            if stride != 1 or inputs != self.out_channels:
                convolution = shortcut_convolution(inputs, self.out_channels, stride)
                downsample = nn.Sequential(convolution, nn.BatchNorm2d(self.out_channels))
            self.add_module(str(i), block(inputs, planes, stride, downsample))
            inputs, stride = self.out_channels, 1
        self.attention: nn.Module | None = None

    @property
    def blocks(self) -> list[Block]:
        return [self.get_submodule(str(i)) for i in range(self.depth)]

    def module_of(self, block: int) -> nn.Module | None:
        """The attention module that block may be connected to, or None."""
        if isinstance(self.attention, nn.ModuleDict):
            return dict(self.attention.items()).get(str(block))
        return self.attention

    def forward(self, x: Tensor, bits: Sequence[Bit] | Tensor) -> Tensor:
        state: State = None
        for i, (block, bit) in enumerate(zip(self.blocks, bits, strict=True)):
            y, state = connect(self.module_of(i), bit, block.branch(x), state)
            x = block(x, y)  # a call of the block, not of its `merge`: hooks on the block must see its output
        return x


class AttentionResNet(nn.Module):
    """A residual network whose blocks can be connected to attention; made by `build_network`.

    It is a `ChainNetwork` of :mod:`ean_lib.networks.contract`.

    Attributes:
        stages: blocks per stage.
        scheme: the connections used when ``forward`` is given none.
    """

    def __init__(
        self, block: type[Block], scheme: Scheme, num_classes: int, width: int, stem_stride: int, for_imagenet: bool
    ) -> None:
        super().__init__()
        self.stages = scheme.stages
        self.scheme = scheme
        size = 7 if for_imagenet else 3
        self.conv1 = nn.Conv2d(3, width, size, stem_stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if for_imagenet else nn.Identity()
        channels = width
        for s, depth in enumerate(self.stages):
            stride = 1 if s == 0 else 2
            stage = Stage(channels, width * 2**s, depth, stride, block)
            self.add_module(f"layer{s + 1}", stage)
            channels = stage.out_channels
        self.fc = nn.Linear(channels, num_classes)

    def stage_modules(self) -> list[Stage]:
        return [self.get_submodule(f"layer{s}") for s in range(1, len(self.stages) + 1)]

    def block_modules(self) -> list[Block]:
        """All blocks, in order."""
        return [block for stage in self.stage_modules() for block in stage.blocks]

    def connections(self) -> Iterator[Connection]:
        """(stage from 1, block in the stage from 0, its attention module or None) for each block in order."""
        for s, stage in enumerate(self.stage_modules(), start=1):
            for i in range(stage.depth):
                yield Connection(s, i, stage.module_of(i))

    def stem(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) to the first stage's input."""
        expected = "(batch, 3, height, width): add the batch dimension, or convert the images to RGB"
        check("the images' shape", tuple(x.shape), x.dim() == 4 and x.shape[1] == 3, expected)
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.maxpool(x)

    def head(self, x: Tensor) -> Tensor:
        """The last stage's output to class scores (B, num_classes)."""
        return self.fc(x.mean(dim=(2, 3)))

    def forward(self, x: Tensor, scheme: SchemeLike | None = None) -> Tensor:
        """Class scores (B, num_classes) of images (B, 3, H, W).

        Args:
            x: images.
            scheme: a Scheme (or its bits), which skips the modules that are not connected; or a bool tensor (blocks,),
                which chooses in one graph; None uses ``self.scheme``.
        """
        scheme = check_scheme(self, scheme)
        bits = scheme.per_stage if isinstance(scheme, Scheme) else scheme.split(self.stages)
        x = self.stem(x)
        for stage, stage_bits in zip(self.stage_modules(), bits, strict=True):
            x = stage(x, stage_bits)
        return self.head(x)

    def prune(self, scheme: Scheme | str | None = None) -> AttentionResNet:
        """A copy that is the plain sparse network of that scheme: attention that no block uses is gone."""
        scheme = self.scheme if scheme is None else Scheme.parse(scheme, self.stages)
        check_scheme(self, scheme)
        net = copy.deepcopy(self)
        for stage, bits in zip(net.stage_modules(), scheme.per_stage, strict=True):
            if not any(bits):
                stage.attention = None
            elif isinstance(stage.attention, nn.ModuleDict):
                used = {str(i): stage.module_of(i) for i, bit in enumerate(bits) if bit}
                stage.attention = nn.ModuleDict(used)
        net.scheme = scheme
        return net

    def fuse(self) -> AttentionResNet:
        """A copy for deployment, in eval mode, with each BatchNorm folded into the convolution before it."""
        net = copy.deepcopy(self).eval()
        # Attention modules are no part of a block, so what they hold is left alone.
        inside_blocks = [part for block in net.block_modules() for part in block.modules()]
        for module in [net, *inside_blocks]:
            for (first, conv), (second, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, first, fuse_conv_bn_eval(conv, norm))
                    setattr(module, second, nn.Identity())
        return net

    def load_backbone(self, state_dict: Mapping[str, Tensor], new_head: bool = False) -> None:
        """Take the backbone's weights, for example torchvision's ImageNet ones; attention keeps its own.

        Args:
            state_dict: the weights by name.
            new_head: the last layer keeps its own weights too, as for other classes.

        Raises:
            ValueError: if a backbone weight is missing, foreign or of another shape; then nothing is loaded.
        """
        own = {name: value for name, value in self.state_dict().items() if ".attention." not in name}
        self.load_state_dict(backbone_weights(state_dict, own, ["fc"], new_head), strict=False)

    def freeze_backbone(self) -> None:
        """From now on training changes attention and the last layer only; see `ean_lib.networks.fine_tuning`."""
        freeze(self, without=[*attention_modules(self), self.fc])

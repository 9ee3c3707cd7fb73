"""torchvision's two residual blocks, taken apart into what attention needs: branch, shortcut and merge."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

# A strided 1x1 convolution of fewer channels, in channels-last order, writes over foreign memory in its backward pass
# on CPUs, where the map is 48x48 or more (oneDNN 3.12, in PyTorch 2.14): the process dies, or worse, does not.
SAFE_CHANNELS = 16


class Block(nn.Module):
    """x <- merge(shortcut(x), y), where y is the branch f(x), or what attention has made of it."""

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch f(x), up to and including its last BatchNorm."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(y))

    def shortcut(self, x: Tensor) -> Tensor:
        """x itself, or a 1x1 convolution of it where the block changes the map's size or channels."""
        return x if self.downsample is None else self.downsample(x)

    def merge(self, shortcut: Tensor, y: Tensor) -> Tensor:
        """The block's output. Nothing is added in place: attention's backward pass may still need y."""
        return torch.relu(shortcut + y)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The block's output for its input x; y is f(x), or what attention has made of it, where that is known."""
        if y is None:
            y = self.branch(x)
        return self.merge(self.shortcut(x), y)


class BasicBlock(Block, resnet.BasicBlock):
    """torchvision's two 3x3 convolutions."""


class Bottleneck(Block, resnet.Bottleneck):
    """torchvision's 1x1, 3x3 and 1x1 convolutions; the last gives out four times as many channels."""

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch f(x), up to and including its last BatchNorm."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y))


class NarrowShortcut(nn.Conv2d):
    """A strided 1x1 convolution as a plain one of every stride-th position; its weights are a Conv2d's."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)


def shortcut_convolution(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """The 1x1 convolution of a shortcut, without bias."""
    kind = NarrowShortcut if stride > 1 and inputs < SAFE_CHANNELS else nn.Conv2d
    return kind(inputs, outputs, 1, stride, bias=False)

"""BatchNorm statistics measured anew, from images and for one network ("precise BatchNorm").

A supernet's running statistics are an average over the schemes that it was trained with, and fit none of them. So they
are reset and measured for the scheme in question (Bender et al., ICML 2018; Wu & Johnson, arXiv 2105.07576; fvcore's
`precise_bn`). Nothing of the old values is continued: the result depends on the images and the weights alone.

What fits into memory is one batch, and gives the statistics of that batch, to the bit. Above `PIXELS_AT_ONCE` the
images are divided into parts of equal size. Each part is normalised by its own statistics, as in training, and means
and variances of the parts are pooled, with the spread between the parts. The first BatchNorm gets the same numbers as
from one batch, later ones nearly the same.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ean_lib.networks.modes import eval_mode

PIXELS_AT_ONCE = 2**22  # 4,096 images of 32x32 or 83 of 224x224: 270 MB for one of the widest maps of a ResNet-50


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each channel over `count` values; the variance is unbiased, as BatchNorm keeps it."""

    count: int  # images x positions
    mean: Tensor  # (C,)
    var: Tensor  # (C,)

    def pooled(self, other: "Moments") -> "Moments":
        """The moments of both sets of values together (Chan et al. 1979)."""
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        within = self.var * (self.count - 1) + other.var * (other.count - 1)
        between = difference.square() * (self.count * other.count / count)
        return Moments(count, mean, (within + between) / (count - 1))


Record = dict[nn.Module, Moments]  # what each BatchNorm has seen


def find_batchnorms(net: nn.Module, without: Iterable[nn.Module] = ()) -> list[nn.Module]:
    """The BatchNorms of a network that keep running statistics, but for those inside the modules `without`."""
    excluded = {inner for module in without for inner in module.modules()}
    norms = []
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module not in excluded:
            norms.append(module)
    return norms


@torch.no_grad()
def reestimate_batchnorm(
    net: nn.Module, images: Tensor, *arguments: Any, norms: Iterable[nn.Module] | None = None
) -> None:
    """Measure the running statistics of net's BatchNorms anew: reset, not continued. All else stays as it was.

    Modes and momenta are put back. Only the BatchNorms work as in training; Dropout, for example, is off. A BatchNorm
    that is called several times (in a shared module) gets the statistics of all its calls; one that is not called keeps
    its own.

    Args:
        net: any module; changed in place.
        images: (B, C, H, W), B >= 2, on net's device and of its type. Above `PIXELS_AT_ONCE` pixels they go through
            the network in parts.
        *arguments: what else the network's forward is given, such as a scheme.
        norms: only these; None takes all that `find_batchnorms` finds.
    """
    norms = find_batchnorms(net) if norms is None else list(norms)
    record: Record = {}
    parts = in_parts(images)
    with eval_mode(net), measuring(norms, record):
        for part in parts:
            net(part, *arguments)
    for norm, moments in record.items():
        norm.running_mean.copy_(moments.mean)
        norm.running_var.copy_(moments.var)
        norm.num_batches_tracked.fill_(len(parts))


def in_parts(images: Tensor) -> tuple[Tensor, ...]:
    """Images (B, C, H, W) in parts of equal size (or one less) and of at most `PIXELS_AT_ONCE` pixels.

    A part has at least two images all the same, since BatchNorm cannot take the variance of one value.
    """
    count, _, height, width = images.shape
    most = max(2, PIXELS_AT_ONCE // (height * width))  # images in a part
    parts = math.ceil(count / most)
    return images.tensor_split(max(1, min(parts, count // 2)))


@contextmanager
def measuring(norms: Iterable[nn.Module], record: Record) -> Iterator[None]:
    """Within, the BatchNorms normalise by the batch that they see; the record pools what each has seen.

    Their own statistics and modes are put back at the end.
    """

    def note(norm: nn.Module, _inputs: Any, output: Tensor) -> None:
        count = output.numel() // output.shape[1]
        seen = Moments(count, norm.running_mean.clone(), norm.running_var.clone())
        record[norm] = record[norm].pooled(seen) if norm in record else seen

    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_kept(norm))
            # Tensors of their own, as BatchNorm writes into them.
            norm.running_mean = torch.zeros_like(norm.running_mean)
            norm.running_var = torch.ones_like(norm.running_var)
            norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)
            norm.momentum = 1.0  # running statistics are then those of the last batch alone
            if isinstance(norm, nn.SyncBatchNorm):
                norm.__class__ = nn.BatchNorm2d  # it would wait for processes that measure nothing
            norm.training = True
            stack.enter_context(norm.register_forward_hook(note))
        yield


@contextmanager
def using(record: Record) -> Iterator[None]:
    """Within, the BatchNorms have the statistics of the record; afterwards their own again."""
    with ExitStack() as stack:
        for norm, moments in record.items():
            stack.enter_context(_kept(norm))
            norm.running_mean, norm.running_var = moments.mean, moments.var
        yield


@contextmanager
def _kept(norm: nn.Module) -> Iterator[None]:
    """A BatchNorm's statistics and modes as they were, also after an error."""
    statistics = norm.running_mean, norm.running_var, norm.num_batches_tracked
    modes = norm.momentum, norm.training, norm.__class__
    try:
        yield
    finally:
        norm.running_mean, norm.running_var, norm.num_batches_tracked = statistics
        norm.momentum, norm.training, norm.__class__ = modes

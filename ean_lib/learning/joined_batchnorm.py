"""BatchNorm over the joined batch of all processes, also on CPUs; for as long as a training lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _AllReduce(torch.autograd.Function):
    """Sum over all processes; the gradient of a sum that everybody uses is the sum of everybody's gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduce.forward(ctx, gradient)


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the joined batch of all processes; torch's SyncBatchNorm does the same, but on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        x32 = x.float() if x.element_size() == 2 else x  # (B, C, H, W); sums lose too much in half precision
        values = x.numel() // x.shape[1]  # of each channel, on this process
        joined = _AllReduce.apply(torch.cat([x32.sum((0, 2, 3)), x32.new_tensor([float(values)])]))  # (C + 1,)
        count = joined[-1].detach()
        mean = joined[:-1] / count  # (C,)
        centred = x32 - mean[:, None, None]
        var = _AllReduce.apply(centred.square().sum((0, 2, 3))) / count  # (C,)
        if self.track_running_stats:
            self._update_statistics(mean.detach(), (var * count / (count - 1)).detach())
        scale = torch.rsqrt(var + self.eps)
        if not self.affine:
            return (centred * scale[:, None, None]).to(x.dtype)
        scale = self.weight * scale
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, var: Tensor) -> None:
        self.num_batches_tracked += 1
        # momentum=None is an average over all batches, as in nn.BatchNorm2d
        weight = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(var.to(self.running_var.dtype), weight)


@contextmanager
def joined_batchnorm(net: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Within, every BatchNorm2d of net uses the statistics of all processes' batches together.

    Afterwards, and after an error, net is an ordinary network again, which waits for no other process.
    """
    plain = [module for module in net.modules() if type(module) is nn.BatchNorm2d] if enabled else []
    try:
        for module in plain:
            module.__class__ = JoinedBatchNorm2d
        yield
    finally:
        for module in plain:
            module.__class__ = nn.BatchNorm2d

"""BatchNorm over the joined batch of all processes, also on CPUs."""

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
        x32 = x.float() if x.element_size() == 2 else x
        n = x.numel() // x.shape[1]
        joined = _AllReduce.apply(torch.cat([x32.sum((0, 2, 3)), x32.new_tensor([float(n)])]))
        count, mean = joined[-1].detach(), joined[:-1] / joined[-1].detach()
        centred = x32 - mean[:, None, None]
        var = _AllReduce.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise_batchnorm(net: nn.Module) -> None:
    """Make every BatchNorm2d of net use the statistics of all processes' batches together."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = JoinedBatchNorm2d

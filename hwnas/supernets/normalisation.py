"""Batch normalisation over the whole batch, also where several processes hold a part of it each."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hwnas.supernets import processes

BN_MOMENTUM = 0.1
BN_EPS = 1e-5


def batch_norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, training: bool) -> Tensor:
    """Normalise ``[b, c, h, w]``; in training by the joint batch of all processes, and the running statistics move.

    Args:
        x: This process's part of the batch.
        mean: Running means ``[c]``.
        var: Running variances ``[c]``.
        weight: Scales ``[c]``.
        bias: Shifts ``[c]``.
        training: Whether to normalise by the batch.
    """
    if training and processes.count() > 1:
        return _joint(x, mean, var, weight, bias)
    return F.batch_norm(x, mean, var, weight, bias, training, BN_MOMENTUM, BN_EPS)


def _joint(x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # torch's SyncBatchNorm refuses tensors of the CPU. Sums of squares lose their digits in single precision.
    var, mean = (part.double() for part in torch.var_mean(x.float(), dim=(0, 2, 3), correction=0))
    images = x.numel() // x.shape[1]
    sums = torch.stack([mean, var + mean**2, torch.ones_like(mean)]) * images
    total, squares, counts = processes.summed(sums)
    mean = total / counts
    var = squares / counts - mean**2
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), BN_MOMENTUM)
        running_var.lerp_((var * counts / (counts - 1)).to(running_var.dtype), BN_MOMENTUM)
    scale = weight * torch.rsqrt(var + BN_EPS).to(weight.dtype)
    centred = x.float() - mean.float().view(1, -1, 1, 1)
    normalised: Tensor = (centred * scale.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)).to(x.dtype)
    return normalised


class BatchNorm(nn.BatchNorm2d):
    """``BatchNorm2d`` that normalises by the joint batch of all processes in training.

    Args:
        channels: Channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=BN_EPS, momentum=BN_MOMENTUM)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[b, c, h, w]``."""
        if not self.training or processes.count() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, training=True)

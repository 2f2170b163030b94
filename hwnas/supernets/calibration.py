"""Batch-normalisation statistics of an extracted network; without this step its accuracy reads as garbage.

Source: Cai et al., "Once-for-All" (ICLR 2020), public code, ``set_running_statistics``: the averages of batch means and
of (biased) batch variances, weighted by batch size, while every layer normalises by the batch at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class _Sums:
    """Weighted sums of the statistics one layer saw."""

    mean: Tensor
    var: Tensor
    weight: float = 0.0

    def forward(self, bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
        out, mean, inverse_std = torch.native_batch_norm(x, bn.weight, bn.bias, None, None, True, 0.0, bn.eps)
        var = (inverse_std.double().pow(-2) - bn.eps).clamp_min(0)
        self.mean += mean.double() * len(x)
        self.var += var * len(x)
        self.weight += len(x)
        return out


@torch.no_grad()
def recalibrate_bn(module: nn.Module, batches: Iterable[Tensor | tuple[Tensor, Tensor]]) -> None:
    """Replace the running statistics of every ``BatchNorm2d`` in ``module`` by those of ``batches``.

    Args:
        module: A static network; only its statistics change. Layers that never run keep theirs.
        batches: Preprocessed images ``[b, c, r, r]``, or (images, labels) pairs. Use training images.

    Raises:
        ValueError: ``batches`` is empty.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d) and part.track_running_stats]
    sums: list[_Sums] = []
    training = module.training
    module.eval()
    try:
        for bn in layers:
            zeros = torch.zeros(bn.num_features, dtype=torch.float64, device=bn.weight.device)
            sums.append(_Sums(zeros, zeros.clone()))
            bn.forward = functools.partial(sums[-1].forward, bn)  # type: ignore[method-assign]
        seen = 0
        for batch in batches:
            images = batch if isinstance(batch, Tensor) else batch[0]
            module(images)
            seen += len(images)
    finally:
        for bn in layers:
            bn.__dict__.pop("forward", None)
        module.train(training)
    if not seen:
        raise ValueError("batches is empty: give at least one batch of training images")
    for bn, total in zip(layers, sums, strict=True):
        _write(bn, total)


def _write(bn: nn.BatchNorm2d, total: _Sums) -> None:
    if not total.weight or bn.running_mean is None or bn.running_var is None:
        return
    bn.running_mean.copy_(total.mean / total.weight)
    bn.running_var.copy_(total.var / total.weight)

"""An extracted network made fast for evaluation: batch normalisation folded into convolutions, activations in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwnas.supernets.modules import ConvNorm, Mix, SqueezeExcite


def fold(part: ConvNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, of the convolution that computes what ``part`` does before its activation."""
    bn = part.bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    weight = part.conv.weight.double() * scale[:, None, None, None]
    return weight, bn.bias.double() - bn.running_mean.double() * scale


def act_in_place(network: nn.Module) -> None:
    """Let the activations of this package's layers overwrite what they read, which nothing else needs there."""
    for part in network.modules():
        act = part.act if isinstance(part, ConvNorm | SqueezeExcite | Mix) else None
        if isinstance(act, nn.ReLU | nn.Hardswish):
            act.inplace = True


@torch.no_grad()
def fold_in_place(network: nn.Module) -> None:
    """Fold every batch normalisation of a static network into its convolution; for evaluation only.

    Args:
        network: Its statistics must be final; changed in place, in a way that cannot be undone.
    """
    for part in network.modules():
        if isinstance(part, ConvNorm):
            weight, bias = fold(part)
            part.conv.weight.copy_(weight)
            part.conv.bias = nn.Parameter(bias.float(), requires_grad=False)
            part.bn = nn.Identity()  # type: ignore[assignment]

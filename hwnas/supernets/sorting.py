"""Channel sorting before elastic expansion: the narrow networks get the channels that matter most.

Source: Cai et al., "Once-for-All" (ICLR 2020), section 3.3. Importance of a middle channel is the L1 norm of the
projection's weights that read it. All layers around it are permuted alike, so the widest network computes what it did.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwnas.spaces.mobilenetv3_plan import mid_channels, squeeze_channels
from hwnas.supernets.elastic import ElasticBottleneck


def sorted_order(importance: Tensor, widths: Sequence[int]) -> Tensor:
    """Return the order of channels, most important first, sorted only within bands.

    Args:
        importance: One value per channel, ``[c]``.
        widths: Ends of the bands, ascending; the last is ``c``. A network of ``widths[i]`` channels keeps its channels.
    """
    order, start = [], 0
    for end in widths:
        order.append(start + torch.argsort(importance[start:end], descending=True, stable=True))
        start = end
    return torch.cat(order)


@torch.no_grad()
def sort_bottleneck(block: ElasticBottleneck, expands: Sequence[float], expand_ratio_stage: int = 0) -> None:
    """Sort the middle channels of one elastic bottleneck, and the squeeze channels of its squeeze-and-excitation.

    Args:
        block: Changed in place.
        expands: Expansion ratios of the space.
        expand_ratio_stage: How many reductions of the expansion were already trained: sorting stays within the bands of
            the ``expand_ratio_stage + 1`` largest ratios, so networks of those ratios do not change.
    """
    assert block.expand is not None
    in_channels = block.expand.conv.in_channels
    kept = sorted(expands)[-(expand_ratio_stage + 1) :]
    widths = sorted({mid_channels(in_channels, ratio) for ratio in kept})
    order = sorted_order(block.project.conv.weight.abs().sum(dim=(0, 2, 3)), widths)
    _permute(block.project.conv, order, dim=1)
    for part in (block.expand, block.depth):
        _permute(part.conv, order)
        _permute_norm(part.bn, order)
    if block.se is None:
        return
    _permute(block.se.expand, order)
    _permute(block.se.reduce, order, dim=1)
    squeezes = sorted({squeeze_channels(width) for width in widths})
    inner = sorted_order(block.se.expand.weight.abs().sum(dim=(0, 2, 3)), squeezes)
    _permute(block.se.expand, inner, dim=1)
    _permute(block.se.reduce, inner)


def _permute(conv: nn.Conv2d, order: Tensor, dim: int = 0) -> None:
    conv.weight.copy_(conv.weight.index_select(dim, order))
    if dim == 0 and conv.bias is not None:
        conv.bias.copy_(conv.bias[order])


def _permute_norm(bn: nn.BatchNorm2d, order: Tensor) -> None:
    for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
        assert tensor is not None
        tensor.copy_(tensor[order])

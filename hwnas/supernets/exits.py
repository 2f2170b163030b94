"""Networks that keep several exits: trained together, and speaking as one (anticipate, ensemble and prune).

Source: Sarti, Lomurno, Matteucci, "Anticipate, Ensemble and Prune" (2023): the loss is the weighted sum of the exits' losses,
the output the weighted sum of their logits; OFAv2 and NATv2 teach with that output.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hwnas.config import ExitWeights
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.mobilenetv3_plan import MobileNetV3Architecture
from hwnas.supernets.modules import make_block
from hwnas.supernets.static import StaticNetwork


def exit_weights(kind: ExitWeights, count: int) -> tuple[float, ...]:
    """Return the weight of each of ``count`` exits, first exit first; they sum to 1.

    Args:
        kind: ``uniform``: 1/n each; ``ascending``: in proportion to an exit's number; ``descending``: the reverse.
        count: How many exits.
    """
    parts = [1] * count if kind == "uniform" else list(range(1, count + 1))
    weights = tuple(part / sum(parts) for part in parts)
    return weights[::-1] if kind == "descending" else weights


class ExitNetwork(StaticNetwork):
    """The network of an architecture with every exit up to its own, at ``exits.0``, ``exits.1``, ...

    Args:
        space: The space the architecture belongs to; it has early exits.
        architecture: What the network is.
        weights: How the output weighs the exits' logits.
    """

    def __init__(
        self, space: MobileNetV3Space, architecture: MobileNetV3Architecture, weights: ExitWeights = "ascending"
    ) -> None:
        super().__init__(space, architecture)
        del self.head
        self.exits = nn.ModuleList(make_block(plan) for plan in space.plan_exits(architecture))
        self.weights = exit_weights(weights, len(self.exits))

    def exit_logits(self, x: Tensor) -> list[Tensor]:
        """Return the logits ``[b, classes]`` of every exit, first exit first."""
        return [head(output) for head, output in zip(self.exits, self.stage_outputs(x), strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[b, c, r, r]`` to the weighted sum of the exits' logits, ``[b, classes]``."""
        parts = [weight * logits for weight, logits in zip(self.weights, self.exit_logits(x), strict=True)]
        return torch.stack(parts).sum(dim=0)


def exit_network_from_tensors(
    space: MobileNetV3Space,
    architecture: MobileNetV3Architecture,
    tensors: Mapping[str, Tensor],
    weights: ExitWeights,
) -> ExitNetwork:
    """Return the network of several exits that owns ``tensors`` (state-dict names), without a copy."""
    with torch.device("meta"):
        network = ExitNetwork(space, architecture, weights)
    network.load_state_dict(dict(tensors), assign=True)
    return network.requires_grad_(True)

"""Networks that keep several exits: trained together, and speaking as one (anticipate, ensemble and prune).

Source: Sarti, Lomurno, Matteucci, "Anticipate, Ensemble and Prune" (2023): the loss is the weighted sum of the exits' losses,
the output the weighted sum of their logits; OFAv2 and NATv2 teach with that output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hwnas.config import ExitWeights
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.mobilenetv3_plan import MobileNetV3Architecture
from hwnas.supernets.static import StaticNetwork, network_from_tensors


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
    """The network of an architecture whose exits each have a weight in the output: what is trained, and what teaches.

    Args:
        space: The space the architecture belongs to; it has early exits.
        architecture: What the network is, its exits among it.
        weights: Share of each exit's logits in the output, first exit first.
    """

    def __init__(
        self, space: MobileNetV3Space, architecture: MobileNetV3Architecture, weights: Sequence[float]
    ) -> None:
        super().__init__(space, architecture)
        self.weights = tuple(weights)

    @torch.no_grad()
    def merged(self) -> StaticNetwork:
        """Return a network that computes the same as a plain sum: the weights are in its classifiers, as in the layer graph.

        It shares all other tensors with this one.
        """
        tensors = dict(self.state_dict())
        for number, weight in zip(self.architecture.exits, self.weights, strict=True):
            for name in ("weight", "bias"):
                path = f"exits.{number - 1}.classifier.{name}"
                tensors[path] = tensors[path] * weight
        return network_from_tensors(self.space, self.architecture, tensors).train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[b, c, r, r]`` to the weighted sum of the exits' logits, ``[b, classes]``."""
        parts = [weight * logits for weight, logits in zip(self.weights, self.exit_logits(x), strict=True)]
        return torch.stack(parts).sum(dim=0)


def exit_network_from_tensors(
    space: MobileNetV3Space,
    architecture: MobileNetV3Architecture,
    tensors: Mapping[str, Tensor],
    weights: Sequence[float],
) -> ExitNetwork:
    """Return the network of several exits that owns ``tensors`` (state-dict names), without a copy."""
    with torch.device("meta"):
        network = ExitNetwork(space, architecture, weights)
    network.load_state_dict(dict(tensors), assign=True)
    return network.requires_grad_(True)

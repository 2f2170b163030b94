"""Which exits of an ensemble are worth keeping.

Source: Sarti, Lomurno, Matteucci, "Anticipate, Ensemble and Prune" (2023): every on/off pattern of the exits is evaluated on
the validation images, the best is kept.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.datasets.split import Split
from hwnas.finetuning.loop import EVALUATION_BATCH, EpochRecord, score
from hwnas.finetuning.variant import Variant, early_space, shares
from hwnas.spaces.base import SearchSpace
from hwnas.supernets.evaluation import Metric, predict_logits
from hwnas.supernets.exits import ExitNetwork

FloatArray = NDArray[np.float32]


class _Stacked(nn.Module):
    """The logits of every exit as one tensor."""

    def __init__(self, network: ExitNetwork) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Map images to ``[b, exits, classes]``."""
        return torch.stack(self.network.exit_logits(x), dim=1)


@dataclass(frozen=True)
class Pattern:
    """Exits that may be kept: their numbers, and the weight of every exit of the whole ensemble, 0 where it is off."""

    exits: tuple[int, ...]
    weights: tuple[float, ...]

    def output(self, logits: FloatArray) -> FloatArray:
        """Return what an ensemble with these exits says: ``[n, exits, classes]`` to ``[n, classes]``."""
        summed: FloatArray = np.einsum("e,nec->nc", np.array(self.weights, dtype=np.float32), logits)
        return summed


def patterns(space: SearchSpace[Any], variant: Variant) -> list[Pattern]:
    """Return every choice of at least one of a variant's exits, that with the fewest MACs first.

    The weights of those that stay keep their proportions and sum to 1. Without the deepest exit the stages behind the last
    one left are gone too.
    """
    early, found = early_space(space), []
    for on in itertools.product((False, True), repeat=len(variant.exits)):
        if any(on):
            exits = tuple(itertools.compress(variant.exits, on))
            weights = shares([weight * kept for weight, kept in zip(variant.output, on, strict=True)])
            found.append(Pattern(exits, weights))
    return sorted(found, key=lambda entry: early.graph(early.with_exits(variant.architecture, entry.exits)).macs)


def best_pattern(
    candidates: list[Pattern], logits: FloatArray, labels: NDArray[np.int64], metric: Metric
) -> tuple[Pattern, float]:
    """Return the pattern with the highest metric and that metric; of equal ones the first, so the cheapest.

    Args:
        candidates: From :func:`patterns`.
        logits: Of every exit, ``[n, exits, classes]``.
        labels: ``[n]``.
        metric: Larger is better.
    """
    scores = [float(metric(candidate.output(logits), labels)) for candidate in candidates]
    best = int(np.argmax(scores))
    return candidates[best], scores[best]


class Pruner:
    """Looks after every epoch which exits of an ensemble would be kept.

    Args:
        space: The space, with early exits.
        variant: The whole ensemble.
        metric: Larger is better.
    """

    def __init__(self, space: SearchSpace[Any], variant: Variant, metric: Metric) -> None:
        self._whole = Pattern(variant.exits, variant.output)
        self._patterns = patterns(space, variant)
        self._metric = metric

    def record(self, network: nn.Module, split: Split, epoch: int, train_loss: float | None) -> EpochRecord:
        """Return the figures of an epoch on the validation split; each image runs once."""
        assert isinstance(network, ExitNetwork)
        batches = split.batches(EVALUATION_BATCH, network.architecture.resolution)
        logits, labels = predict_logits(_Stacked(network), batches)
        loss, accuracy = score(self._whole.output(logits), labels, self._metric)
        kept, kept_accuracy = best_pattern(self._patterns, logits, labels, self._metric)
        return EpochRecord(epoch, train_loss, loss, accuracy, kept.exits, kept_accuracy)

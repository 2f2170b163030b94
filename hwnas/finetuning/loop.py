"""One epoch of ordinary training of one network, and its score on a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.datasets.split import Split
from hwnas.errors import ConfigError
from hwnas.supernets.evaluation import Metric, predict_logits
from hwnas.supernets.steps import MOMENTUM, LossSetting, network_loss, soft_labels

EVALUATION_BATCH = 256
FINAL_SHARE = 1e-4
"""Share of the learning rate left at the end of the cosine (NATv2: 1e-4 down to 1e-8)."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        epoch: Epochs done; 0 is the network before any training.
        train_loss: Mean training loss; None at epoch 0.
        validation_loss: Cross entropy on the validation split; None where it was not looked at.
        validation_accuracy: The metric on the validation split; None where it was not looked at.
        kept_exits: Of an ensemble of exits that is pruned, those whose output has the highest metric, by number.
        kept_accuracy: That metric.
    """

    epoch: int
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    kept_exits: tuple[int, ...] | None = None
    kept_accuracy: float | None = None

    @property
    def accuracy(self) -> float:
        """The metric on the validation split of what would be kept after this epoch."""
        return (self.validation_accuracy if self.kept_accuracy is None else self.kept_accuracy) or 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data; what was kept of an ensemble only where one was pruned."""
        unused = set() if self.kept_exits else {"kept_exits", "kept_accuracy"}
        return {key: value for key, value in asdict(self).items() if key not in unused}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> EpochRecord:
        """Read what :meth:`as_dict` wrote."""
        record = cls(**value)
        return record if record.kept_exits is None else replace(record, kept_exits=tuple(record.kept_exits))


def make_optimizer(
    module: nn.Module, name: Literal["sgd", "adamw"], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return the optimiser; biases and normalisation do not decay."""
    decay = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    keep = [parameter for parameter in module.parameters() if parameter.dim() <= 1]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)


def cosine(learning_rate: float, fraction: float) -> float:
    """Return the learning rate after ``fraction`` of the schedule (0 to 1)."""
    share = (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2
    return learning_rate * (FINAL_SHARE + (1 - FINAL_SHARE) * share)


def epoch_seed(*key: int) -> int:
    """Return the seed of order and augmentation of one epoch: the same key gives the same seed."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_batches(
    split: Split, batch_size: int, resolution: int, augment: str, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return one epoch of shuffled, augmented batches."""
    return split.batches(batch_size, resolution, augment=augment, shuffle_seed=seed)


def train_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    learning_rate: float,
    setting: LossSetting,
    teacher: nn.Module | None = None,
) -> float:
    """Do one optimiser step; returns the loss.

    Raises:
        ConfigError: The loss is not finite.
    """
    images, labels = batch
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    loss = network_loss(module, images, labels, soft_labels(teacher, images, setting), setting)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ConfigError(
            "the loss is not finite: training diverged. Lower finetune.learning_rate (train.learning_rate)."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def train_epoch(
    module: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    step: Callable[[int, tuple[Tensor, Tensor]], float],
    seed: int,
) -> float:
    """Run ``step(index, batch)`` over an epoch with torch's own randomness (dropout) seeded; returns the mean loss."""
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        losses = [step(index, batch) for index, batch in enumerate(batches)]
    return float(np.mean(losses))


def validate(module: nn.Module, split: Split, resolution: int, metric: Metric) -> tuple[float, float]:
    """Return cross entropy and metric of ``module`` on ``split``."""
    return score(*predict_logits(module, split.batches(EVALUATION_BATCH, resolution)), metric)


def score(logits: NDArray[np.float32], labels: NDArray[np.int64], metric: Metric) -> tuple[float, float]:
    """Return cross entropy and metric of logits ``[n, classes]`` against labels ``[n]``."""
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    return float(loss), float(metric(logits, labels))

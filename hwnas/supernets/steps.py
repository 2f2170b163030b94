"""One optimiser step on sampled networks: what training and adaptation share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.config import Precision
from hwnas.datasets.data import ImageData
from hwnas.errors import ConfigError
from hwnas.supernets import processes
from hwnas.supernets.base import AnySupernet

MOMENTUM = 0.9

_ORDER, _AUGMENT, _RESOLUTION, _SUBNET, _PROBE = range(5)


def stream(*key: int) -> np.random.Generator:
    """Return the random generator of a key (seed, what for, phase, step, ...): the same key gives the same numbers."""
    return np.random.default_rng(key)


def resolution_stream(seed: int, phase: int, step: int) -> np.random.Generator:
    """Return the generator that draws the resolution of a step."""
    return stream(seed, _RESOLUTION, phase, step)


def subnet_stream(seed: int, phase: int, step: int, subnet: int) -> np.random.Generator:
    """Return the generator that draws one network of a step."""
    return stream(seed, _SUBNET, phase, step, subnet)


def probe_stream(seed: int, phase: int, number: int) -> np.random.Generator:
    """Return the generator that draws one of the networks evaluated after a phase."""
    return stream(seed, _PROBE, phase, number)


class BatchOrder:
    """Training batches by step number, so that any step can be drawn again after a restart.

    Every epoch is a permutation of its own; a rest smaller than a batch is left out (another one in every epoch).

    Args:
        data: The images.
        batch_size: Images per step; the whole split if it has fewer.
        seed: Seed of order and augmentation.
    """

    def __init__(self, data: ImageData, batch_size: int, seed: int) -> None:
        self._data = data
        self._batch_size = min(batch_size, len(data.train))
        self._seed = seed
        self._epoch: tuple[int, int] | None = None
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def batch(self, phase: int, step: int, resolution: int) -> tuple[Tensor, Tensor]:
        """Return images (float ``[b, c, r, r]``) and labels of one step of a phase."""
        count = len(self._data.train)
        epoch, index = divmod(step, count // self._batch_size)
        if self._epoch != (phase, epoch):
            self._epoch = (phase, epoch)
            self._order = stream(self._seed, _ORDER, phase, epoch).permutation(count)
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        seed = int(stream(self._seed, _AUGMENT, phase, step).integers(2**62))
        batches = self._data.train.batches(
            len(rows), resolution, augment=self._data.augment, shuffle_seed=seed, indices=rows
        )
        return next(batches)


@dataclass(frozen=True)
class LossSetting:
    """What is minimised.

    Attributes:
        label_smoothing: Share of the labels that is spread over all classes.
        distillation: Weight of the teacher's soft labels.
        exits: Weight of the loss of each exit, first exit first; None: networks have their own exit only.
    """

    label_smoothing: float = 0.0
    distillation: float = 0.0
    exits: tuple[float, ...] | None = None


def subnet_loss(logits: Tensor, labels: Tensor, soft: Tensor | None, setting: LossSetting) -> Tensor:
    """Return ``kd * CE(teacher's probabilities) + CE(labels)`` (Once-for-All's training script)."""
    loss = F.cross_entropy(logits, labels, label_smoothing=setting.label_smoothing)
    return loss if soft is None else loss + setting.distillation * F.cross_entropy(logits, soft)


@torch.no_grad()
def soft_labels(teacher: nn.Module | None, images: Tensor, setting: LossSetting) -> Tensor | None:
    """Return the teacher's probabilities ``[b, classes]``; None without a teacher or without distillation."""
    if teacher is None or not setting.distillation:
        return None
    return F.softmax(teacher(images), dim=1)


def make_optimizer(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum; batch normalisation, biases and kernel matrices do not decay."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (keep if parameter.dim() < 2 or ".matrix_" in name else decay).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)


def network_loss(module: Any, images: Tensor, labels: Tensor, soft: Tensor | None, setting: LossSetting) -> Tensor:
    """Return the loss of a network; with ``setting.exits`` the weighted sum of its exits' losses (``exit_logits``)."""
    if setting.exits is None:
        return subnet_loss(module(images), labels, soft, setting)
    logits = module.exit_logits(images)
    losses = [subnet_loss(exit_logits, labels, soft, setting) for exit_logits in logits]
    return torch.stack([weight * loss for weight, loss in zip(setting.exits, losses, strict=True)]).sum()


def accumulate(
    supernet: AnySupernet,
    architectures: Sequence[Any],
    batch: tuple[Tensor, Tensor],
    teacher: nn.Module | None,
    setting: LossSetting,
    precision: Precision = "fp32",
) -> float:
    """Add the gradient of the mean loss over ``architectures`` on one batch; returns that loss.

    Of several processes each computes its part of the batch; gradients and loss are those of the whole.

    Raises:
        ConfigError: The loss is not finite.
    """
    part = processes.part_of(len(batch[1]))
    images, labels = batch[0][part], batch[1][part]
    share = len(labels) / len(batch[1])
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        soft = soft_labels(teacher, images, setting)
    losses = []
    for architecture in architectures:
        supernet.set_active(architecture)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = network_loss(supernet, images, labels, soft, setting) / len(architectures)
        if share < 1:
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    processes.sum_gradients(supernet.parameters())
    total = processes.total(sum(map(float, losses)))
    if not np.isfinite(total):
        raise processes.said_once(
            ConfigError(
                "the training loss is not finite: training diverged. Lower the learning rate (train.learning_rate)."
            )
        )
    return total

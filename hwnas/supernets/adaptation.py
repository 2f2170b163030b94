"""Adaptation of a trained supernet during the search: a few cheap passes over the networks the search prefers.

Source: Lu et al., "Neural Architecture Transfer" (TPAMI 2021) and NATv2's training script (Sarti et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwnas.datasets.data import ImageData
from hwnas.progress import Advance
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.evaluation import check_fits
from hwnas.supernets.phases import steps_per_epoch
from hwnas.supernets.steps import BatchOrder, LossSetting, accumulate, make_optimizer, subnet_stream

Sampler = Callable[[np.random.Generator], NDArray[np.int64]]
"""Draws one encoding, shape ``[n_genes]``."""

WEIGHT_DECAY = 3e-4
CLIP_NORM = 5.0


@dataclass(frozen=True)
class AdaptReport:
    """What adaptation came to: optimiser steps, and the mean loss over the first and the last tenth of them."""

    steps: int
    first_loss: float
    last_loss: float


def adapt(
    supernet: AnySupernet,
    data: ImageData,
    sampler: Sampler,
    *,
    epochs: float,
    learning_rate: float,
    seed: int,
    batch_size: int,
    teacher: nn.Module | None = None,
    subnets: int = 1,
    distillation: float = 1.0,
    progress: Advance | None = None,
) -> AdaptReport:
    """Train the networks that ``sampler`` draws, in place, at a constant learning rate with fresh momentum.

    The batch has the resolution of the first network drawn for it (the public code of NATv2 ignores that gene here).

    Args:
        supernet: Changed in place.
        data: The images.
        sampler: Called with a generator of (seed, step, network); its encodings are repaired.
        epochs: Passes over the training images; 0 does nothing.
        learning_rate: Constant; the search anneals it from call to call.
        seed: Seed of order, augmentation and sampling.
        batch_size: Images per step.
        teacher: Its soft labels are added with weight ``distillation``; None: labels only.
        subnets: Networks per step.
        distillation: Weight of the teacher's soft labels.
        progress: Told of every step.

    Raises:
        SpaceError: The space does not fit the data, or ``sampler`` draws something outside it.
        ConfigError: The loss is not finite.
    """
    check_fits(supernet.space, data)
    batches = BatchOrder(data, batch_size, seed)
    steps = round(epochs * steps_per_epoch(len(data.train), batch_size))
    optimizer = make_optimizer(supernet, learning_rate, WEIGHT_DECAY)
    setting = LossSetting(distillation=distillation)
    supernet.train()
    losses = []
    for step in range(steps):
        architectures = [_draw(supernet, sampler, seed, step, subnet) for subnet in range(subnets)]
        optimizer.zero_grad()
        batch = batches.batch(0, step, architectures[0].resolution)
        losses.append(accumulate(supernet, architectures, batch, teacher, setting))
        nn.utils.clip_grad_norm_(supernet.parameters(), CLIP_NORM)
        optimizer.step()
        if progress is not None:
            progress(1, f"adapting, loss {losses[-1]:.3f}")
    optimizer.zero_grad()
    part = max(1, steps // 10)
    first, last = (float(np.mean(some)) if some else 0.0 for some in (losses[:part], losses[-part:]))
    return AdaptReport(steps, first, last)


def _draw(supernet: AnySupernet, sampler: Sampler, seed: int, step: int, subnet: int) -> Any:
    encoding = np.asarray(sampler(subnet_stream(seed, 0, step, subnet)), dtype=np.int64)
    return supernet.space.decode(supernet.space.repair(encoding)[0])

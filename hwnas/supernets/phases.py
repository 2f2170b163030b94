"""Progressive shrinking as a list of phases: which choices are allowed, for how long, how fast.

Source: Cai et al., "Once-for-All" (ICLR 2020), section 3.3 and its training script: full, kernel, depth in two phases,
expansion in two phases.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hwnas.config import PhaseSection, TrainSection
from hwnas.errors import ConfigError
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space

EPOCH_SHARES = {"full": 180, "kernel": 125, "depth-1": 25, "depth-2": 125, "expand-1": 25, "expand-2": 125}
"""Epochs of each phase in the published script (warm-up included); only their ratios matter here."""

SUBNETS = {"full": 1, "kernel": 1, "depth-1": 2, "depth-2": 2, "expand-1": 4, "expand-2": 4}
"""Networks sampled per step in the published script."""


T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: Shown in progress and reports.
        kernels: Kernel sides that may be sampled, ascending.
        expands: Expansion ratios that may be sampled, ascending.
        depths: Stage depths that may be sampled, ascending.
        epochs: Passes over the training images (shared between widths).
        learning_rate: Peak learning rate.
        subnets: Networks sampled per step.
        sort_stage: Channel sorting before the phase, by the number of reductions already trained; None: no sorting.
        distil: Whether the largest network teaches.
    """

    name: str
    kernels: tuple[int, ...]
    expands: tuple[float, ...]
    depths: tuple[int, ...]
    epochs: float
    learning_rate: float
    subnets: int
    sort_stage: int | None = None
    distil: bool = False

    def steps(self, images: int, batch_size: int) -> int:
        """Return the number of optimiser steps for a training split of ``images``."""
        return max(1, round(self.epochs * steps_per_epoch(images, batch_size)))

    def sample(self, space: MobileNetV3Space, rng: np.random.Generator, width: float) -> MobileNetV3Architecture:
        """Draw an architecture of this phase: every stage's depth, every layer's kernel and expansion uniform."""
        depths = [self.depths[index] for index in rng.integers(len(self.depths), size=len(space.stages))]
        kernels = tuple(tuple(self.kernels[i] for i in rng.integers(len(self.kernels), size=depth)) for depth in depths)
        expands = tuple(tuple(self.expands[i] for i in rng.integers(len(self.expands), size=depth)) for depth in depths)
        return MobileNetV3Architecture(space.resolutions[-1], width, kernels, expands)

    def extreme(self, space: MobileNetV3Space, width: float, *, largest: bool) -> MobileNetV3Architecture:
        """Return the smallest or largest architecture of this phase."""
        index = -1 if largest else 0
        stages, depth = len(space.stages), self.depths[index]
        kernels, expands = ((self.kernels[index],) * depth,) * stages, ((self.expands[index],) * depth,) * stages
        return MobileNetV3Architecture(space.resolutions[-1], width, kernels, expands)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the whole batches in an epoch, at least one."""
    return max(1, images // batch_size)


def phases_of(section: TrainSection, space: MobileNetV3Space) -> tuple[Phase, ...]:
    """Return the phases of a training section.

    Without ``phases`` the published order is used, steps that shrink nothing in this space are left out, and ``epochs``
    is split in the published proportions. Every phase peaks at the section's learning rate: the published script lowers
    it to 6-37 %, which suits its 180 epochs of ``full``; after a few epochs it leaves the small networks behind.

    With ``phases``, a choice a phase does not name stays as in the phase before (only the largest at first).

    Raises:
        ConfigError: A phase names choices that are not the largest of the space's; the key is named.
    """
    phases = _given(section.phases, section, space) if section.phases else _published(section, space)
    return tuple(_finish(phases))


def _published(section: TrainSection, space: MobileNetV3Space) -> list[Phase]:
    kernels, expands, depths = space.kernels[-1:], space.expands[-1:], space.depths[-1:]
    steps: list[tuple[str, tuple[int, ...], tuple[float, ...], tuple[int, ...]]] = [("full", kernels, expands, depths)]
    if len(space.kernels) > 1:
        kernels = space.kernels
        steps.append(("kernel", kernels, expands, depths))
    if len(space.depths) > 2:
        steps.append(("depth-1", kernels, expands, space.depths[-2:]))
    if len(space.depths) > 1:
        depths = space.depths
        steps.append(("depth-2", kernels, expands, depths))
    if len(space.expands) > 2:
        steps.append(("expand-1", kernels, space.expands[-2:], depths))
    if len(space.expands) > 1:
        steps.append(("expand-2", kernels, space.expands, depths))
    total = sum(EPOCH_SHARES[name] for name, *_ in steps)
    return [
        Phase(
            name,
            phase_kernels,
            phase_expands,
            phase_depths,
            section.epochs * EPOCH_SHARES[name] / total,
            section.learning_rate,
            SUBNETS[name],
        )
        for name, phase_kernels, phase_expands, phase_depths in steps
    ]


def _given(given: Sequence[PhaseSection], section: TrainSection, space: MobileNetV3Space) -> list[Phase]:
    kernels, expands, depths = space.kernels[-1:], space.expands[-1:], space.depths[-1:]
    phases = []
    for entry in given:
        kernels = _choices(entry.kernel, kernels, space.kernels, f"train.phases[{entry.name}].kernel")
        expands = _choices(entry.expand, expands, space.expands, f"train.phases[{entry.name}].expand")
        depths = _choices(entry.depth, depths, space.depths, f"train.phases[{entry.name}].depth")
        rate = entry.learning_rate or section.learning_rate
        phases.append(Phase(entry.name, kernels, expands, depths, entry.epochs, rate, entry.subnets))
    return phases


def _choices(named: Sequence[float] | None, before: tuple[T, ...], allowed: tuple[T, ...], key: str) -> tuple[T, ...]:
    if named is None:
        return before
    chosen = tuple(value for value in allowed if value in named)
    if len(chosen) != len(set(named)) or chosen != allowed[len(allowed) - len(chosen) :]:
        raise ConfigError(
            f"{key}={list(named)} must be the last one or more of the space's choices {list(allowed)}: "
            "shrinking goes from the largest down."
        )
    return chosen


def _finish(phases: Sequence[Phase]) -> list[Phase]:
    """Add channel sorting where the expansion shrinks, and a teacher from the second phase on."""
    finished: list[Phase] = []
    for index, phase in enumerate(phases):
        before = len(phases[index - 1].expands) if index else 1
        sort_stage = before - 1 if index and len(phase.expands) > before else None
        finished.append(dataclasses.replace(phase, sort_stage=sort_stage, distil=index > 0))
    return finished


def learning_rate_at(step: int, steps: int, warmup: int, peak: float) -> float:
    """Return the learning rate of one step: linear warm-up from a tenth, then a cosine to zero."""
    if step < warmup:
        return peak * (0.1 + 0.9 * step / warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

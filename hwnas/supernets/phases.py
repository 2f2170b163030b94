"""Progressive shrinking as a list of phases: which choices are allowed, for how long, how fast.

Sources: Cai et al., "Once-for-All" (ICLR 2020), section 3.3 and its training script: full, kernel, depth in two phases,
expansion in two phases; Sarti et al., "OFAv2" (2023): between kernel and depth, the number of branches of parallel blocks in
two phases, and the exit in as many as there are earlier ones.
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
from hwnas.presets import PRESETS, PhasePreset
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.spaces.mobilenetv3_codes import BOTTLENECK, LEVELS, sets_of_level

EXIT_PHASES = sum(name.startswith("exit-") for name in PRESETS["paper"].phases)

_NEEDS = {"level": "blocks: parallel (or dense-parallel)", "exit": "exits: early"}

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Choices:
    """What may be sampled, each ascending.

    Attributes:
        kernel: Kernel sides.
        expand: Expansion ratios.
        depth: Stage depths.
        level: How many branches of a parallel block are on; empty without such blocks.
        exit: After how many stages a network ends; empty without early exits.
    """

    kernel: tuple[int, ...]
    expand: tuple[float, ...]
    depth: tuple[int, ...]
    level: tuple[int, ...] = ()
    exit: tuple[int, ...] = ()

    @classmethod
    def of(cls, space: MobileNetV3Space) -> Choices:
        """Return every choice of a space."""
        levels = LEVELS if space.parallel else ()
        return cls(space.kernels, space.expands, space.depths, levels, space.exits if space.early else ())

    def largest(self) -> Choices:
        """Return only the largest of each."""
        return Choices(*(getattr(self, field.name)[-1:] for field in dataclasses.fields(self)))


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: Shown in progress and reports.
        choices: What may be sampled.
        epochs: Passes over the training images (shared between widths).
        learning_rate: Peak learning rate.
        subnets: Networks sampled per step.
        warmup_epochs: Epochs in which the learning rate rises to its peak.
        sort_stage: Channel sorting before the phase, by the number of reductions already trained; None: no sorting.
        distil: Whether the largest network teaches.
    """

    name: str
    choices: Choices
    epochs: float
    learning_rate: float
    subnets: int
    warmup_epochs: float
    sort_stage: int | None = None
    distil: bool = False

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sides that may be sampled, ascending."""
        return self.choices.kernel

    @property
    def expands(self) -> tuple[float, ...]:
        """Expansion ratios that may be sampled, ascending."""
        return self.choices.expand

    @property
    def depths(self) -> tuple[int, ...]:
        """Stage depths that may be sampled, ascending."""
        return self.choices.depth

    @property
    def all_exits(self) -> bool:
        """Whether networks train with every exit at once: there are several, and only the last may be sampled yet."""
        return len(self.choices.exit) == 1

    def steps(self, images: int, batch_size: int) -> int:
        """Return the number of optimiser steps for a training split of ``images``."""
        return max(1, round(self.epochs * steps_per_epoch(images, batch_size)))

    def sample(self, space: MobileNetV3Space, rng: np.random.Generator, width: float) -> MobileNetV3Architecture:
        """Draw an architecture of this phase.

        The exit, every stage's depth, every layer's kernel, expansion and number of branches are uniform, and so is which
        branches these are.
        """
        choices, stages = self.choices, len(space.stages)
        if choices.exit:
            stages = choices.exit[int(rng.integers(len(choices.exit)))]
        depths = [choices.depth[index] for index in rng.integers(len(choices.depth), size=stages)]
        kernels = [[choices.kernel[i] for i in rng.integers(len(choices.kernel), size=depth)] for depth in depths]
        expands = [[choices.expand[i] for i in rng.integers(len(choices.expand), size=depth)] for depth in depths]
        branches = [[self._draw_branches(rng) for _ in range(depth)] for depth in depths]
        drawn = zip(kernels, expands, branches, strict=True)
        layers = tuple(tuple(zip(*stage, strict=True)) for stage in drawn)
        return space.assemble(space.resolutions[-1], width, layers)

    def _draw_branches(self, rng: np.random.Generator) -> int:
        levels = self.choices.level
        if not levels:
            return BOTTLENECK
        sets = sets_of_level(levels[int(rng.integers(len(levels)))])
        return sets[int(rng.integers(len(sets)))]

    def extreme(self, space: MobileNetV3Space, width: float, *, largest: bool) -> MobileNetV3Architecture:
        """Return the smallest or largest architecture of this phase; the smallest has the first exit."""
        index, choices = -1 if largest else 0, self.choices
        stages = choices.exit[index] if choices.exit else len(space.stages)
        branches = sets_of_level(choices.level[index])[index] if choices.level else BOTTLENECK
        layer = (choices.kernel[index], choices.expand[index], branches)
        return space.assemble(space.resolutions[-1], width, ((layer,) * choices.depth[index],) * stages)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the whole batches in an epoch, at least one."""
    return max(1, images // batch_size)


def phases_of(section: TrainSection, space: MobileNetV3Space) -> tuple[Phase, ...]:
    """Return the phases of a training section.

    Without ``phases`` the published order is used, steps that shrink nothing in this space are left out, and ``epochs``
    is split in the published proportions. Every phase peaks at the section's learning rate: the published script lowers
    it to 6-37 %, which suits its 180 epochs of ``full``; after a few epochs it leaves the small networks behind.

    With ``preset`` every phase has the preset's epochs, rate and warm-up. The section's ``epochs`` and ``learning_rate`` are
    then those of the whole preset, so that others stretch all of its phases alike; a phase this space lacks takes its epochs
    with it.

    With ``phases``, a choice a phase does not name stays as in the phase before (only the largest at first).

    Raises:
        ConfigError: A phase names choices that are not the largest of the space's, or that the space does not have; the
            key is named.
    """
    phases = _given(section.phases, section, space) if section.phases else _published(section, space)
    return tuple(_finish(phases))


def _steps_of(key: str, allowed: tuple[T, ...]) -> list[tuple[str, tuple[T, ...], str]]:
    """Return the phases that shrink one choice: name, what is allowed, what they are called in a preset."""
    if key == "exit":
        last = len(allowed) - 1  # the preset's last exit phase is the last one here
        return [(f"exit-{i}", allowed[-i - 1 :], f"exit-{max(1, EXIT_PHASES - last + i)}") for i in range(1, last + 1)]
    names = {"kernel": {0: "kernel"}}.get(key, {2: f"{key}-1", 0: f"{key}-2"})
    return [(name, allowed[-count:], name) for count, name in names.items() if len(allowed) > max(1, count)]


def _published(section: TrainSection, space: MobileNetV3Space) -> list[Phase]:
    everything = Choices.of(space)
    choices = everything.largest()
    preset = PRESETS[section.preset or "paper"]
    steps: list[tuple[str, Choices, PhasePreset]] = [("full", choices, preset.phases["full"])]
    for key in ("kernel", "level", "exit", "depth", "expand"):
        for name, allowed, called in _steps_of(key, getattr(everything, key)):
            choices = dataclasses.replace(choices, **{key: allowed})
            steps.append((name, choices, preset.phases[called]))
    if section.preset is None:
        total = sum(phase.epochs for *_, phase in steps)
        rate, warmup = section.learning_rate, section.warmup_epochs
        return [
            Phase(n, c, section.epochs * phase.epochs / total, rate, phase.subnets, warmup) for n, c, phase in steps
        ]
    stretch, faster = section.epochs / preset.epochs, section.learning_rate / preset.learning_rate
    return [
        Phase(
            name,
            allowed,
            phase.epochs * stretch,
            phase.learning_rate * faster,
            phase.subnets,
            section.warmup_epochs if phase.warmup else 0,
        )
        for name, allowed, phase in steps
    ]


def _given(given: Sequence[PhaseSection], section: TrainSection, space: MobileNetV3Space) -> list[Phase]:
    everything = Choices.of(space)
    choices = everything.largest()
    phases = []
    for entry in given:
        for field in dataclasses.fields(Choices):
            named, key = getattr(entry, field.name), f"train.phases[{entry.name}].{field.name}"
            before, allowed = getattr(choices, field.name), getattr(everything, field.name)
            choices = dataclasses.replace(choices, **{field.name: _allowed(named, before, allowed, key)})
        rate = entry.learning_rate or section.learning_rate
        warmup = section.warmup_epochs if entry.warmup_epochs is None else entry.warmup_epochs
        phases.append(Phase(entry.name, choices, entry.epochs, rate, entry.subnets, warmup))
    return phases


def _allowed(named: Sequence[float] | None, before: tuple[T, ...], allowed: tuple[T, ...], key: str) -> tuple[T, ...]:
    if named is None:
        return before
    if not allowed:
        raise ConfigError(
            f"{key}={list(named)}: this space has no such choice. Take the key out, or give the space the setting "
            f"{_NEEDS[key.rpartition('.')[2]]}."
        )
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
        before = len(phases[index - 1].choices.expand) if index else 1
        sort_stage = before - 1 if index and len(phase.choices.expand) > before else None
        finished.append(dataclasses.replace(phase, sort_stage=sort_stage, distil=index > 0))
    return finished


def learning_rate_at(step: int, steps: int, warmup: int, peak: float) -> float:
    """Return the learning rate of one step: linear warm-up from a tenth, then a cosine to zero."""
    if step < warmup:
        return peak * (0.1 + 0.9 * step / warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

"""Presets of supernet training as plain data: what ``train.preset`` stands for.

Source of ``paper``: the training script of OFAv2 (Sarti et al., 2023; 64 images a step on one GPU), whose kernel, depth and
expansion phases are those of Once-for-All (Cai et al., 2020; the same epochs and subnets, its rates per GPU differ by 2 %).
The other two keep its order and its subnets with few epochs; each of their phases peaks at the full rate, because at a tenth
of it the small networks of a short training stay behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PhasePreset:
    """One phase of a preset.

    Attributes:
        epochs: Passes over the training images, warm-up included.
        learning_rate: Peak learning rate.
        subnets: Networks sampled per step.
        warmup: Whether it begins with the section's ``warmup_epochs``; without, at its peak.
    """

    epochs: float
    learning_rate: float
    subnets: int
    warmup: bool = True


@dataclass(frozen=True)
class Preset:
    """What ``train.preset`` stands for.

    Attributes:
        phases: By name, in order; a space leaves out those that shrink nothing in it. Of ``exit-1``, ``exit-2``, ... it
            takes as many as it has earlier exits, from the last one back.
        keys: Keys of the train section; what a run file gives itself wins.
    """

    phases: dict[str, PhasePreset]
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """The highest of the phases' rates."""
        return max(phase.learning_rate for phase in self.phases.values())

    @property
    def epochs(self) -> float:
        """Epochs of all phases."""
        return sum(phase.epochs for phase in self.phases.values())

    @property
    def section(self) -> dict[str, Any]:
        """The keys of the train section with its epochs and learning rate."""
        return {**self.keys, "epochs": self.epochs, "learning_rate": self.learning_rate}


_COMMON = {"weight_decay": 3e-5, "label_smoothing": 0.1, "distillation": 1.0, "sampling": "uniform"}

PRESETS: dict[str, Preset] = {
    "paper": Preset(
        {
            "full": PhasePreset(180, 0.08, 1, warmup=False),
            "kernel": PhasePreset(125, 0.03, 1),
            "level-1": PhasePreset(25, 0.0025, 2, warmup=False),
            "level-2": PhasePreset(125, 0.0075, 2),
            "exit-1": PhasePreset(25, 0.001875, 2, warmup=False),
            "exit-2": PhasePreset(65, 0.00375, 2),
            "exit-3": PhasePreset(95, 0.0075, 2),
            "exit-4": PhasePreset(125, 0.015, 2),
            "depth-1": PhasePreset(25, 0.0025, 2, warmup=False),
            "depth-2": PhasePreset(125, 0.0075, 2),
            "expand-1": PhasePreset(25, 0.0025, 4, warmup=False),
            "expand-2": PhasePreset(125, 0.0075, 4),
        },
        {**_COMMON, "batch_size": 64, "warmup_epochs": 5},
    ),
    "gpu-30min": Preset(
        {
            "full": PhasePreset(36, 0.2, 1),
            "kernel": PhasePreset(18, 0.2, 1),
            "level-1": PhasePreset(4, 0.2, 2),
            "level-2": PhasePreset(12, 0.2, 2),
            "exit-1": PhasePreset(2, 0.2, 2),
            "exit-2": PhasePreset(4, 0.2, 2),
            "exit-3": PhasePreset(6, 0.2, 2),
            "exit-4": PhasePreset(8, 0.2, 2),
            "depth-1": PhasePreset(4, 0.2, 2),
            "depth-2": PhasePreset(12, 0.2, 2),
            "expand-1": PhasePreset(4, 0.2, 4),
            "expand-2": PhasePreset(12, 0.2, 4),
        },
        {**_COMMON, "batch_size": 256, "warmup_epochs": 1},
    ),
    "cpu-60min": Preset(
        {
            "full": PhasePreset(4, 0.1, 1),
            "kernel": PhasePreset(2, 0.1, 1),
            "level-1": PhasePreset(0.5, 0.1, 2),
            "level-2": PhasePreset(1, 0.1, 2),
            "exit-1": PhasePreset(0.25, 0.1, 2),
            "exit-2": PhasePreset(0.25, 0.1, 2),
            "exit-3": PhasePreset(0.5, 0.1, 2),
            "exit-4": PhasePreset(0.5, 0.1, 2),
            "depth-1": PhasePreset(0.5, 0.1, 2),
            "depth-2": PhasePreset(1.5, 0.1, 2),
            "expand-1": PhasePreset(0.5, 0.1, 4),
            "expand-2": PhasePreset(1.5, 0.1, 4),
        },
        {**_COMMON, "batch_size": 64, "warmup_epochs": 0.25},
    ),
}

"""What a few networks reach on the validation split: after every phase, and in the end."""

from __future__ import annotations

from collections.abc import Mapping

from hwnas.datasets.data import ImageData
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.supernets.base import Supernet
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.supernets.phases import Phase
from hwnas.supernets.steps import probe_stream, stream

RANDOM = 3
PHASE_IMAGES = 2000
"""Validation images after a phase, at most: the standard error of an accuracy of 70 % is then one point."""

Named = dict[str, MobileNetV3Architecture]


def of_phase(phase: Phase, index: int, space: MobileNetV3Space, seed: int) -> Named:
    """Return the largest network of a phase, its smallest, and random ones: ``random-0``, ..."""
    found = {
        "largest": phase.extreme(space, space.widths[-1], largest=True),
        "smallest": phase.extreme(space, space.widths[0], largest=False),
    }
    for number in range(RANDOM):
        width = space.widths[number % len(space.widths)]
        found[f"random-{number}"] = phase.sample(space, probe_stream(seed, index, number), width)
    return found


def of_space(space: MobileNetV3Space, seed: int) -> Named:
    """Return the largest network of a space, its smallest, and random ones."""
    rows = space.sample(stream(seed), RANDOM)
    drawn = {f"random-{number}": space.decode(row) for number, row in enumerate(rows)}
    return {"largest": space.largest, "smallest": space.smallest, **drawn}


def accuracies(
    supernet: Supernet[MobileNetV3Architecture],
    data: ImageData,
    named: Mapping[str, MobileNetV3Architecture],
    bn_images: int,
    validation_images: int | None = None,
) -> dict[str, float]:
    """Return the validation accuracy of each network after recalibration; the supernet stays as it is.

    Args:
        supernet: Where weights come from.
        data: The images.
        named: The networks.
        bn_images: Training images for recalibration.
        validation_images: Validation images at most; None: all.
    """
    evaluator = AccuracyEvaluator(supernet, data, bn_images=bn_images, validation_images=validation_images)
    found = {architecture: evaluator.evaluate(architecture) for architecture in dict.fromkeys(named.values())}
    return {name: found[architecture] for name, architecture in named.items()}

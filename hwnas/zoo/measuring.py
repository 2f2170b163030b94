"""Accuracies that an entry's card gives: of the weights as they lie in its files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hwnas.datasets.data import ImageData
from hwnas.progress import progress_bar
from hwnas.spaces.base import SearchSpace, unique_rows
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.zoo.card import AccuracyFacts, NetworkFacts

METRIC = "top1"
_DRAWN_PER_NETWORK = 8


def named_architectures(space: SearchSpace[Any], count: int, seed: int) -> dict[str, Any]:
    """Return the largest, the smallest and at most ``count`` random architectures by name, each another one."""
    ends = {"largest": space.largest, "smallest": space.smallest}
    rows = space.sample(np.random.default_rng(seed), _DRAWN_PER_NETWORK * count)
    others = unique_rows(rows, [space.encode(end).tobytes() for end in ends.values()])[:count]
    return {**ends, **{f"random-{index}": space.decode(row) for index, row in enumerate(others)}}


def measure_accuracies(
    supernet: AnySupernet, data: ImageData, *, bn_images: int, count: int, seed: int
) -> AccuracyFacts:
    """Measure the largest, the smallest and random networks on the whole validation split.

    Args:
        supernet: Its present weights count.
        data: The images.
        bn_images: Training images for recalibration.
        count: Random networks.
        seed: Seed of their draw.

    Raises:
        SpaceError: The space does not fit the data.
    """
    evaluator = AccuracyEvaluator(supernet, data, METRIC, bn_images=bn_images)
    named = named_architectures(supernet.space, count, seed)
    networks = []
    with progress_bar("measuring accuracies", len(named)) as advance:
        for name, architecture in named.items():
            accuracy = evaluator.evaluate(architecture)
            networks.append(_facts(supernet.space, name, architecture, accuracy, len(data.validation)))
            advance(1, f"{name}: {accuracy:.3f}")
    return AccuracyFacts(
        split="validation",
        images=len(data.validation),
        bn_images=min(bn_images, len(data.train)),
        metric=METRIC,
        networks=tuple(networks),
    )


def _facts(space: SearchSpace[Any], name: str, architecture: Any, accuracy: float, images: int) -> NetworkFacts:
    graph = space.graph(architecture)
    return NetworkFacts(
        name=name,
        encoding=tuple(space.encode(architecture).tolist()),
        parameters=graph.parameters,
        macs=graph.macs,
        accuracy=accuracy,
        standard_error=math.sqrt(accuracy * (1 - accuracy) / images),
    )

"""What an export starts from: a trained module of one architecture, and the data it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.artifacts.records import ExitEntry, Predicted, Preprocessing, SpaceEntry
from hwnas.spaces.base import Architecture, SearchSpace

if TYPE_CHECKING:
    import torch

    from hwnas.datasets.data import ImageData
    from hwnas.datasets.split import Split
    from hwnas.latency.predictor import LatencyPredictor


@dataclass(frozen=True)
class Source:
    """What is exported: a trained module of one architecture, and the data it belongs to."""

    module: torch.nn.Module
    architecture: Architecture
    space: SearchSpace[Any]
    data: ImageData
    exits: Mapping[int, float] = field(default_factory=dict)

    @property
    def resolution(self) -> int:
        """Side of the input, pixels."""
        return self.space.graph(self.architecture).input_shape[1]

    def images(self, split: Split, count: int, seed: int | None = None) -> NDArray[np.float32]:
        """Return preprocessed images ``[n, c, r, r]``: the first ones, or a seeded draw in stored order."""
        count = min(count, len(split))
        chosen = np.arange(count)
        if seed is not None:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:count])
        parts = [images.numpy() for images, _ in split.batches(64, self.resolution, indices=chosen)]
        return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)

    def described(self) -> dict[str, Any]:
        """Return the manifest's parts that say what was exported."""
        graph = self.space.graph(self.architecture)
        return {
            "architecture": self.architecture.as_dict(),
            "exits": tuple(ExitEntry(exit=number, weight=weight) for number, weight in self.exits.items()),
            "space": SpaceEntry(name=self.space.name, settings=self.space.settings(), digest=self.space.digest),
            "parameters": graph.parameters,
            "macs": graph.macs,
            "preprocessing": Preprocessing.model_validate(self.data.preprocessing(self.resolution)),
            "labels": self.data.classes,
        }


def prediction_of(model: LatencyPredictor, source: Source, statistic: str) -> Predicted | None:
    """Return what the latency model says of the architecture before it is measured; None where it knows no such networks."""
    if not source.architecture.encodable:
        return None
    answer = model.predict(source.space.encode(source.architecture)[None], statistic)
    return Predicted(
        value=float(answer.value[0]),
        low=float(answer.low[0]),
        high=float(answer.high[0]),
        unit=model.unit,
        coverage=model.conformal.coverage,
    )

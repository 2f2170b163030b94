"""A small search space and an accuracy without training, to try strategies on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.errors import SpaceError
from hwnas.spaces.base import Architecture, Block, IntArray, SearchSpace
from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.strategies.costs import GraphCounter
from hwnas.strategies.problem import FloatArray, Limit, Problem


@dataclass(frozen=True)
class ToyArchitecture(Architecture):
    """Width index and, per stage, the codes of its layers."""

    width: int
    stages: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data that names every choice."""
        return {"width": self.width, "stages": [list(stage) for stage in self.stages]}


class ToySpace(SearchSpace[ToyArchitecture]):
    """Plain convolutions in stages whose last layer may be skipped: small enough to be walked through completely.

    Args:
        stages: Number of stages.
        depth: Layers per stage; the last of them may be skipped (code 0) if ``depth`` is above 1.
        codes: Kernel choices per layer (code ``c`` is a window of ``2 c - 1``).
        widths: Number of widths.
    """

    name = "toy"

    def __init__(self, stages: int = 2, depth: int = 3, codes: int = 3, widths: int = 3) -> None:
        self.stages = stages
        self.depth = depth
        self.codes = codes
        self.widths = widths

    def settings(self) -> dict[str, Any]:
        """Return the plain data the space was made from."""
        return {"stages": self.stages, "depth": self.depth, "codes": self.codes, "widths": self.widths}

    @property
    def lower(self) -> IntArray:
        """Smallest value of each gene, ``[n_genes]``."""
        stage = [1, *(0 for _ in range(self.depth - 1))]
        return np.array([0, *stage * self.stages], dtype=np.int64)

    @property
    def upper(self) -> IntArray:
        """Largest value of each gene, ``[n_genes]``."""
        return np.array([self.widths - 1, *[self.codes] * (self.stages * self.depth)], dtype=np.int64)

    @property
    def gene_names(self) -> tuple[str, ...]:
        """Name of each gene."""
        return ("width", *(f"stages.{s}.{p}" for s in range(self.stages) for p in range(self.depth)))

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw ``count`` canonical encodings, ``[count, n_genes]``."""
        return self.repair(rng.integers(self.lower, self.upper + 1, size=(count, self.n_genes)))

    def repair(self, encodings: IntArray) -> IntArray:
        """Clip into the bounds; after the first skipped layer of a stage all later ones are skipped."""
        X = np.clip(np.atleast_2d(np.asarray(encodings, dtype=np.int64)), self.lower, self.upper)
        codes = X[:, 1:].reshape(len(X), self.stages, self.depth)
        X[:, 1:] = (codes * np.minimum.accumulate(codes > 0, axis=2)).reshape(len(X), -1)
        return X

    def encode(self, architecture: ToyArchitecture) -> IntArray:
        """Return the canonical encoding, ``[n_genes]``."""
        codes = [code for stage in architecture.stages for code in (*stage, *[0] * (self.depth - len(stage)))]
        return np.array([architecture.width, *codes], dtype=np.int64)

    def decode(self, encoding: IntArray) -> ToyArchitecture:
        """Return the architecture of an encoding.

        Raises:
            SpaceError: The encoding is not within the bounds.
        """
        self.check_bounds(encoding)
        row = self.repair(encoding)[0]
        stages = row[1:].reshape(self.stages, self.depth).tolist()
        return ToyArchitecture(int(row[0]), tuple(tuple(code for code in stage if code) for stage in stages))

    def from_dict(self, value: dict[str, Any]) -> ToyArchitecture:
        """Read what ``ToyArchitecture.as_dict`` gave.

        Raises:
            SpaceError: A choice is not of this space.
        """
        architecture = ToyArchitecture(int(value["width"]), tuple(tuple(stage) for stage in value["stages"]))
        if len(architecture.stages) != self.stages or any(len(stage) > self.depth for stage in architecture.stages):
            raise SpaceError(
                f"{value} is not of space {self.name}: it has {self.stages} stages of {self.depth} layers."
            )
        self.check_bounds(self.encode(architecture))
        return architecture

    def blocks(self, architecture: ToyArchitecture) -> tuple[Block, ...]:
        """Return the blocks in order of execution."""
        names = dict.fromkeys(layer.block for layer in self.graph(architecture).layers)
        return tuple(Block(name, f"{name}:{architecture.as_dict()}") for name in names)

    def graph(self, architecture: ToyArchitecture) -> LayerGraph:
        """Return the network: a stem of input, the convolutions, and a linear head."""
        side, channels = 8, 4 * (architecture.width + 1)
        layers = [Layer("input", "input", (), (3, side, side), "stem")]
        for s, stage in enumerate(architecture.stages):
            for p, code in enumerate(stage):
                last = layers[-1]
                name = f"stages.{s}.{p}"
                layers.append(
                    Layer(f"{name}.conv", "conv", (last.name,), (channels, side, side), name, kernel=2 * code - 1,
                          in_channels=last.shape[0])
                )  # fmt: skip
        layers.append(Layer("head.pool", "global_pool", (layers[-1].name,), (channels, 1, 1), "head"))
        layers.append(Layer("head.flatten", "flatten", ("head.pool",), (channels,), "head"))
        layers.append(Layer("head.linear", "linear", ("head.flatten",), (10,), "head", in_channels=channels))
        return LayerGraph(tuple(layers))

    @property
    def smallest(self) -> ToyArchitecture:
        """The cheapest architecture."""
        return self.decode(self.lower)

    @property
    def largest(self) -> ToyArchitecture:
        """The most expensive architecture."""
        return self.decode(self.upper)

    def enumerate(self) -> IntArray:
        """Return every canonical encoding, ``[n, n_genes]``."""
        ranges = [range(low, high + 1) for low, high in zip(self.lower, self.upper, strict=True)]
        return np.unique(self.repair(np.array(list(itertools.product(*ranges)), dtype=np.int64)), axis=0)


class AnalyticAccuracy:
    """An accuracy without training: saturating in MACs, plus effects and pairwise interactions of genes, plus noise.

    The noise belongs to the encoding, so that the same architecture always has the same accuracy.

    Args:
        space: Any space.
        seed: Seed of the effects and of the noise.
        noise: Standard deviation of the noise.
        effects: Standard deviation of one gene's effect and of one interaction of neighbouring genes.
    """

    def __init__(self, space: SearchSpace[Any], seed: int = 0, *, noise: float = 0.002, effects: float = 0.004) -> None:
        self.seed = seed
        self.noise = noise
        self._macs = GraphCounter(space, ["macs"])
        ends = np.vstack([space.encode(space.smallest), space.encode(space.largest)])
        self._low, self._high = np.log(self._macs(ends)[:, 0])
        rng = np.random.default_rng(seed)
        values = int(space.upper.max()) + 1
        self._single = rng.normal(0.0, effects, size=(space.n_genes, values))
        self._pairs = rng.normal(0.0, effects, size=(space.n_genes, values, values))

    def __call__(self, X: IntArray) -> FloatArray:
        """Return accuracies ``[n]`` of canonical encodings ``[n, n_genes]``."""
        size = (np.log(self._macs(X)[:, 0]) - self._low) / (self._high - self._low)
        smooth = 0.9 - 0.3 * np.exp(-3.0 * size)
        genes = np.arange(X.shape[1])
        single = self._single[genes, X].sum(axis=1)
        pairs = self._pairs[genes[:-1], X[:, :-1], X[:, 1:]].sum(axis=1)
        noise = np.array([np.random.default_rng([self.seed, *row.tolist()]).normal(0.0, self.noise) for row in X])
        return np.asarray(np.clip(smooth + single + pairs + noise, 0.01, 0.99), dtype=np.float64)


def macs_problem(space: SearchSpace[Any], *, budget: float | None = None, interval: float = 0.05) -> Problem:
    """Return a problem whose latency is proportional to MACs (one "ms" per million), known up to ``interval``.

    Args:
        space: Any space.
        budget: Limit as a share of the largest architecture's upper end; None for no limit.
        interval: Half-width of the interval, relative.
    """
    counter = GraphCounter(space, ["macs"])

    def predict(X: IntArray) -> tuple[FloatArray, FloatArray]:
        value = counter(X) / 1e6
        return value, value * (1.0 + interval)

    largest = predict(space.encode(space.largest)[None])[1][0, 0]
    limits = () if budget is None else (Limit("latency", float(budget * largest)),)
    return Problem(space, ("latency",), predict, limits, targets=("latency",), provenance={"costs": "macs"})

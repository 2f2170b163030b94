"""A search space: a ladder of residual rungs behind a stem, as wide and as long as one likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwnas.errors import SpaceError
from hwnas.spaces.base import Architecture, Block, IntArray, SearchSpace
from hwnas.spaces.graph import Layer, LayerGraph


class LadderSettings(BaseModel):
    """Settings of the space.

    Attributes:
        classes: Classes of the images.
        in_channels: Channels of the images.
        resolution: Their side, pixels.
        widths: Channels of a network, to choose from, ascending.
        kernels: Windows of a rung's convolutions, to choose from, ascending.
        rungs: Most rungs of a network; it has at least one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int = Field(default=10, ge=2)
    in_channels: int = Field(default=3, ge=1)
    resolution: int = Field(default=32, ge=4)
    widths: tuple[int, ...] = Field(default=(8, 16, 24), min_length=1)
    kernels: tuple[int, ...] = Field(default=(3, 5), min_length=1)
    rungs: int = Field(default=4, ge=1)


@dataclass(frozen=True)
class Ladder(Architecture):
    """One network: its width in channels, and the window of each of its rungs."""

    width: int
    kernels: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data that names every choice."""
        return {"width": self.width, "kernels": list(self.kernels)}


class LadderSpace(SearchSpace[Ladder]):
    """Networks whose encoding is ``[width index, rung codes...]``: code 0 leaves a rung out, ``c`` is ``kernels[c - 1]``.

    Which of the places are empty makes no difference, so canonically they are the last ones.

    Args:
        **settings: See :class:`LadderSettings`.

    Raises:
        SpaceError: A setting is unknown or cannot be used.
    """

    name = "ladder"

    def __init__(self, **settings: Any) -> None:
        try:
            self._settings = LadderSettings(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SpaceError(f"space.settings.{where} of ladder: {first['msg']}.") from error
        for choices in (self._settings.widths, self._settings.kernels):
            if list(choices) != sorted(set(choices)) or choices[0] < 1:
                raise SpaceError(f"choices {list(choices)} of ladder must be positive, ascending, each once.")
        if any(kernel % 2 == 0 for kernel in self._settings.kernels):
            raise SpaceError(
                f"kernels={list(self._settings.kernels)} of ladder must be odd, so that rungs can be added."
            )

    def settings(self) -> dict[str, Any]:
        """Return every setting as plain data."""
        return self._settings.model_dump(mode="json")

    @property
    def lower(self) -> IntArray:
        """Smallest value of each gene, ``[1 + rungs]``: the first rung is always there."""
        return np.array([0, 1, *[0] * (self._settings.rungs - 1)], dtype=np.int64)

    @property
    def upper(self) -> IntArray:
        """Largest value of each gene, ``[1 + rungs]``."""
        settings = self._settings
        return np.array([len(settings.widths) - 1, *[len(settings.kernels)] * settings.rungs], dtype=np.int64)

    @property
    def gene_names(self) -> tuple[str, ...]:
        """``width``, and the block names of the rungs."""
        return ("width", *(f"rungs.{index}" for index in range(self._settings.rungs)))

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw ``count`` canonical encodings, ``[count, 1 + rungs]``, uniform in depth, width and kernels."""
        lowest = np.array([0, *[1] * self._settings.rungs])
        X = rng.integers(lowest, self.upper + 1, (count, self.n_genes))
        depths = rng.integers(1, self._settings.rungs + 1, (count, 1))
        X[:, 1:] *= np.arange(self._settings.rungs) < depths
        return X

    def repair(self, encodings: IntArray) -> IntArray:
        """Clip the genes into their bounds and move empty places behind the rungs; ``[n, 1 + rungs]``.

        Raises:
            SpaceError: Rows of another length.
        """
        X = np.atleast_2d(np.asarray(encodings, dtype=np.int64))
        if X.shape[1] != self.n_genes:
            raise SpaceError(f"an encoding of {self.name} has {self.n_genes} genes, not {X.shape[1]}.")
        X = np.clip(X, self.lower, self.upper)
        order = np.argsort(X[:, 1:] == 0, axis=1, kind="stable")
        X[:, 1:] = np.take_along_axis(X[:, 1:], order, axis=1)
        return X

    def encode(self, architecture: Ladder) -> IntArray:
        """Return the canonical encoding, ``[1 + rungs]``.

        Raises:
            SpaceError: The network is not of this space.
        """
        settings = self._settings
        try:
            codes = [settings.kernels.index(kernel) + 1 for kernel in architecture.kernels]
            genes = [settings.widths.index(architecture.width), *codes]
        except ValueError as error:
            raise SpaceError(f"{architecture} is not in space {self.name} of {settings}.") from error
        if not 1 <= len(codes) <= settings.rungs:
            raise SpaceError(f"{architecture} has {len(codes)} rungs; {self.name} has 1 to {settings.rungs}.")
        return np.array([*genes, *[0] * (self.n_genes - len(genes))], dtype=np.int64)

    def decode(self, encoding: IntArray) -> Ladder:
        """Return the network of an encoding; one that is not canonical is repaired first.

        Raises:
            SpaceError: The encoding is not within the bounds.
        """
        self.check_bounds(encoding)
        width, *codes = self.repair(encoding)[0].tolist()
        return Ladder(self._settings.widths[width], tuple(self._settings.kernels[code - 1] for code in codes if code))

    def from_dict(self, value: dict[str, Any]) -> Ladder:
        """Read what ``Ladder.as_dict`` gave.

        Raises:
            SpaceError: A key is missing or too many, or a choice is not of this space.
        """
        if value.keys() != {"width", "kernels"}:
            raise SpaceError(
                f"a network of {self.name} has the keys width and kernels, not {', '.join(map(str, value))}."
            )
        architecture = Ladder(value["width"], tuple(value["kernels"]))
        self.encode(architecture)
        return architecture

    def blocks(self, architecture: Ladder) -> tuple[Block, ...]:
        """Return ``stem``, the rungs and ``head``; a key holds all that a block's latency depends on."""
        shape = f"c{architecture.width}-r{self._settings.resolution}"
        rungs = (
            Block(f"rungs.{index}", f"rung-k{kernel}-{shape}") for index, kernel in enumerate(architecture.kernels)
        )
        ends = (
            Block("stem", f"stem-i{self._settings.in_channels}-{shape}"),
            Block("head", f"head-o{self._settings.classes}-{shape}"),
        )
        return (ends[0], *rungs, ends[1])

    def graph(self, architecture: Ladder) -> LayerGraph:
        """Return the network as a runtime sees it."""
        settings = self._settings
        self.encode(architecture)
        side, width = (settings.resolution + 1) // 2, architecture.width
        shape = (width, side, side)
        source = "stem.act"
        layers = [
            Layer("input", "input", (), (settings.in_channels, settings.resolution, settings.resolution), "stem"),
            Layer("stem.conv", "conv", ("input",), shape, "stem", kernel=3, stride=2, in_channels=settings.in_channels),
            Layer(source, "relu", ("stem.conv",), shape, "stem"),
        ]
        for index, kernel in enumerate(architecture.kernels):
            layers += _rung(f"rungs.{index}", source, shape, kernel)
            source = layers[-1].name
        layers += [
            Layer("head.pool", "global_pool", (source,), (width, 1, 1), "head"),
            Layer("head.flatten", "flatten", ("head.pool",), (width,), "head"),
            Layer("head.linear", "linear", ("head.flatten",), (settings.classes,), "head", in_channels=width),
        ]
        return LayerGraph(tuple(layers))

    @property
    def smallest(self) -> Ladder:
        """The narrowest network of one rung."""
        return self.decode(self.lower)

    @property
    def largest(self) -> Ladder:
        """The widest network of all rungs."""
        return self.decode(self.upper)


def _rung(block: str, source: str, shape: tuple[int, int, int], kernel: int) -> list[Layer]:
    """Return two convolutions, to whose result the input is added; names begin with the block's."""
    channels = shape[0]
    return [
        Layer(f"{block}.conv1", "conv", (source,), shape, block, kernel=kernel, in_channels=channels),
        Layer(f"{block}.act1", "relu", (f"{block}.conv1",), shape, block),
        Layer(f"{block}.conv2", "conv", (f"{block}.act1",), shape, block, kernel=kernel, in_channels=channels),
        Layer(f"{block}.add", "add", (f"{block}.conv2", source), shape, block),
        Layer(f"{block}.act2", "relu", (f"{block}.add",), shape, block),
    ]

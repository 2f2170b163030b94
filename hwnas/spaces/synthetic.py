"""Random networks from which a latency model learns what kernels cost; a space to measure, not to search in.

Each network has a stem, a few blocks of one family (or of all) and a head, with shapes like those of published
convolutional networks: resolution times channels is drawn evenly in the logarithm, channels are now and then odd.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwnas.errors import SpaceError
from hwnas.files import digest
from hwnas.spaces.base import Architecture, Block, IntArray, SearchSpace
from hwnas.spaces.drafting import MOTIFS, Draft
from hwnas.spaces.graph import LayerGraph

_SEEDS = 2**31 - 1
_FIRST_SEEDS = 12
"""Seeds per family among which the smallest and the largest network are looked for."""
_STEMS = {1: (3, 3, 5), 2: (3, 5, 7), 4: (4, 7, 11)}
"""Stride of a stem -> windows it may have."""
_EVEN = 0.7
"""Share of networks whose image has a side that is a multiple of 32, or of less where it is small, as nearly all published ones."""
_EVEN_SIDE = 32
_ATTEMPTS = 60
_ODD = 0.3
"""Share of odd layers in the networks that have any."""
_PRODUCTS = (700.0, 6000.0)
"""Channels times side that published networks keep while they halve the side."""
_SMALLEST = 0.01
"""Smallest share of the most multiply-accumulates that a network may be allowed."""


class SyntheticSettings(BaseModel):
    """Settings of the space.

    Attributes:
        families: Families of networks; ``mixed`` takes blocks of all.
        side: Smallest and largest side of the first feature map, pixels.
        elements: Most elements of a feature map.
        macs: Most multiply-accumulates of a network.
        parameters: Most weights of a network.
        blocks: Most blocks of a network.
        generator: Which way of drawing; raised with every change of it, so that encodings keep their meaning.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    families: tuple[str, ...] = (*MOTIFS, "mixed")
    side: tuple[int, int] = (7, 224)
    elements: int = Field(default=3_300_000, ge=1000)
    macs: float = Field(default=4e9, ge=1e6)
    parameters: int = Field(default=40_000_000, ge=1000)
    blocks: int = Field(default=16, ge=1)
    generator: Literal[2] = 2


@dataclass(frozen=True)
class SyntheticArchitecture(Architecture):
    """One random network: its family and the seed of everything else."""

    family: str
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"family": self.family, "seed": self.seed}


class SyntheticSpace(SearchSpace[SyntheticArchitecture]):
    """Random networks; an encoding is ``[family, seed]``.

    Args:
        **settings: See :class:`SyntheticSettings`.

    Raises:
        SpaceError: A setting is unknown or cannot be used.
    """

    name = "synthetic"
    compositional = False

    def __init__(self, **settings: Any) -> None:
        try:
            self._settings = SyntheticSettings(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SpaceError(f"space.settings.{where} of synthetic: {first['msg']}.") from error
        unknown = [name for name in self._settings.families if name not in (*MOTIFS, "mixed")]
        if unknown or not self._settings.families:
            raise SpaceError(f"families={unknown} of synthetic must be some of {', '.join((*MOTIFS, 'mixed'))}.")
        low, high = self._settings.side
        if not 4 <= low <= high <= 320:
            raise SpaceError(f"side=[{low}, {high}] of synthetic must lie in [4, 320], the smaller one first.")

    def settings(self) -> dict[str, Any]:
        """Return every setting as plain data."""
        return self._settings.model_dump(mode="json")

    @property
    def lower(self) -> IntArray:
        """Smallest value of each gene, ``[2]``."""
        return np.zeros(2, dtype=np.int64)

    @property
    def upper(self) -> IntArray:
        """Largest value of each gene, ``[2]``."""
        return np.array([len(self._settings.families) - 1, _SEEDS], dtype=np.int64)

    @property
    def gene_names(self) -> tuple[str, ...]:
        """``family`` and ``seed``."""
        return ("family", "seed")

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw ``count`` networks, ``[count, 2]``, the families in turn."""
        families = np.arange(count) % len(self._settings.families)
        return np.column_stack([families, rng.integers(0, _SEEDS, count)]).astype(np.int64)

    def repair(self, encodings: IntArray) -> IntArray:
        """Return the encodings clipped into their bounds, ``[n, 2]``."""
        return np.clip(np.atleast_2d(encodings), self.lower, self.upper)

    def encode(self, architecture: SyntheticArchitecture) -> IntArray:
        """Return the encoding, ``[2]``."""
        if architecture.family not in self._settings.families:
            raise SpaceError(f"family={architecture.family!r} is none of {', '.join(self._settings.families)}.")
        return np.array([self._settings.families.index(architecture.family), architecture.seed], dtype=np.int64)

    def decode(self, encoding: IntArray) -> SyntheticArchitecture:
        """Return the network of an encoding.

        Raises:
            SpaceError: It is not within the bounds.
        """
        self.check_bounds(encoding)
        family, seed = (int(gene) for gene in encoding)
        return SyntheticArchitecture(self._settings.families[family], seed)

    def from_dict(self, value: dict[str, Any]) -> SyntheticArchitecture:
        """Read what :meth:`SyntheticArchitecture.as_dict` gave.

        Raises:
            SpaceError: It is no network of this space.
        """
        if value.keys() != {"family", "seed"}:
            raise SpaceError(f"a synthetic network has the keys family and seed, not {', '.join(map(str, value))}.")
        architecture = SyntheticArchitecture(str(value["family"]), int(value["seed"]))
        self.check_bounds(self.encode(architecture))
        return architecture

    def blocks(self, architecture: SyntheticArchitecture) -> tuple[Block, ...]:
        """Return the blocks; hardly any recurs in another network."""
        graph = self.graph(architecture)
        names = dict.fromkeys(layer.block for layer in graph.layers)
        key = digest([architecture.as_dict(), self.digest])
        return tuple(Block(name, f"{name}:{key}") for name in names)

    def graph(self, architecture: SyntheticArchitecture) -> LayerGraph:
        """Return the network; blocks that would exceed a limit of the settings are left out."""
        settings = self._settings
        rng = np.random.default_rng([settings.families.index(architecture.family), architecture.seed])
        names = list(MOTIFS) if architecture.family == "mixed" else [architecture.family]
        share = float(np.exp(rng.uniform(np.log(_SMALLEST), 0.0)))
        draft = self._stem(rng, share)
        wanted = int(rng.integers(1, settings.blocks + 1))
        for _ in range(_ATTEMPTS):
            if draft.blocks == wanted:
                break
            motif: Callable[[Draft, np.random.Generator], None] = MOTIFS[names[rng.integers(len(names))]]
            trial = draft.copy()
            trial.begin()
            motif(trial, rng)
            if self._allows(trial, share):
                draft = trial
        trial = draft.copy()
        trial.head(rng, wide=True)
        if not self._allows(trial, share):
            draft.head(rng)
            trial = draft
        return trial.graph

    def _allows(self, draft: Draft, share: float) -> bool:
        settings, graph = self._settings, draft.graph
        small = draft.largest <= settings.elements and graph.parameters <= settings.parameters
        return small and graph.macs <= share * settings.macs

    def _stem(self, rng: np.random.Generator, share: float) -> Draft:
        settings = self._settings
        low, high = settings.side
        side = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        stride = int(rng.choice([1, 2, 4]))
        while side * stride > max(320, high):
            stride //= 2
        if rng.random() < _EVEN:
            side = _evened(side * stride, low * stride, high * stride) // stride
        window = int(rng.choice(_STEMS[stride]))
        most = min(settings.elements, 0.3 * share * settings.macs / (3 * window**2)) / side**2
        channels = float(np.exp(rng.uniform(np.log(8), np.log(np.clip(most, 9, 1024)))))
        draft = Draft.of(3, side * stride)
        draft.oddness = _ODD if rng.random() < 0.4 else 0.0
        draft.product = float(np.exp(rng.uniform(*np.log(_PRODUCTS))))
        draft.conv(draft.odd(rng, channels), window, stride=stride)
        draft.act(rng)
        return draft

    @functools.cached_property
    def _extremes(self) -> tuple[SyntheticArchitecture, SyntheticArchitecture]:
        found = [
            SyntheticArchitecture(family, seed) for family in self._settings.families for seed in range(_FIRST_SEEDS)
        ]
        found.sort(key=lambda architecture: self.graph(architecture).macs)
        return found[0], found[-1]

    @property
    def smallest(self) -> SyntheticArchitecture:
        """A cheap network."""
        return self._extremes[0]

    @property
    def largest(self) -> SyntheticArchitecture:
        """An expensive network."""
        return self._extremes[1]


def _evened(side: int, low: int, high: int) -> int:
    """Return the multiple of 32 next to the side of an image; of less where that would lie outside, or the image is small."""
    step = _EVEN_SIDE
    while step > 1 and (step > side // 2 or not low <= round(side / step) * step <= high):
        step //= 2
    return round(side / step) * step

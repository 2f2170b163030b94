"""What a search space is: integer encodings, canonical forms, blocks and layer graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SpaceError
from hwnas.files import digest
from hwnas.spaces.graph import LayerGraph

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """One layer position of a space with its choices: a fixed group of kernels.

    Attributes:
        name: Position, for example ``stages.1.0``; equals ``Layer.block`` of its layers.
        key: Everything its latency depends on (operation, shapes, kernel, stride, ...) as text; two blocks of one key
            are the same block of the lookup table.
    """

    name: str
    key: str


class Architecture(ABC):
    """One immutable point of a space. Implementations are frozen, hashable dataclasses."""

    @property
    def encodable(self) -> bool:
        """Whether an encoding stands for it; what post-processing makes of a network need not have one."""
        return True

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data that names every choice."""


ArchitectureT = TypeVar("ArchitectureT", bound=Architecture)


class SearchSpace(ABC, Generic[ArchitectureT]):
    """A set of architectures with an integer encoding; ``decode(encode(a)) == a`` on canonical encodings.

    Strategies see integer vectors only: ``lower <= x <= upper`` element by element.
    """

    name: str
    compositional: bool = True
    """Whether networks are made of blocks that recur, so that a lookup table of blocks makes sense."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the plain data the space was made from; equal settings are the same space."""

    @property
    def digest(self) -> str:
        """The sha256 of name and settings."""
        return digest({"name": self.name, "settings": self.settings()})

    @property
    @abstractmethod
    def lower(self) -> IntArray:
        """Smallest value of each gene, shape ``[n_genes]``."""

    @property
    @abstractmethod
    def upper(self) -> IntArray:
        """Largest value of each gene, shape ``[n_genes]``."""

    @property
    @abstractmethod
    def gene_names(self) -> tuple[str, ...]:
        """Name of each gene."""

    @property
    def n_genes(self) -> int:
        """Length of an encoding."""
        return len(self.gene_names)

    @abstractmethod
    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw ``count`` canonical encodings, shape ``[count, n_genes]``, nearly uniform in stage depth."""

    @abstractmethod
    def repair(self, encodings: IntArray) -> IntArray:
        """Return the canonical form of each encoding, shape ``[n, n_genes]``; idempotent."""

    @abstractmethod
    def encode(self, architecture: ArchitectureT) -> IntArray:
        """Return the canonical encoding, shape ``[n_genes]``."""

    @abstractmethod
    def decode(self, encoding: IntArray) -> ArchitectureT:
        """Return the architecture of an encoding.

        Raises:
            SpaceError: The encoding is not within the bounds.
        """

    @abstractmethod
    def from_dict(self, value: dict[str, Any]) -> ArchitectureT:
        """Read what ``Architecture.as_dict`` gave.

        Raises:
            SpaceError: A choice is not of this space.
        """

    @abstractmethod
    def blocks(self, architecture: ArchitectureT) -> tuple[Block, ...]:
        """Return the blocks in order of execution; they cover every layer of :meth:`graph`."""

    @abstractmethod
    def graph(self, architecture: ArchitectureT) -> LayerGraph:
        """Return the network as the runtime sees it, with one random-free, shape-complete layer per operation."""

    @property
    @abstractmethod
    def smallest(self) -> ArchitectureT:
        """The cheapest architecture."""

    @property
    @abstractmethod
    def largest(self) -> ArchitectureT:
        """The most expensive architecture."""

    def check_bounds(self, encodings: IntArray) -> None:
        """Raise unless every encoding is within the bounds.

        Raises:
            SpaceError: Wrong length or a gene outside its bounds; the gene is named.
        """
        array = np.atleast_2d(encodings)
        if array.shape[1] != self.n_genes:
            raise SpaceError(f"an encoding of {self.name} has {self.n_genes} genes, not {array.shape[1]}.")
        bad = np.argwhere((array < self.lower) | (array > self.upper))
        if len(bad):
            row, gene = (int(value) for value in bad[0])
            raise SpaceError(
                f"gene {self.gene_names[gene]}={int(array[row, gene])} of {self.name} must lie in "
                f"[{int(self.lower[gene])}, {int(self.upper[gene])}]."
            )

    def id_of(self, encoding: IntArray) -> str:
        """Return a short, stable name of an encoding (12 hex digits of the sha256 of space and encoding)."""
        return digest([self.digest, np.asarray(encoding).tolist()])[:12]


def unique_rows(encodings: IntArray, exclude: Sequence[bytes] = ()) -> IntArray:
    """Return the rows of ``encodings`` in order, each once, without those whose bytes are in ``exclude``."""
    seen = set(exclude)
    keep = []
    for index, row in enumerate(encodings):
        key = row.tobytes()
        if key not in seen:
            seen.add(key)
            keep.append(index)
    return encodings[keep]

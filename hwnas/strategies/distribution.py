"""What the supernet trains on while it adapts: per-gene frequencies of the best members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.base import IntArray, SearchSpace
from hwnas.strategies.problem import FloatArray


class Sampler(Protocol):
    """Draws canonical encodings."""

    def sample(self, rng: np.random.Generator) -> IntArray:
        """Return one canonical encoding, ``[n_genes]``."""

    def __call__(self, rng: np.random.Generator) -> IntArray:
        """Do the same as :meth:`sample`."""


def free_genes(space: SearchSpace[Any], X: IntArray) -> tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]:
    """Find by trying which genes of which rows decide anything, and which values are ever canonical.

    A gene that repair overrides whatever it is set to (a layer behind a skipped one) says nothing about its choice, so
    it may not count towards its frequencies.

    Args:
        space: Space of the encodings.
        X: Canonical encodings, ``[n, n_genes]``.

    Returns:
        Mask ``[n, n_genes]`` of genes that could have had another value, and for each gene the mask of values
        (from its lower bound up) that repair leaves as they are in some row.
    """
    free = np.zeros(X.shape, dtype=bool)
    valid: list[NDArray[np.bool_]] = []
    for gene, (low, high) in enumerate(zip(space.lower, space.upper, strict=True)):
        kept = np.zeros((len(X), int(high - low) + 1), dtype=bool)
        for value in range(int(low), int(high) + 1):
            changed = X.copy()
            changed[:, gene] = value
            kept[:, value - int(low)] = space.repair(changed)[:, gene] == value
        kept_others = kept.copy()
        kept_others[np.arange(len(X)), X[:, gene] - int(low)] = False
        free[:, gene] = kept_others.any(axis=1) if high > low else True
        valid.append(np.asarray(kept.any(axis=0)))
    return free, valid


class GeneDistribution:
    """Independent categorical distribution of each gene with Laplace smoothing; samples are repaired.

    NAT's author and ENCAS describe categorical frequencies; the published NATv2 code fits continuous families instead,
    which flattens them (its argument is overwritten in the first pass). Frequencies of a gene are taken from the
    members in which it is free (see :func:`free_genes`), so that repair gives back the depths of the members.

    Args:
        space: Space of the encodings.
        X: Encodings of the best members, ``[n, n_genes]``, ``n >= 1``.
        smoothing: Pseudo-count of every valid value.

    Raises:
        ValueError: No members.
    """

    def __init__(self, space: SearchSpace[Any], X: IntArray, smoothing: float = 0.1) -> None:
        if not len(X):
            raise ValueError("a distribution needs at least one member")
        self.space = space
        free, valid = free_genes(space, X)
        self.probabilities: list[FloatArray] = []
        for gene, low in enumerate(space.lower):
            rows = X[free[:, gene], gene] - int(low)
            counts = np.bincount(rows, minlength=len(valid[gene])) + smoothing
            weights = np.where(valid[gene], counts, 0.0)
            # A gene that is free nowhere and canonical nowhere cannot happen: the members themselves are canonical.
            self.probabilities.append(weights / weights.sum())
        self._cumulative = [np.cumsum(p) for p in self.probabilities]

    def sample(self, rng: np.random.Generator) -> IntArray:
        """Return one canonical encoding, ``[n_genes]``."""
        draws = rng.random(len(self._cumulative))
        genes = [
            min(int(np.searchsorted(cumulative, draw * cumulative[-1], side="right")), len(cumulative) - 1)
            for cumulative, draw in zip(self._cumulative, draws, strict=True)
        ]
        row: IntArray = self.space.repair((self.space.lower + np.array(genes, dtype=np.int64))[None])[0]
        return row

    __call__ = sample


class Mixture:
    """Draws from one of several distributions with equal weight (one per target).

    Args:
        parts: The distributions, at least one.
    """

    def __init__(self, parts: Sequence[Sampler]) -> None:
        if not parts:
            raise ValueError("a mixture needs at least one distribution")
        self.parts = tuple(parts)

    def sample(self, rng: np.random.Generator) -> IntArray:
        """Return one canonical encoding, ``[n_genes]``."""
        return self.parts[int(rng.integers(len(self.parts)))].sample(rng)

    __call__ = sample

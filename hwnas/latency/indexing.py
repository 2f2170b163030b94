"""From encodings to block keys, quickly: what the blocks of a space depend on is learned once and looked up after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SpaceError
from hwnas.spaces.base import Architecture, Block, IntArray, SearchSpace
from hwnas.spaces.graph import Layer

Ids = NDArray[np.int32]
"""Ids of block keys, ``[n, positions]``."""

ABSENT = -1
_UNKNOWN = -2
_MAX_ENTRIES = 2_000_000
_AUDITS = 16


class BlockIndexer:
    """Gives the block keys of many encodings as small integers.

    A block's key usually depends on the genes that are no block's name (resolution, width) and on the gene named like
    the block. Under that assumption keys are looked up in arrays; every batch decodes a few rows to check it, and a
    single contradiction switches this object to decoding every row, for good.

    Args:
        space: The space of the encodings.

    Attributes:
        positions: Block names in order; columns of :meth:`ids`.
        keys: Key of every id met so far.
    """

    def __init__(self, space: SearchSpace[Architecture]) -> None:
        self.space = space
        names: dict[str, None] = {}
        for architecture in (space.largest, space.smallest):
            names.update({block.name: None for block in space.blocks(architecture)})
        self.positions: tuple[str, ...] = tuple(names)
        self._column = {name: index for index, name in enumerate(self.positions)}
        self.keys: list[str] = []
        self.layers: list[tuple[Layer, ...]] = []
        self._ids: dict[str, int] = {}
        self._prepare_lookup()

    def _prepare_lookup(self) -> None:
        genes = self.space.gene_names
        sizes = np.asarray(self.space.upper - self.space.lower + 1, dtype=np.int64)
        shared = [index for index, name in enumerate(genes) if name not in self._column]
        own = {name: index for index, name in enumerate(genes) if name in self._column}
        weights = np.zeros((len(genes), len(self.positions)), dtype=np.int64)
        counts = [1] * len(self.positions)
        for column, name in enumerate(self.positions):
            for gene in [*shared, *([own[name]] if name in own else [])]:
                weights[gene, column] = min(counts[column], _MAX_ENTRIES)
                counts[column] *= int(sizes[gene])
        self.local = sum(counts) <= _MAX_ENTRIES
        self._weights = weights
        self._offsets = np.cumsum([0, *counts[:-1]]) if self.local else np.zeros(0, dtype=np.int64)
        self._table: Ids = np.full(sum(counts) if self.local else 0, _UNKNOWN, dtype=np.int32)

    def id_of(self, block: Block, architecture: Architecture) -> int:
        """Return the id of a block's key; an unseen key is entered with its layers."""
        if block.key not in self._ids:
            self._enter(architecture)
        return self._ids[block.key]

    def _enter(self, architecture: Architecture) -> None:
        layers: dict[str, list[Layer]] = {}
        for layer in self.space.graph(architecture).layers:
            layers.setdefault(layer.block, []).append(layer)
        for block in self.space.blocks(architecture):
            if block.key not in self._ids:
                self._ids[block.key] = len(self.keys)
                self.keys.append(block.key)
                self.layers.append(tuple(layers.get(block.name, ())))

    def ids(self, X: IntArray) -> Ids:
        """Return the id of the block at every position, ``[n, positions]``; :data:`ABSENT` where there is none.

        Args:
            X: Encodings ``[n, n_genes]``; those that are not canonical are repaired.

        Raises:
            SpaceError: An encoding is outside the bounds.
        """
        rows = np.atleast_2d(np.asarray(X, dtype=np.int64))
        if not len(rows):
            return np.zeros((0, len(self.positions)), dtype=np.int32)
        self.space.check_bounds(rows)
        rows = self.space.repair(rows)
        if self.local:
            result = self._look_up(rows)
            if self.local:
                return result
        return np.stack([self._decode(row) for row in rows])

    def _look_up(self, rows: IntArray) -> Ids:
        cells = (rows - self.space.lower) @ self._weights + self._offsets
        result: Ids = self._table[cells]
        for row in np.flatnonzero((result == _UNKNOWN).any(axis=1)):
            if not (self._table[cells[row]] == _UNKNOWN).any():
                continue
            self._learn(cells[row], self._decode(rows[row]))
        result = self._table[cells]
        for row in np.unique(np.linspace(0, len(rows) - 1, _AUDITS).astype(np.int64)):
            self._learn(cells[row], self._decode(rows[row]))
        return result

    def _learn(self, cells: IntArray, ids: Ids) -> None:
        known = self._table[cells]
        if np.any((known != _UNKNOWN) & (known != ids)):
            self.local = False
        self._table[cells] = ids

    def _decode(self, row: IntArray) -> Ids:
        architecture = self.space.decode(row)
        ids = np.full(len(self.positions), ABSENT, dtype=np.int32)
        for block in self.space.blocks(architecture):
            if block.name not in self._column:
                raise SpaceError(
                    f"block {block.name!r} of {self.space.name} is in neither its smallest nor its largest "
                    "architecture; every block position must be in one of them."
                )
            ids[self._column[block.name]] = self.id_of(block, architecture)
        return ids

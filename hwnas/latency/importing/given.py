"""What every kind of imported file is read into."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwnas.errors import TableError
from hwnas.files import digest
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import IntArray

UNITS = {"ms": 1.0, "us": 1e-3, "s": 1e3}
"""Units a file may be in -> milliseconds."""


@dataclass(frozen=True)
class GivenRow:
    """One network of a file.

    Attributes:
        line: Its number in the file, from 1.
        key: ``SearchSpace.id_of`` of the encoding.
        encoding: The canonical encoding, ``[n_genes]``.
        value: Milliseconds.
        interval: Lower and upper end, if given.
        blocks: Block name -> milliseconds, if known.
    """

    line: int
    key: str
    encoding: IntArray
    value: float
    interval: tuple[float, float] | None = None
    blocks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenFile:
    """The networks of a file.

    Attributes:
        name: Its name without folders.
        sha256: Digest of its bytes.
        rows: Its networks in order.
        facts: What else a table is to say about where they came from: plain data.
        notes: What a person should know, as sentences.
        parts: What a clock read, in milliseconds, where that is not the networks: the latencies are then sums of blocks
            that were measured alone, not measurements.
    """

    name: str
    sha256: str
    rows: tuple[GivenRow, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: tuple[float, ...] = ()

    @property
    def composed(self) -> bool:
        """Whether the latencies are sums, not measurements of networks."""
        return bool(self.parts)

    @property
    def readings(self) -> FloatArray:
        """The milliseconds that a clock read, ``[n]``."""
        return np.array(self.parts or [row.value for row in self.rows], dtype=np.float64)

    def at_most(self, count: int | None, seed: int) -> GivenFile:
        """Return the file with at most ``count`` of its networks, drawn by the seed."""
        if count is None or count >= len(self.rows):
            return self
        drawn = sorted(self.rows, key=lambda row: digest([seed, "networks", row.key]))[:count]
        note = f"{count} of the {len(self.rows)} networks were taken: --networks"
        return replace(self, rows=tuple(sorted(drawn, key=lambda row: row.line)), notes=(*self.notes, note))


def positive(value: Any, name: str, where: str, unit: str = "milliseconds", mend: str = "") -> float:
    """Return a latency as it stands in a file.

    Raises:
        TableError: It is not a positive, finite number.
    """
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise TableError(
            f"{where}: {name}={str(value)[:40]} must be a positive, finite number of {unit}. "
            + (mend or "Leave out networks that could not be measured.")
        )
    return number

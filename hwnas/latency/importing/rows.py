"""A person's own measured networks, one JSON document a line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import SpaceError, TableError
from hwnas.latency.importing.columns import foreign_graphs
from hwnas.latency.importing.given import GivenFile, GivenRow, positive
from hwnas.spaces.base import Architecture, IntArray, SearchSpace

_NETWORK = ("encoding", "architecture")
_NUMBERS = ("latency_ms", "low_ms", "high_ms")
_SHAPE = '{"encoding": [...], "latency_ms": 12.34} or {"architecture": {...}, "latency_ms": 12.34}'


def read_given(path: Path, space: SearchSpace[Architecture]) -> GivenFile:
    """Read and check a file of measured networks.

    Raises:
        TableError: It cannot be read, or a line is not a measured network of the space; the line is named.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist. Give a file with one line a network: {_SHAPE}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read as text ({error}). Each line must be {_SHAPE}.") from error
    rows: dict[str, GivenRow] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _read_row(line, number, where, space)
        if row.key in rows:
            raise TableError(
                f"{where}: the network {row.encoding.tolist()} stands on line {rows[row.key].line} already. "
                "Keep one line of it, with the median of both."
            )
        rows[row.key] = row
    return GivenFile(path.name, hashlib.sha256(data).hexdigest(), tuple(rows.values()))


def _read_row(line: str, number: int, where: str, space: SearchSpace[Architecture]) -> GivenRow:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{where}: not JSON ({error}). Each line must be {_SHAPE}.") from error
    if not isinstance(raw, dict):
        raise TableError(f"{where}: expected a JSON object, got {type(raw).__name__}. Each line must be {_SHAPE}.")
    if isinstance(raw.get("graph"), dict):
        raise TableError(foreign_graphs(where))
    unknown = sorted(raw.keys() - {*_NETWORK, *_NUMBERS})
    if unknown:
        known = ", ".join((*_NETWORK, *_NUMBERS))
        raise TableError(f"{where}: unknown key {unknown[0]!r}; known: {known}. Remove or rename it.")
    if len(raw.keys() & set(_NETWORK)) != 1:
        found = "both" if "encoding" in raw else "neither"
        raise TableError(f"{where}: give either encoding or architecture, not {found}. Each line must be {_SHAPE}.")
    if "latency_ms" not in raw:
        raise TableError(f"{where}: latency_ms is missing. Each line must be {_SHAPE}.")
    if ("low_ms" in raw) != ("high_ms" in raw):
        raise TableError(f"{where}: an interval needs both low_ms and high_ms. Add the other, or leave both out.")
    numbers = {name: positive(raw[name], name, where) for name in _NUMBERS if name in raw}
    value = numbers["latency_ms"]
    interval = (numbers["low_ms"], numbers["high_ms"]) if "low_ms" in numbers else None
    if interval is not None and not interval[0] <= value <= interval[1]:
        raise TableError(
            f"{where}: the interval from low_ms={interval[0]:g} to high_ms={interval[1]:g} does not hold "
            f"latency_ms={value:g}. Mend the three numbers, or leave the interval out."
        )
    encoding = _encoding_of(raw, where, space)
    return GivenRow(number, space.id_of(encoding), encoding, value, interval)


def _encoding_of(raw: dict[str, Any], where: str, space: SearchSpace[Architecture]) -> IntArray:
    """Return the canonical encoding of a line's network."""
    try:
        if "architecture" in raw:
            if not isinstance(raw["architecture"], dict):
                raise TypeError(f"expected a JSON object, got {type(raw['architecture']).__name__}")
            return space.encode(space.from_dict(raw["architecture"]))
        genes = raw["encoding"]
        if not isinstance(genes, list) or not all(type(gene) is int for gene in genes):
            raise TypeError("expected a list of whole numbers")
        encoding = np.array(genes, dtype=np.int64)
        space.check_bounds(encoding)
        return np.asarray(space.repair(encoding[None])[0], dtype=np.int64)
    except (SpaceError, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        name = "architecture" if "architecture" in raw else "encoding"
        what = str(error) if isinstance(error, (SpaceError, TypeError)) else repr(error)
        raise TableError(
            f"{where}: {name} is no network of space {space.name} as set ({what.rstrip('.')}). "
            "Mend the line, or give the space it was measured in: --space."
        ) from error

"""Latency tables: a header with provenance and sorted rows, as JSON Lines that merge well under git."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import ConfigError, TableError
from hwnas.files import canonical_json, write_text
from hwnas.latency.estimation import Shift
from hwnas.latency.rows import LatencyRow, Split
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.targets import Fingerprint, Target

SCHEMA = 1
"""Version of the table's file format."""

_NUMBERS = ("value", "low", "high", "raw_value", "corrected_value", "floor", "mad")


@dataclass(frozen=True)
class TableHeader:
    """What every row of a table shares.

    Attributes:
        target: The target.
        fingerprint: Machine and setting of the first session.
        space: Name of the space.
        settings: Settings of the space.
        space_digest: Digest of name and settings.
        protocol: The measuring protocol (``Protocol.as_dict``).
        canaries: Reference latency of every canary: the condition all values stand for.
        metric: ``latency``.
        unit: Unit of all numbers.
        versions: Versions of hwnas and of the runtime.
        session: How the session went: estimator, leave-one-round-out errors, drift.
    """

    target: Target
    fingerprint: Fingerprint
    space: str
    settings: dict[str, Any]
    space_digest: str
    protocol: dict[str, Any]
    canaries: dict[str, float]
    metric: str = "latency"
    unit: str = "ms"
    versions: dict[str, str] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "schema": SCHEMA,
            "target": str(self.target),
            "fingerprint": self.fingerprint.as_dict(),
            "identity": self.fingerprint.identity_digest,
            "context": self.fingerprint.context_digest,
            "space": {"name": self.space, "settings": self.settings, "digest": self.space_digest},
            "protocol": self.protocol,
            "canaries": self.canaries,
            "metric": self.metric,
            "unit": self.unit,
            "versions": self.versions,
            "session": self.session,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str) -> TableHeader:
        """Read a header.

        Raises:
            TableError: It is not a header of this version, or its digests do not fit what they name.
        """
        if raw.get("schema") != SCHEMA:
            raise TableError(f"{where}: expected a latency table of schema {SCHEMA}, got {raw.get('schema')!r}.")
        try:
            header = cls(
                target=Target.parse(raw["target"]),
                fingerprint=Fingerprint.from_dict(raw["fingerprint"]),
                space=raw["space"]["name"],
                settings=raw["space"]["settings"],
                space_digest=raw["space"]["digest"],
                protocol=raw["protocol"],
                canaries={name: float(value) for name, value in raw["canaries"].items()},
                metric=raw["metric"],
                unit=raw["unit"],
                versions=raw["versions"],
                session=raw["session"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise TableError(f"{where}: the header is damaged ({error!r}). Restore the table.") from error
        if raw.get("identity") != header.fingerprint.identity_digest:
            raise TableError(f"{where}: the fingerprint was altered after measuring (its digest differs).")
        bad = [name for name, value in header.canaries.items() if not (math.isfinite(value) and value > 0)]
        if bad:
            raise TableError(f"{where}: reference latency of canary {bad[0]!r} must be positive and finite.")
        return header


@dataclass(frozen=True)
class LatencyTable:
    """Measured rows of one target and space, sorted by key, each key once."""

    header: TableHeader
    rows: tuple[LatencyRow, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.rows, key=lambda row: row.key))
        object.__setattr__(self, "rows", ordered)
        keys = [row.key for row in ordered]
        twice = {key for key in keys if keys.count(key) > 1} if len(set(keys)) != len(keys) else set()
        if twice:
            raise TableError(f"row {min(twice)} stands twice in the table of {self.header.target}.")
        foreign = [row.key for row in ordered if row.identity != self.header.fingerprint.identity_digest]
        if foreign:
            raise TableError(
                f"row {foreign[0]} of the table of {self.header.target} was measured on another machine or setting. "
                "Remove the row, or make a table of its own for that machine."
            )
        units = [row.key for row in ordered if row.unit != self.header.unit or row.metric != self.header.metric]
        if units:
            raise TableError(f"row {units[0]} is not {self.header.metric} in {self.header.unit} like its table.")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def target(self) -> Target:
        """The target."""
        return self.header.target

    def measured(self, *splits: Split) -> tuple[LatencyRow, ...]:
        """Return the rows with a latency, of these splits (all if none is named)."""
        return tuple(row for row in self.rows if row.measured and (not splits or row.split in splits))

    @property
    def failures(self) -> tuple[LatencyRow, ...]:
        """Networks that could not be measured."""
        return tuple(row for row in self.rows if not row.measured)

    def require(self, space: SearchSpace[Architecture], fingerprint: Fingerprint | None = None) -> None:
        """Raise unless the table belongs to this space and, if given, this machine.

        Raises:
            TableError: Another space.
            FingerprintMismatchError: Another machine or setting.
        """
        if self.header.space_digest != space.digest:
            raise TableError(
                f"the table of {self.target} is of space {self.header.space} with other settings "
                f"(digest {self.header.space_digest[:12]}, here {space.digest[:12]}). Profile this space: hwnas profile."
            )
        if fingerprint is not None:
            mend = f"Measure here: hwnas profile --target {self.target}"
            self.header.fingerprint.require_same(fingerprint, f"the table of {self.target}", mend)

    def with_rows(self, rows: Iterable[LatencyRow]) -> LatencyTable:
        """Return the table with rows added; a row of the same key is replaced if the new one is at least as good."""
        known = {row.key: row for row in self.rows}
        for row in rows:
            old = known.get(row.key)
            if old is None or _better(row, old):
                known[row.key] = row if old is None else replace(row, split=old.split)
        return LatencyTable(self.header, tuple(known.values()))

    def merge(self, other: LatencyTable) -> LatencyTable:
        """Return this table with the other's rows, brought to this table's reference by the canaries of both.

        Raises:
            TableError: The tables are of different targets, spaces or units, or share no canary.
            FingerprintMismatchError: They are of different machines.
        """
        if self.header.space_digest != other.header.space_digest or self.header.unit != other.header.unit:
            raise TableError(f"tables of {self.target} and {other.target} are of different spaces or units.")
        mend = "Tables of different machines stay apart."
        self.header.fingerprint.require_same(other.header.fingerprint, f"the table of {other.target}", mend)
        shared = sorted(self.header.canaries.keys() & other.header.canaries.keys())
        if not shared:
            raise TableError(f"tables of {self.target} and {other.target} share no canary; they cannot be compared.")
        there, here = (np.log([table.header.canaries[name] for name in shared]) for table in (other, self))
        shift = Shift.between(there, np.zeros_like(there), here)
        return self.with_rows(_scaled(row, shift) for row in other.rows)

    def save(self, path: Path) -> None:
        """Write header and rows, sorted, one JSON document a line."""
        lines = [self.header.as_dict(), *(row.as_dict() for row in self.rows)]
        write_text(path, "".join(canonical_json(line) + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read and check a table.

        Raises:
            TableError: The file is absent, cut short, damaged, without provenance, or holds impossible numbers; the
                line is named.
        """
        lines = _read_lines(path)
        header = TableHeader.from_dict(lines[0], f"{path}, line 1")
        rows = [LatencyRow.from_dict(raw, f"{path}, line {number}") for number, raw in enumerate(lines[1:], start=2)]
        seen: dict[str, int] = {}
        for number, row in enumerate(rows, start=2):
            if row.key in seen:
                raise TableError(f"{path}, line {number}: row {row.key} stands on line {seen[row.key]} already.")
            seen[row.key] = number
            if row.identity != header.fingerprint.identity_digest:
                raise TableError(f"{path}, line {number}: row {row.key} was measured on another machine or setting.")
        return cls(header, tuple(rows))


def _better(row: LatencyRow, old: LatencyRow) -> bool:
    if row.measured != old.measured:
        return row.measured
    return (row.grade, -row.count) <= (old.grade, -old.count)


def _scaled(row: LatencyRow, shift: Shift) -> LatencyRow:
    """Return a row without the shift of the machine it was measured under."""
    if not row.measured:
        return row
    scale = float(np.exp(-shift.at(np.log([row.latency]))[0][0]))
    numbers: dict[str, Any] = {name: getattr(row, name) * scale for name in _NUMBERS if name != "raw_value"}
    numbers["halves"] = tuple(value * scale for value in row.halves)
    return replace(row, **numbers)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TableError(f"latency table {path} does not exist. Make it: hwnas profile.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read as a latency table ({error}).") from error
    if not text.endswith("\n"):
        raise TableError(f"{path}, line {text.count(chr(10)) + 1}: the file is cut short. Restore it or profile again.")
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise TableError(f"{path}, line {number}: not JSON ({error}). Restore the table.") from error
        if not isinstance(value, dict):
            raise TableError(f"{path}, line {number}: expected a JSON object, got {type(value).__name__}.")
        lines.append(value)
    return lines

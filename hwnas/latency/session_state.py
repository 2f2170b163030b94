"""What a measuring session has done so far: read from its journal, written to nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hwnas.errors import RunFolderError
from hwnas.files import Journal, digest
from hwnas.latency.measurement import Cell
from hwnas.latency.protocol import Protocol
from hwnas.targets import Target


class SessionState:
    """The only memory of a session.

    Args:
        journal: Where everything is kept; what it holds already is taken up.
        keys: Networks of the session.
        protocol: Protocol of the session.
        target: Target of the session.

    Attributes:
        cells: Every good burst.
        loaded: Key -> what was noted when the network was first loaded.
        failures: Key -> ``(kind, detail)`` of networks given up.
        counts: Key -> failed bursts.
        extras: Key -> what the caller learned of a loaded network (its kernels).
        cold: Whether networks were cold after a loading.
        epoch: How often the session had been started before.

    Raises:
        RunFolderError: The journal belongs to other work.
    """

    def __init__(self, journal: Journal, keys: Sequence[str], protocol: Protocol, target: Target) -> None:
        self.journal = journal
        self.cells: list[Cell] = []
        self.loaded: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, tuple[str, str]] = {}
        self.counts: dict[str, int] = {}
        self.extras: dict[str, Any] = {}
        self.cold = False
        self._work = digest({"keys": sorted(keys), "protocol": protocol.as_dict(), "target": str(target)})
        self.epoch = 0
        for record in journal:
            self._replay(record)
        journal.append({"record": "start", "epoch": self.epoch, "work": self._work})

    def _replay(self, record: dict[str, Any]) -> None:
        kind = record.get("record")
        if kind == "start":
            self.epoch = int(record["epoch"]) + 1
            if record["work"] != self._work:
                raise RunFolderError(
                    f"{self.journal.path} belongs to a session of other networks, another target or protocol. "
                    "Use another folder, or delete it to measure anew."
                )
        elif kind == "loaded":
            self.loaded[record["key"]] = record
        elif kind == "failure":
            self.failures[record["key"]] = (record["kind"], record["detail"])
        elif kind == "extra":
            self.extras[record["key"]] = record["value"]
        elif kind == "cold":
            self.cold = True
        elif kind == "bursts":
            unit = (record["group"], record["round"], record["epoch"])
            self._take([Cell.from_dict(entry, unit) for entry in record["cells"]])

    def _take(self, cells: Iterable[Cell]) -> None:
        for cell in cells:
            if cell.failure is None:
                self.cells.append(cell)
            else:
                self.counts[cell.key] = self.counts.get(cell.key, 0) + 1

    def add(self, cells: Sequence[Cell]) -> None:
        """Record the bursts of one chunk."""
        group, number, epoch = cells[0].unit
        entries = [cell.as_dict() for cell in cells]
        self.journal.append({"record": "bursts", "group": group, "round": number, "epoch": epoch, "cells": entries})
        self._take(cells)

    def fail(self, key: str, kind: str, detail: str) -> None:
        """Give a network up."""
        self.journal.append({"record": "failure", "key": key, "kind": kind, "detail": detail})
        self.failures[key] = (kind, detail)

    def note_cold(self, group: int) -> None:
        """Record that the networks of a group were cold after loading."""
        self.journal.append({"record": "cold", "group": group})
        self.cold = True

    def note_extra(self, key: str, value: Any) -> None:
        """Record what was learned of a loaded network besides its latency."""
        self.journal.append({"record": "extra", "key": key, "value": value})
        self.extras[key] = value

    def note_loaded(self, key: str, digest_: str, load_ms: float, provider: str) -> None:
        """Record that a network was loaded, the first time."""
        if key not in self.loaded:
            record = {"record": "loaded", "key": key, "digest": digest_, "load_ms": load_ms, "provider": provider}
            self.journal.append(record)
            self.loaded[key] = record

    def missing(self, keys: Sequence[str], rounds: Sequence[int]) -> dict[int, list[str]]:
        """Return round -> networks (neither measured in it nor failed)."""
        done = {(cell.key, cell.round) for cell in self.cells}
        alive = [key for key in keys if key not in self.failures]
        return {number: [key for key in alive if (key, number) not in done] for number in rounds}

"""The fronts of a search as a table: what ``hwnas search`` prints, and the rows that the report shows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from hwnas.reporting.formats import DASH, format_bytes, format_count, format_number, format_share
from hwnas.reporting.tables import FILE_COLUMNS, interval

COLUMNS = ("architecture", "accuracy", "latency", "parameters", "MACs", "peak memory", "size", "margin", "note")
NUMBERS = COLUMNS[1:-1]

Measured = Mapping[tuple[str, str], Mapping[str, float] | None]
"""``(target, architecture) -> value, low, high`` of candidates; None where a candidate needed no measurement."""


@dataclass(frozen=True)
class FrontRow:
    """One member of a target's front: its cells in the order of :data:`COLUMNS`, and whether it is a good bargain."""

    cells: tuple[str, ...]
    high_trade_off: bool


def front_rows(name: str, target: Mapping[str, Any], measured: Measured | None = None) -> list[FrontRow]:
    """Return the rows of one target, most accurate first.

    Args:
        name: The target.
        target: Its part of ``front.json``.
        measured: Candidates for fine-tuning.
    """
    unit = str(target.get("unit") or "ms")
    return [_row(name, member, unit, measured or {}) for member in target.get("members") or []]


def _row(name: str, member: Mapping[str, Any], unit: str, measured: Measured) -> FrontRow:
    latency, good = member["latency"], bool(member["high_trade_off"])
    notes = ["high trade-off"] if good else []
    if (name, member["id"]) in measured:
        value = measured[name, member["id"]]
        notes.append(f"candidate, measured {format_number(value['value'])} {unit}" if value else "candidate")
    cells = (
        member["id"],
        format_share(member["validation_accuracy"]),
        f"{interval(latency['value'], latency['low'], latency['high'])} {unit}",
        format_count(member["parameters"]),
        format_count(member["macs"]),
        format_bytes(member["peak_memory_bytes"]),
        format_bytes(member["size_bytes"]),
        format_share(member["margin"]) if member["margin"] is not None else DASH,
        ", ".join(notes),
    )
    return FrontRow(cells, good)


def front_table(document: Mapping[str, Any], measured: Measured | None = None) -> Table:
    """Return one table of all targets' fronts; ``margin`` is what the tightest budget leaves free at the interval's upper end."""
    table = Table(title="Fronts", title_justify="left")
    table.add_column("target", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    for name, target in document["targets"].items():
        for row in front_rows(name, target, measured):
            table.add_row(name, *row.cells, style="bold" if row.high_trade_off else None)
        table.add_section()
    return table


def print_fronts(document: Mapping[str, Any], measured: Measured | None = None, console: Console | None = None) -> None:
    """Print the fronts on standard output (or ``console``), wide enough where it is not a terminal."""
    console = console or Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(file=console.file, width=FILE_COLUMNS)
    console.print(front_table(document, measured))

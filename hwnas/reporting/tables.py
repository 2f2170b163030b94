"""Tables for the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwnas.artifacts.manifest import Manifest
from hwnas.reporting.formats import DASH, format_bytes, format_number, format_share

FILE_COLUMNS = 190
"""Width of tables that go to a file or a pipe."""


def manifest_table(manifests: Sequence[Manifest]) -> Table:
    """Return one row per artifact: accuracy, predicted interval, measured latency, budget, verdict, size."""
    table = Table(title="Artifacts", title_justify="left")
    for name in ("artifact", "target"):
        table.add_column(name, overflow="fold")
    for name in ("test accuracy", "predicted", "measured", "budget"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("verdict")
    table.add_column("size", justify="right")
    for manifest in manifests:
        table.add_row(*_row(manifest))
    return table


def _row(manifest: Manifest) -> tuple[str | Text, ...]:
    measured, predicted = manifest.measured, manifest.predicted
    verdicts = Text(", ").join(
        Text(budget.verdict, style="green" if budget.verdict == "kept" else "bold red") for budget in manifest.budgets
    )
    return (
        manifest.name,
        manifest.target,
        format_share(manifest.accuracy.test if manifest.accuracy else None),
        interval(predicted.value, predicted.low, predicted.high) if predicted else DASH,
        f"{interval(measured.value, measured.low, measured.high)} {measured.unit} {measured.statistic}",
        ", ".join(f"{format_number(budget.max_ms)} {budget.statistic}" for budget in manifest.budgets) or DASH,
        verdicts if manifest.budgets else "no budget",
        format_bytes(manifest.size_bytes),
    )


def interval(value: float, low: float, high: float) -> str:
    """Return ``value [low, high]`` with three significant digits."""
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def print_manifests(manifests: Sequence[Manifest], console: Console | None = None) -> None:
    """Print the table of artifacts on standard output (or ``console``), wide enough where it is not a terminal."""
    console = console or Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(file=console.file, width=FILE_COLUMNS)
    console.print(manifest_table(manifests))

"""The card of a latency table and its model: README.md beside them, made of what was measured."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.files import write_text
from hwnas.latency.table import LatencyTable
from hwnas.markdown import render

CARD = "README.md"
NAMES = {
    "model": "**the model**",
    "alone": "a model of these networks alone",
    "without_lut": "without the lookup table",
    "block_lut": "sum of block times",
    "physics": "prices without trees",
    "macs": "line through multiply-accumulates",
    "test_retest": "measured twice",
}


_FINE = 0.001


def _share(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{100 * value:.1f} %" if value == 0 or abs(value) >= _FINE else f"{100 * value:.2g} %"


def _number(value: float) -> str:
    return f"{value:.4g}"


def write_card(
    folder: Path,
    table: LatencyTable,
    scores: dict[str, dict[str, Any]],
    *,
    coverage: float,
    kernels: bool = False,
    sources: tuple[str, ...] = (),
    curve: dict[int, dict[str, Any]] | None = None,
) -> None:
    """Write the card of a table and the model fitted from it.

    Args:
        folder: Their folder.
        table: The table.
        scores: Name -> plain scores on the held-out networks.
        coverage: Share of networks that intervals are to hold.
        kernels: Whether the model prices kernels.
        sources: What the model was transferred from.
        curve: Of a transferred model: measured networks -> plain scores.
    """
    rows = table.measured()
    halves = np.array([row.halves for row in rows if len(row.halves) == 2])
    differences = np.abs(np.log(halves[:, 0] / halves[:, 1])) if len(halves) else None
    values = [row.latency for row in rows]
    timed = sum(row.count * row.percentiles.get("p50", row.latency) for row in rows) / 1e3
    text = render(
        "hwnas.latency",
        "card.md.j2",
        {"share": _share, "number": _number},
        header=table.header,
        kernels=kernels,
        measured=rows,
        smallest=min(values, default=math.nan),
        largest=max(values, default=math.nan),
        failures=len(table.failures),
        counts={split: len(table.measured(split)) for split in ("train", "held_out", "search")},
        samples=sum(row.count for row in rows),
        seconds=timed if table.header.unit == "ms" else 0.0,
        grades={grade: sum(row.grade == grade for row in rows) for grade in ("A", "B", "C")},
        repeat=None if differences is None else np.quantile(differences, [0.5, 0.95]).tolist(),
        disturbed=[
            f"{word} ({count})" for word, count in Counter(w for row in rows for w in row.disturbed).most_common()
        ],
        scores=scores,
        names=NAMES,
        coverage=coverage,
        sources=sources,
        curve=curve or {},
    )
    write_text(folder / CARD, text)

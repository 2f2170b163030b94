"""Points of the archive as one target sees them: current, feasible, on the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """One evaluated architecture: validation accuracy in [0, 1], predicted latency, and its place.

    ``kind`` is ``front``, ``feasible``, ``over`` (some limit is broken) or ``older`` (accuracy of an earlier supernet,
    not comparable).
    """

    latency_ms: float
    accuracy: float
    kind: str
    generation: int


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def points_of(archive: Sequence[dict[str, Any]], cost: int | None) -> list[Point]:
    """Return the archive's points for the cost in column ``cost``, by rising latency."""
    if cost is None:
        return []
    last: dict[str, dict[str, Any]] = {}
    for record in archive:
        last[str(record.get("encoding"))] = record
    newest = max((int(record.get("version") or 0) for record in last.values()), default=0)
    raw = []
    for record in last.values():
        costs = record.get("costs")
        value = costs[cost] if isinstance(costs, list) and len(costs) > cost else None
        latency, accuracy = _number(value), _number(record.get("accuracy"))
        if latency is None or accuracy is None:
            continue
        limits = record.get("G") or []
        feasible = all(limit <= 0 for limit in limits)
        kind = "older" if int(record.get("version") or 0) < newest else ("feasible" if feasible else "over")
        raw.append(Point(latency, accuracy, kind, int(record.get("generation") or 0)))
    return _mark_front(sorted(raw, key=lambda point: (point.latency_ms, -point.accuracy)))


def _mark_front(points: list[Point]) -> list[Point]:
    best = float("-inf")
    marked = []
    for point in points:
        if point.kind == "feasible" and point.accuracy > best:
            best = point.accuracy
            point = Point(point.latency_ms, point.accuracy, "front", point.generation)
        marked.append(point)
    return marked

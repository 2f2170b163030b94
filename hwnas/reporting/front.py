"""Points of the archive as one target sees them: current, feasible, on the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwnas.reporting.run_data import TargetData


@dataclass(frozen=True)
class Point:
    """One evaluated architecture: validation accuracy in [0, 1], predicted latency, and its place.

    ``kind`` is ``front``, ``feasible``, ``over`` (some limit is broken), ``older`` (accuracy of an earlier supernet) or
    ``fewer`` (read on fewer images than those that were confirmed in the end); the last two cannot be compared.
    """

    latency_ms: float
    accuracy: float
    kind: str
    generation: int
    identifier: str = ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def points_of(archive: Sequence[dict[str, Any]], target: TargetData) -> list[Point]:
    """Return the archive's points as ``target`` sees them (its cost, its limit and shared ones), by rising latency."""
    if target.cost is None:
        return []
    last = {str(record.get("encoding")): record for record in archive}
    newest = max((int(record.get("version") or 0) for record in last.values()), default=0)
    confirmed = any(record.get("confirmed") for record in last.values())
    points = (_point(record, target, newest, confirmed) for record in last.values())
    found = [point for point in points if point is not None]
    return _mark_front(sorted(found, key=lambda point: (point.latency_ms, -point.accuracy)))


def _point(record: dict[str, Any], target: TargetData, newest: int, confirmed: bool) -> Point | None:
    costs, limits = record.get("costs") or [], record.get("G") or []
    latency = _number(costs[target.cost]) if target.cost is not None and len(costs) > target.cost else None
    accuracy = _number(record.get("accuracy"))
    if latency is None or accuracy is None:
        return None
    kind = "feasible" if all(limits[column] <= 0 for column in target.limits if column < len(limits)) else "over"
    if int(record.get("version") or 0) < newest:
        kind = "older"
    elif kind == "feasible" and confirmed and not record.get("confirmed"):
        kind = "fewer"
    return Point(latency, accuracy, kind, int(record.get("generation") or 0), str(record.get("id", "")))


def _mark_front(points: list[Point]) -> list[Point]:
    best = float("-inf")
    marked = []
    for point in points:
        if point.kind == "feasible" and point.accuracy > best:
            best = point.accuracy
            point = replace(point, kind="front")
        marked.append(point)
    return marked

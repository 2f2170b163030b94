"""Is a lower precision faster here? The same networks, measured by the tables of a run in both precisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np
from scipy import stats

from hwnas.errors import ConfigError
from hwnas.targets import PRECISIONS, Target

FEWEST = 5
CONFIDENCE = 0.95


@dataclass(frozen=True)
class PrecisionGap:
    """How long networks take in a lower precision, as a multiple of the higher one.

    Attributes:
        lower: Target of the lower precision.
        higher: Target of the higher one; nothing else differs.
        ratio: Geometric mean over the networks.
        low: Lower end of its 95 % interval (Student's t over networks).
        high: Upper end.
        networks: Networks measured in both.
    """

    lower: str
    higher: str
    ratio: float
    low: float
    high: float
    networks: int

    @property
    def faster(self) -> str | None:
        """The target to choose for speed; None where the networks do not tell."""
        if self.low > 1.0:
            return self.higher
        return self.lower if self.high < 1.0 else None

    @property
    def sentence(self) -> str:
        """What a person is told."""
        lower, higher = Target.parse(self.lower).precision, Target.parse(self.higher).precision
        told = (
            f"{self.ratio:.2f} times as long as {higher} ({self.low:.2f} to {self.high:.2f}, {self.networks} networks)"
        )
        if self.faster == self.higher:
            return f"{lower} is slower here: {self.lower} takes {told}. For speed choose {self.higher}; {lower} saves bytes only."
        if self.faster == self.lower:
            return f"{lower} is faster here: {self.lower} takes {told}."
        return f"{lower} is neither faster nor slower here: {self.lower} takes {told}."

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "faster": self.faster, "sentence": self.sentence}


def precision_gaps(latencies: Mapping[str, Mapping[str, float]]) -> list[PrecisionGap]:
    """Return the gaps of all pairs of targets that differ in precision only.

    Args:
        latencies: Target -> key of a network -> measured latency; names that are no target are left out.
    """
    targets = []
    for name in latencies:
        try:
            targets.append(Target.parse(name))
        except ConfigError:
            continue
    return [
        gap
        for higher, lower in permutations(targets, 2)
        if _setting(higher) == _setting(lower)
        and PRECISIONS.index(higher.precision) < PRECISIONS.index(lower.precision)
        and (gap := _gap(higher, lower, latencies)) is not None
    ]


def _setting(target: Target) -> tuple[str, str, int, int]:
    return target.device, target.runtime, target.threads, target.batch


def _gap(higher: Target, lower: Target, latencies: Mapping[str, Mapping[str, float]]) -> PrecisionGap | None:
    first, second = latencies[str(higher)], latencies[str(lower)]
    shared = sorted(first.keys() & second.keys())
    if len(shared) < FEWEST:
        return None
    logs = np.log([second[key] / first[key] for key in shared])
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, len(logs) - 1) * np.std(logs, ddof=1) / np.sqrt(len(logs)))
    mean = float(np.mean(logs))
    ratio, low, high = (float(np.exp(value)) for value in (mean, mean - half, mean + half))
    return PrecisionGap(str(lower), str(higher), ratio, low, high, len(shared))


def latencies_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return key -> latency of a table's rows that were measured."""
    return {
        str(row["key"]): float(row["value"])
        for row in rows
        if "encoding" in row and isinstance(row.get("value"), int | float) and row["value"] > 0
    }

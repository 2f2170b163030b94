"""What every latency model of a target offers, however it was made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from hwnas.errors import TableError
from hwnas.files import digest
from hwnas.latency.conformal import Conformal
from hwnas.latency.features import PHYSICAL, FeatureExtractor
from hwnas.latency.rows import LatencyRow
from hwnas.latency.statistics import BoolArray, FloatArray
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.targets import Fingerprint, Target

_RANGE_MARGIN = 1.02


@dataclass(frozen=True)
class Prediction:
    """Predicted latencies of ``n`` architectures.

    Attributes:
        value: Point estimates, ``[n]``, in the model's unit.
        low: Lower ends of the intervals, ``[n]``.
        high: Upper ends of the intervals, ``[n]``.
        out_of_distribution: Whether a block was never measured or a feature lies outside the measured range, ``[n]``.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    out_of_distribution: BoolArray

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True)
class Tail:
    """How far a tail statistic lies above the median: log ratio and what bounds it for the asked coverage."""

    ratio: float
    half_width: float


@dataclass(frozen=True)
class Domain:
    """The range of what was measured.

    Attributes:
        low: Smallest physical features of the measured networks, ``[features]``.
        high: The largest.
    """

    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, F: FloatArray) -> Domain:
        """Return the range of features ``F [n, features]``."""
        physical = F[:, : len(PHYSICAL)]
        return cls(physical.min(axis=0), physical.max(axis=0))

    def lacks(self, F: FloatArray) -> BoolArray:
        """Return which rows of ``F [n, features]`` lie outside by more than 2 %, ``[n]``."""
        physical = F[:, : len(PHYSICAL)]
        outside = (physical * _RANGE_MARGIN < self.low) | (physical > self.high * _RANGE_MARGIN)
        return np.asarray(outside.any(axis=1))


@dataclass(frozen=True, kw_only=True)
class LatencyPredictor(ABC):
    """Predicts the median latency of a space's networks on a target, under its table's reference condition.

    Attributes:
        target: The target.
        fingerprint: Machine and setting it is valid for.
        space: The space of the encodings.
        extractor: Features of the space.
        conformal: Calibration of the intervals.
        tails: Statistic (``p90``, ``p99``) -> how far above the median it lies.
        domain: What was measured.
        facts: Plain data about the fit: rows, error, canaries of the table, unit, versions, ...
    """

    target: Target
    fingerprint: Fingerprint
    space: SearchSpace[Architecture]
    extractor: FeatureExtractor
    conformal: Conformal
    tails: dict[str, Tail]
    domain: Domain
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def canaries(self) -> dict[str, float]:
        """Reference latencies of the canaries: the condition every prediction stands for."""
        return dict(self.facts["canaries"])

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return str(self.facts["unit"])

    @abstractmethod
    def predict_median(self, X: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return medians, local spreads of their logarithms, and which are out of distribution, each ``[n]``.

        Raises:
            SpaceError: An encoding is outside the bounds.
        """

    @abstractmethod
    def refit(self, table: LatencyTable) -> Self:
        """Return a model fitted anew, with the same settings, on a table with more rows."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write ``model.json``, and what it names, into a folder."""

    def predict(self, X: IntArray, statistic: str = "p50") -> Prediction:
        """Predict many architectures at once.

        Args:
            X: Encodings ``[n, n_genes]``.
            statistic: ``p50``, ``p90`` or ``p99``; the tails are the median times a ratio that the table shows.

        Raises:
            SpaceError: An encoding is outside the bounds.
            ValueError: Another statistic.
        """
        if statistic != "p50" and statistic not in self.tails:
            raise ValueError(f"statistic={statistic!r} must be one of p50, {', '.join(self.tails)}")
        value, spread, outside = self.predict_median(X)
        half = self.conformal.half_width(spread)
        if statistic in self.tails:
            tail = self.tails[statistic]
            value, half = value * np.exp(tail.ratio), np.hypot(half, tail.half_width)
        return Prediction(value, value * np.exp(-half), value * np.exp(half), outside)

    def predict_upper(self, X: IntArray, statistic: str = "p50") -> FloatArray:
        """Return the upper ends of the intervals, ``[n]``: what a hard limit is held against."""
        return self.predict(X, statistic).high

    def add_rows(self, table: LatencyTable, rows: Iterable[LatencyRow]) -> tuple[Self, LatencyTable]:
        """Return the model refitted on ``table`` with ``rows`` added, and that table."""
        grown = table.with_rows(rows)
        return self.refit(grown), grown

    def require(self, fingerprint: Fingerprint) -> None:
        """Raise unless the model was made on this machine and setting.

        Raises:
            FingerprintMismatchError: It was not.
        """
        mend = f"Profile here: hwnas profile --target {self.target}"
        self.fingerprint.require_same(fingerprint, f"the latency model of {self.target}", mend)

    def description(self) -> dict[str, Any]:
        """Return the part of ``model.json`` that every kind of model has."""
        return {
            "target": str(self.target),
            "fingerprint": self.fingerprint.as_dict(),
            "space": {"name": self.space.name, "settings": self.space.settings(), "digest": self.space.digest},
            "features": self.extractor.schema,
            "conformal": vars(self.conformal),
            "tails": {name: vars(tail) for name, tail in self.tails.items()},
            "limits": [self.domain.low.tolist(), self.domain.high.tolist()],
            "facts": self.facts,
        }


def rows_to_fit(
    table: LatencyTable, space: SearchSpace[Architecture], fewest: int, mend: str
) -> tuple[LatencyRow, ...]:
    """Return the rows of a table that are not held out.

    Raises:
        TableError: The table is of another space or has fewer than ``fewest`` measured ones; ``mend`` says what to do.
    """
    table.require(space)
    rows = table.measured("train", "search")
    if len(rows) < fewest:
        raise TableError(
            f"the table of {table.target} has {len(rows)} measured rows to fit on, at least {fewest} are needed. "
            f"Measure more: {mend}."
        )
    return rows


def facts_of(table: LatencyTable, rows: Sequence[LatencyRow]) -> dict[str, Any]:
    """Return what every model says of the rows it was fitted on."""
    return {
        "rows": len(rows),
        "table": digest([row.as_dict() for row in rows]),
        "canaries": table.header.canaries,
        "unit": table.header.unit,
        "statistic": "p50",
        "versions": table.header.versions,
    }


def fit_tails(rows: Sequence[LatencyRow], coverage: float) -> dict[str, Tail]:
    """Return how far ``p90`` and ``p99`` lie above the median in measured rows."""
    tails = {}
    for name in ("p90", "p99"):
        known = [row.percentiles for row in rows if name in row.percentiles and "p50" in row.percentiles]
        if known:
            ratios = np.log([entry[name] / entry["p50"] for entry in known])
            centre = float(np.median(ratios))
            tails[name] = Tail(centre, float(np.quantile(np.abs(ratios - centre), coverage)))
    return tails

"""One row of a latency table and what makes it acceptable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from hwnas.errors import TableError
from hwnas.latency.measurement import Measurement
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import IntArray
from hwnas.targets import Fingerprint

Split = Literal["train", "held_out", "search"]
"""Why a network was measured: to fit the model, to judge it, or because a search asked."""

_POSITIVE = ("value", "low", "high", "floor", "raw_value", "corrected_value")
_GRADES = ("A", "B", "C")


@dataclass(frozen=True)
class LatencyRow:
    """A measured network; ``value`` is its median under the table's reference condition.

    Attributes:
        key: ``SearchSpace.id_of`` of the encoding.
        encoding: The canonical encoding.
        split: See :data:`Split`.
        identity: Digest of the fingerprint's identity it was measured under.
        context: Digest of the fingerprint's context it was measured under.
        model_digest: sha256 of the measured files.
        metric: ``latency``.
        unit: ``ms`` unless the device counts something else.
        statistic: What ``value`` stands for.
        estimator: How it was formed.
        value: The latency; None when the measurement failed.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        raw_value: Without correction.
        corrected_value: Canary-corrected.
        floor: 1st percentile.
        mad: Median absolute deviation.
        percentiles: ``p1`` ... ``p99`` over all raw samples.
        count: Raw samples.
        rounds: Rounds with a good burst.
        grade: ``A``, ``B`` or ``C``.
        disturbed: What disturbed it.
        halves: Estimates from even and odd rounds.
        load_ms: Time to open the model.
        kernels: Block name (layer name where blocks do not recur) -> kernel milliseconds, with ``""`` for what belongs to
            none; empty if not profiled.
        failure: ``[kind, detail]`` when it could not be measured.
    """

    key: str
    encoding: tuple[int, ...]
    split: Split
    identity: str
    context: str
    model_digest: str
    metric: str = "latency"
    unit: str = "ms"
    statistic: str = "p50"
    estimator: str = "p50-raw"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    raw_value: float | None = None
    corrected_value: float | None = None
    floor: float | None = None
    mad: float | None = None
    percentiles: dict[str, float] = field(default_factory=dict)
    count: int = 0
    rounds: int = 0
    grade: str = "C"
    disturbed: tuple[str, ...] = ()
    halves: tuple[float, ...] = ()
    load_ms: float | None = None
    kernels: dict[str, float] = field(default_factory=dict)
    failure: tuple[str, str] | None = None

    @property
    def measured(self) -> bool:
        """Whether there is a latency."""
        return self.failure is None

    @property
    def latency(self) -> float:
        """The latency of a measured row.

        Raises:
            ValueError: The measurement failed.
        """
        if self.value is None:
            raise ValueError(f"row {self.key} has no latency: {self.failure}")
        return self.value

    @property
    def half_width(self) -> float:
        """Half-width of the interval relative to the value; 1.0 when there is none."""
        if self.value is None or self.low is None or self.high is None:
            return 1.0
        return (self.high - self.low) / (2.0 * self.value)

    @classmethod
    def from_measurement(
        cls,
        measurement: Measurement,
        encoding: IntArray,
        split: Split,
        fingerprint: Fingerprint,
        kernels: dict[str, float] | None = None,
    ) -> LatencyRow:
        """Return the row of a measurement."""
        common: dict[str, Any] = {
            "key": measurement.key,
            "encoding": tuple(int(gene) for gene in encoding),
            "split": split,
            "identity": fingerprint.identity_digest,
            "context": fingerprint.context_digest,
            "model_digest": measurement.model_digest,
            "unit": measurement.unit,
        }
        if measurement.failure is not None:
            return cls(**common, failure=measurement.failure)
        numbers: dict[str, Any] = {name: float(getattr(measurement, name)) for name in (*_POSITIVE, "mad", "load_ms")}
        same = ("statistic", "estimator", "percentiles", "count", "rounds", "grade", "disturbed", "halves")
        kept = {name: getattr(measurement, name) for name in same}
        return cls(**common, **numbers, **kept, kernels=kernels or {})

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data without empty fields."""
        return {name: value for name, value in asdict(self).items() if not _is_empty(value)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str) -> LatencyRow:
        """Read and check a row.

        Raises:
            TableError: A field is missing, of another kind or impossible; ``where`` and the field are named.
        """
        unknown = raw.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise TableError(f"{where}: unknown field {sorted(unknown)[0]!r}; a later version of hwnas may know it.")
        values = dict(raw)
        try:
            for name in ("encoding", "disturbed", "halves", "failure"):
                if name in values:
                    values[name] = tuple(values[name])
            row = cls(**values)
        except TypeError as error:
            raise TableError(f"{where}: a row needs {_required()} ({error}).") from error
        row.check(where)
        return row

    def check(self, where: str) -> None:
        """Raise unless the row has provenance and possible numbers.

        Raises:
            TableError: It has not.
        """
        for name in ("key", "identity", "context"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise TableError(f"{where}: a row needs {name}; a number without provenance is refused.")
        rules: list[tuple[str, Callable[[], bool]]] = [
            ("encoding must be integers", lambda: all(type(gene) is int for gene in self.encoding)),
            (f"split must be one of {get_args(Split)}", lambda: self.split in get_args(Split)),
        ]
        if self.measured:
            rules += self._number_rules()
        for sentence, holds in rules:
            try:
                fine = holds()
            except (TypeError, AttributeError):
                fine = False
            if not fine:
                raise TableError(f"{where}: {sentence} (row {self.key}). Restore the table, or remove that line.")

    def _number_rules(self) -> list[tuple[str, Callable[[], bool]]]:
        def positive(value: Any) -> bool:
            return not isinstance(value, bool) and math.isfinite(value) and value > 0

        rules: list[tuple[str, Callable[[], bool]]] = [
            (f"{name}={getattr(self, name)!r} must be positive and finite", lambda n=name: positive(getattr(self, n)))  # type: ignore[misc]
            for name in _POSITIVE
        ]
        others = (*self.percentiles.values(), *self.halves) if isinstance(self.percentiles, dict) else (None,)
        rules += [
            ("a row needs model_digest; a number without provenance is refused", lambda: bool(self.model_digest)),
            ("percentiles and halves must be positive and finite", lambda: all(map(positive, others))),
            ("kernel times must be finite and not negative", lambda: _not_negative(self.kernels.values())),
            (
                f"low={self.low}, value={self.value}, high={self.high} must ascend",
                lambda: (self.low or 0.0) <= self.latency <= (self.high or 0.0),
            ),
            (f"grade={self.grade!r} must be one of {_GRADES}", lambda: self.grade in _GRADES),
            (f"count={self.count} and rounds={self.rounds} must be positive", lambda: self.count > 0 < self.rounds),
        ]
        return rules


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (tuple, dict)) and not value)


def _not_negative(values: Any) -> bool:
    return all(math.isfinite(value) and value >= 0 for value in values)


def _required() -> str:
    return "key, encoding, split, identity, context and model_digest"


def encodings_of(rows: Sequence[LatencyRow]) -> IntArray:
    """Return the encodings of rows, ``[n, n_genes]``."""
    return np.array([row.encoding for row in rows], dtype=np.int64)


def latencies_of(rows: Sequence[LatencyRow]) -> FloatArray:
    """Return the latencies of measured rows, ``[n]``."""
    return np.array([row.latency for row in rows], dtype=np.float64)

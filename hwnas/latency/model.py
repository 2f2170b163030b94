"""The latency model of a target: fitted from its table, vectorised over encodings, saved without pickle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import TableError
from hwnas.files import digest
from hwnas.latency import model_files
from hwnas.latency.conformal import Conformal
from hwnas.latency.crossfit import cross_fit
from hwnas.latency.features import PHYSICAL, FeatureExtractor
from hwnas.latency.regressor import Inputs, Regressor, inputs_of
from hwnas.latency.rows import LatencyRow, latencies_of
from hwnas.latency.statistics import BoolArray, FloatArray
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.targets import Fingerprint, Target

FEWEST_ROWS = 10
"""A model is not fitted on fewer rows."""

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
class LatencyModel:
    """Predicts the median latency under the table's reference condition, with calibrated intervals.

    Attributes:
        target: The target.
        fingerprint: Machine and setting it is valid for.
        space: The space of the encodings.
        extractor: Features of the space.
        full: The predictor.
        folds: Predictors fitted without one fold each; their disagreement is the local spread.
        conformal: Calibration of the intervals.
        tails: Statistic (``p90``, ``p99``) -> how far above the median it lies.
        limits: Smallest and largest physical features measured, ``[2, features]``.
        facts: Plain data about the fit: rows, seed, out-of-fold error, canaries of the table, unit, versions, ...
    """

    target: Target
    fingerprint: Fingerprint
    space: SearchSpace[Architecture]
    extractor: FeatureExtractor
    full: Regressor
    folds: tuple[Regressor, ...]
    conformal: Conformal
    tails: dict[str, Tail]
    limits: FloatArray
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def canaries(self) -> dict[str, float]:
        """Reference latencies of the canaries: the condition every prediction stands for."""
        return dict(self.facts["canaries"])

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return str(self.facts["unit"])

    @classmethod
    def fit(
        cls,
        table: LatencyTable,
        space: SearchSpace[Architecture],
        *,
        use_lut: bool = True,
        seed: int = 0,
        coverage: float = 0.9,
    ) -> LatencyModel:
        """Fit on the rows of a table that are not held out.

        Args:
            table: The table.
            space: Its space.
            use_lut: Whether the block lookup table takes part (it needs kernel times in the rows).
            seed: Seed of folds and trees.
            coverage: Share of networks whose measured latency the interval is to hold.

        Raises:
            TableError: The table is of another space or has fewer than 10 measured rows to fit on.
        """
        table.require(space)
        rows = table.measured("train", "search")
        if len(rows) < FEWEST_ROWS:
            raise TableError(
                f"the table of {table.target} has {len(rows)} measured rows to fit on, at least {FEWEST_ROWS} are needed. "
                "Measure more: hwnas profile with a larger profile.networks."
            )
        extractor = FeatureExtractor(space, table.target.precision)
        fitted = cross_fit(rows, extractor, seed, use_lut)
        inputs, y = inputs_of(rows, extractor), latencies_of(rows)
        residuals = np.log(y / fitted.out_of_fold)
        spread = _spread(fitted.folds, extractor, inputs)
        physical = inputs.F[:, : len(PHYSICAL)]
        facts = {
            "rows": len(rows),
            "table": digest([row.as_dict() for row in rows]),
            "seed": seed,
            "use_lut": use_lut,
            "monotone": fitted.monotone,
            "out_of_fold_mape": float(np.mean(np.abs(fitted.out_of_fold / y - 1.0))),
            "canaries": table.header.canaries,
            "unit": table.header.unit,
            "statistic": "p50",
            "versions": table.header.versions,
        }
        return cls(
            target=table.target,
            fingerprint=table.header.fingerprint,
            space=space,
            extractor=extractor,
            full=fitted.full,
            folds=fitted.folds,
            conformal=Conformal.fit(residuals, spread, coverage),
            tails=_fit_tails(rows, coverage),
            limits=np.stack([physical.min(axis=0), physical.max(axis=0)]),
            facts=facts,
        )

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
        inputs = Inputs.of(self.extractor, self.extractor.ids(X))
        value, guessed = self.full.predict(self.extractor, inputs)
        half = self.conformal.half_width(_spread(self.folds, self.extractor, inputs))
        if statistic in self.tails:
            tail = self.tails[statistic]
            value, half = value * np.exp(tail.ratio), np.hypot(half, tail.half_width)
        return Prediction(value, value * np.exp(-half), value * np.exp(half), guessed | self._outside(inputs))

    def predict_upper(self, X: IntArray, statistic: str = "p50") -> FloatArray:
        """Return the upper ends of the intervals, ``[n]``: what a hard limit is held against."""
        return self.predict(X, statistic).high

    def _outside(self, inputs: Inputs) -> BoolArray:
        physical = inputs.F[:, : len(PHYSICAL)]
        low, high = self.limits
        return np.asarray(((physical * _RANGE_MARGIN < low) | (physical > high * _RANGE_MARGIN)).any(axis=1))

    def refit(self, table: LatencyTable) -> LatencyModel:
        """Return a model fitted anew, with the same settings, on a table with more rows."""
        return LatencyModel.fit(
            table,
            self.space,
            use_lut=bool(self.facts["use_lut"]),
            seed=int(self.facts["seed"]),
            coverage=self.conformal.coverage,
        )

    def add_rows(self, table: LatencyTable, rows: Iterable[LatencyRow]) -> tuple[LatencyModel, LatencyTable]:
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

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and one ``.ubj`` file per booster."""
        content = {
            "target": str(self.target),
            "fingerprint": self.fingerprint.as_dict(),
            "space": {"name": self.space.name, "settings": self.space.settings(), "digest": self.space.digest},
            "features": self.extractor.schema,
            "conformal": vars(self.conformal),
            "tails": {name: vars(tail) for name, tail in self.tails.items()},
            "limits": self.limits.tolist(),
            "facts": self.facts,
        }
        model_files.save(folder, content, self.full, self.folds)

    @classmethod
    def load(
        cls, folder: Path, space: SearchSpace[Architecture] | None = None, fingerprint: Fingerprint | None = None
    ) -> LatencyModel:
        """Read a model.

        Args:
            folder: Where :meth:`save` wrote it.
            space: The space it must belong to; made from the saved settings if not given.
            fingerprint: The machine it must belong to; not checked if not given.

        Raises:
            TableError: Files are absent, damaged, of another version or of another space.
            FingerprintMismatchError: It was made on another machine or setting.
        """
        content, full, folds = model_files.load(folder)
        with model_files.explain(folder):
            space = model_files.space_of(content, folder, space)
            extractor = FeatureExtractor(space, Target.parse(content["target"]).precision)
            model_files.require_schema(content, dict(extractor.schema), folder)
            model = cls(
                target=Target.parse(content["target"]),
                fingerprint=Fingerprint.from_dict(content["fingerprint"]),
                space=space,
                extractor=extractor,
                full=full,
                folds=folds,
                conformal=Conformal(**content["conformal"]),
                tails={name: Tail(**tail) for name, tail in content["tails"].items()},
                limits=np.asarray(content["limits"], dtype=np.float64),
                facts=content["facts"],
            )
        if fingerprint is not None:
            model.require(fingerprint)
        return model


def _spread(folds: tuple[Regressor, ...], extractor: FeatureExtractor, inputs: Inputs) -> FloatArray:
    logs = [np.log(regressor.predict(extractor, inputs)[0]) for regressor in folds]
    return np.asarray(np.std(logs, axis=0), dtype=np.float64)


def _fit_tails(rows: tuple[LatencyRow, ...], coverage: float) -> dict[str, Tail]:
    tails = {}
    for name in ("p90", "p99"):
        known = [row.percentiles for row in rows if name in row.percentiles and "p50" in row.percentiles]
        if known:
            ratios = np.log([entry[name] / entry["p50"] for entry in known])
            centre = float(np.median(ratios))
            tails[name] = Tail(centre, float(np.quantile(np.abs(ratios - centre), coverage)))
    return tails

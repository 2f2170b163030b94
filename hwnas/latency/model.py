"""The latency model of a target: fitted from its table, vectorised over encodings, saved without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import TableError
from hwnas.latency import model_files
from hwnas.latency.conformal import Conformal
from hwnas.latency.crossfit import cross_fit, spread_of
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.predictor import Domain, LatencyPredictor, facts_of, fit_tails, rows_to_fit
from hwnas.latency.regressor import Inputs, Regressor, inputs_of
from hwnas.latency.rows import latencies_of
from hwnas.latency.statistics import BoolArray, FloatArray
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.targets import Fingerprint

FEWEST_ROWS = 10
"""A model is not fitted on fewer rows."""


@dataclass(frozen=True, kw_only=True)
class LatencyModel(LatencyPredictor):
    """The model of a target that was measured at length: physical base, block prices and boosted trees on what they leave.

    Attributes:
        full: The predictor.
        jury: Predictors fitted without two folds each; their disagreement is the local spread.
    """

    full: Regressor
    jury: tuple[Regressor, ...]

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
        rows = rows_to_fit(table, space, FEWEST_ROWS, "hwnas profile with a larger profile.networks")
        extractor = FeatureExtractor(space, table.target.precision)
        fitted = cross_fit(rows, extractor, seed, use_lut)
        inputs, y = inputs_of(rows, extractor), latencies_of(rows)
        residuals = np.log(y / fitted.out_of_fold)
        facts = {
            **facts_of(table, rows),
            "seed": seed,
            "use_lut": use_lut,
            "out_of_fold_mape": float(np.mean(np.abs(fitted.out_of_fold / y - 1.0))),
        }
        return cls(
            target=table.target,
            fingerprint=table.header.fingerprint,
            space=space,
            extractor=extractor,
            full=fitted.full,
            jury=fitted.jury,
            conformal=Conformal.fit(residuals, fitted.spread, coverage),
            tails=fit_tails(rows, coverage),
            domain=Domain.of(inputs.F),
            facts=facts,
        )

    def predict_median(self, X: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """See :meth:`LatencyPredictor.predict_median`; the spread is that of the jury."""
        inputs = self._inputs(X)
        value, outside = self._medians(inputs)
        return value, spread_of(self.jury, self.extractor, inputs), outside

    def medians(self, X: IntArray) -> tuple[FloatArray, BoolArray]:
        """Return what :meth:`predict_median` does, without the spread, which costs several times as much."""
        return self._medians(self._inputs(X))

    def _inputs(self, X: IntArray) -> Inputs:
        return Inputs.of(self.extractor, self.extractor.ids(X))

    def _medians(self, inputs: Inputs) -> tuple[FloatArray, BoolArray]:
        value, guessed = self.full.predict(self.extractor, inputs)
        return value, guessed | self.domain.lacks(inputs.F)

    def refit(self, table: LatencyTable) -> LatencyModel:
        """Return a model fitted anew, with the same settings, on a table with more rows."""
        return LatencyModel.fit(
            table,
            self.space,
            use_lut=bool(self.facts["use_lut"]),
            seed=int(self.facts["seed"]),
            coverage=self.conformal.coverage,
        )

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and one ``.ubj`` file per booster."""
        model_files.save(folder, self.description(), self.full, self.jury)

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
        kind, content = model_files.read_description(folder)
        if kind != "measured":
            what = "of kernels: it predicts ONNX files" if kind == "kernels" else f"{kind}, not measured at length"
            raise TableError(f"the latency model in {folder} is {what}.")
        full, jury = model_files.load_regressors(folder, content)
        model = cls(**model_files.common_of(content, folder, space), full=full, jury=jury)
        if fingerprint is not None:
            model.require(fingerprint)
        return model

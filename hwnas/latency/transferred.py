"""The latency model of a new target, made from models of other targets and 10 to 50 measurements of its own.

Source: few-shot transfer as in HELP (Lee et al., NeurIPS 2021), with regression on the other devices' predictions in place of
meta-learning. What the regression is: :mod:`hwnas.latency.few_shot`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import TableError
from hwnas.latency import model_files
from hwnas.latency.base_models import row_weights
from hwnas.latency.conformal import Conformal
from hwnas.latency.features import PHYSICAL, FeatureExtractor
from hwnas.latency.few_shot import FewShot
from hwnas.latency.kriging import FEWEST, Scaling
from hwnas.latency.model import LatencyModel
from hwnas.latency.predictor import Domain, LatencyPredictor, facts_of, fit_tails, rows_to_fit
from hwnas.latency.rows import encodings_of, latencies_of
from hwnas.latency.sampling import (
    SamplingPlan,
    banded,
    covered_share,
    draw,
    extremes_of,
    held_out_networks,
    require_enough,
)
from hwnas.latency.statistics import BoolArray, FloatArray
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, IntArray, SearchSpace, unique_rows
from hwnas.targets import Fingerprint

SOURCES_FOLDER = "sources"
_SAMPLE = 2000
_SAMPLE_SEED = 20_000


@dataclass(frozen=True, kw_only=True)
class TransferredModel(LatencyPredictor):
    """A target's latency model that stands on those of other targets.

    Attributes:
        sources: The models it stands on, at least one, all of its space.
        regression: How their predictions and the physical features make the target's latency.
    """

    sources: tuple[LatencyModel, ...]
    regression: FewShot

    @classmethod
    def fit(
        cls,
        table: LatencyTable,
        space: SearchSpace[Architecture],
        sources: Sequence[LatencyModel],
        *,
        coverage: float = 0.9,
    ) -> TransferredModel:
        """Fit on the rows of a table that are not held out.

        Args:
            table: The target's own measurements.
            space: Its space.
            sources: Models of other targets for the same space.
            coverage: Share of networks whose measured latency the interval is to hold.

        Raises:
            TableError: There is no source, one is of another space, or fewer than 5 networks are measured.
        """
        require_sources(sources, space)
        rows = rows_to_fit(table, space, FEWEST, "hwnas tables transfer with a larger --networks")
        extractor = FeatureExtractor(space, table.target.precision)
        sample = unique_rows(space.sample(np.random.default_rng(_SAMPLE_SEED), _SAMPLE))
        X, y = encodings_of(rows), latencies_of(rows)
        F, F_sample = _physical(extractor, X), _physical(extractor, sample)
        scalings = Scaling.of(_logs(sources, sample)), Scaling.of(np.log1p(F_sample))
        regression = FewShot.fit(*scalings, _logs(sources, X), F, y, row_weights(rows))
        return cls(
            target=table.target,
            fingerprint=table.header.fingerprint,
            space=space,
            extractor=extractor,
            conformal=Conformal.fit(regression.left_out, regression.left_out_spread, coverage),
            tails=fit_tails(rows, coverage),
            domain=Domain.of(np.concatenate([F, F_sample])),
            facts={
                **facts_of(table, rows),
                "sources": names_of(sources),
                "own_weight": regression.own_weight,
                "left_out_mape": float(np.mean(np.abs(np.expm1(regression.left_out)))),
            },
            sources=tuple(sources),
            regression=regression,
        )

    def predict_median(self, X: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """See :meth:`LatencyPredictor.predict_median`; the spread is the posterior standard deviation."""
        medians, unknown = zip(*(source.medians(X) for source in self.sources), strict=True)
        F = _physical(self.extractor, X)
        value, spread = self.regression.predict(np.log(np.stack(medians, axis=1)), F)
        return np.exp(value), spread, self.domain.lacks(F) | np.any(unknown, axis=0)

    def refit(self, table: LatencyTable) -> TransferredModel:
        """See :meth:`LatencyPredictor.refit`."""
        return TransferredModel.fit(table, self.space, self.sources, coverage=self.conformal.coverage)

    def save(self, folder: Path) -> None:
        """Write ``sources/`` (:func:`save_sources`) and, last, ``model.json``."""
        save_sources(self.sources, folder)
        content = {**self.description(), "sources": tables_of(self.sources), "regression": self.regression.as_dict()}
        model_files.write_description(folder, "transferred", content)

    @classmethod
    def load(
        cls, folder: Path, space: SearchSpace[Architecture] | None = None, fingerprint: Fingerprint | None = None
    ) -> TransferredModel:
        """Read a model; arguments and errors are those of :meth:`LatencyModel.load`."""
        kind, content = model_files.read_description(folder)
        if kind != "transferred":
            raise TableError(f"the latency model in {folder} is {kind}, not transferred.")
        common = model_files.common_of(content, folder, space)
        with model_files.explain(folder):
            regression = FewShot.from_dict(content["regression"])
            tables = [str(table) for table in content["sources"]]
        sources = load_sources(folder, common["space"], tables)
        model = cls(**common, sources=sources, regression=regression)
        if fingerprint is not None:
            model.require(fingerprint)
        return model


def load_model(
    folder: Path, space: SearchSpace[Architecture] | None = None, fingerprint: Fingerprint | None = None
) -> LatencyModel | TransferredModel:
    """Read a latency model of either kind; arguments and errors are those of :meth:`LatencyModel.load`."""
    kind, _ = model_files.read_description(folder)
    reader = TransferredModel if kind == "transferred" else LatencyModel
    return reader.load(folder, space, fingerprint)


def names_of(sources: Sequence[LatencyModel]) -> list[str]:
    """Return how sources are called where people read it: target and machine."""
    return [f"{source.target} ({source.fingerprint.identity_digest[:12]})" for source in sources]


def tables_of(sources: Sequence[LatencyModel]) -> list[str]:
    """Return the digests of the rows that sources were fitted on: what makes them the same."""
    return [str(source.facts["table"]) for source in sources]


def save_sources(sources: Sequence[LatencyModel], folder: Path) -> None:
    """Write ``sources/0/`` ... of a model's folder, all or none; nothing happens where the same are there already."""
    final = folder / SOURCES_FOLDER
    try:
        if tables_of(load_sources(folder, sources[0].space)) == tables_of(sources):
            return
    except TableError:
        pass
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{SOURCES_FOLDER}-", dir=folder) as work:
        for index, source in enumerate(sources):
            source.save(Path(work) / SOURCES_FOLDER / str(index))
        shutil.rmtree(final, ignore_errors=True)
        (Path(work) / SOURCES_FOLDER).rename(final)


def load_sources(
    folder: Path, space: SearchSpace[Architecture], tables: Sequence[str] | None = None
) -> tuple[LatencyModel, ...]:
    """Read what :func:`save_sources` wrote into a model's folder.

    Args:
        folder: The model's folder.
        space: Its space.
        tables: What :func:`tables_of` must say of them; not checked if not given.

    Raises:
        TableError: They are absent, damaged or other ones.
    """
    mend = "Transfer again: hwnas tables transfer, into another folder."
    paths = [path for path in (folder / SOURCES_FOLDER).glob("*") if path.name.isdigit()]
    try:
        sources = tuple(LatencyModel.load(path, space) for path in sorted(paths, key=lambda path: int(path.name)))
    except TableError as error:
        raise TableError(f"what the model in {folder} was transferred from is damaged ({error}). {mend}") from error
    if not sources or (tables is not None and tables_of(sources) != list(tables)):
        raise TableError(f"what the model in {folder} was transferred from is missing or was exchanged. {mend}")
    return sources


def require_sources(sources: Sequence[LatencyModel], space: SearchSpace[Architecture]) -> None:
    """Raise unless there are sources, all of this space.

    Raises:
        TableError: There is none, or one is of another space.
    """
    if not sources:
        raise TableError("a transfer needs at least one latency model of another target. Make one: hwnas profile.")
    foreign = [str(source.target) for source in sources if source.space.digest != space.digest]
    if foreign:
        raise TableError(
            f"the latency model of {foreign[0]} is of another space than {space.name} as set. Profile it there."
        )


def plan_anchors(
    space: SearchSpace[Architecture], sources: Sequence[LatencyModel], count: int, held_out: int, seed: int
) -> SamplingPlan:
    """Choose networks to transfer by: the extremes, then one from each of equally filled bands of mean source latency.

    The held-out networks are those of :func:`hwnas.latency.sampling.plan_networks` for the same seed.

    Args:
        space: The space.
        sources: The models to transfer from.
        count: Networks to fit on, at least 5.
        held_out: Networks to judge by.
        seed: Seed of everything.

    Raises:
        TableError: No source fits.
        SpaceError: The space has too few architectures.
    """
    require_sources(sources, space)
    extremes = extremes_of(space)
    judges = held_out_networks(space, held_out, seed)
    pool = draw(space, np.random.default_rng([seed, 2]), max(_SAMPLE, 10 * count), [*extremes, *judges], at_most=True)
    logs = _logs(sources, pool)
    chosen = banded(Scaling.of(logs)(logs).mean(axis=1), count - len(extremes), np.random.default_rng([seed, 3]))
    train = np.concatenate([extremes, pool[chosen]])
    require_enough(space, len(train), count, held_out)
    extractor = FeatureExtractor(space, "fp32")
    return SamplingPlan(train, judges, 0, covered_share(extractor, extractor.ids(train)))


def _logs(sources: Sequence[LatencyModel], X: IntArray) -> FloatArray:
    return np.log(np.stack([source.medians(X)[0] for source in sources], axis=1))


def _physical(extractor: FeatureExtractor, X: IntArray) -> FloatArray:
    return extractor.matrix(X)[:, : len(PHYSICAL)]

"""The kernel model of a target as it is kept: fitted from a table of synthetic networks, saved, loaded, asked about files."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwnas.backends.onnx_graph import outline
from hwnas.errors import ConfigError, TableError
from hwnas.kernels.batch import COLUMNS, Kernel, KernelBatch
from hwnas.kernels.fusion import FUSIONS
from hwnas.kernels.model import FEWEST, KernelModel
from hwnas.kernels.physics import CLASSES, FEATURES, TERMS
from hwnas.kernels.reading import kernels_of_onnx
from hwnas.latency import model_files
from hwnas.latency.base_models import fit_non_negative, row_weights
from hwnas.latency.evaluation import Scores, score, test_retest
from hwnas.latency.predictor import Prediction, facts_of, rows_to_fit
from hwnas.latency.rows import LatencyRow, latencies_of
from hwnas.latency.statistics import FloatArray
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.spaces.graph import LayerGraph
from hwnas.targets import Fingerprint, Target

SCHEMA: dict[str, Any] = {
    "columns": list(COLUMNS),
    "classes": list(CLASSES),
    "terms": list(TERMS),
    "features": list(FEATURES),
}
"""What must be equal for a saved model to fit."""

_KNOWN = 0.5
"""Share of the kernels whose times must be known for prices to be learned from them."""
_RESOLUTION_MS = 5e-4
"""Profiles of runtimes count microseconds: what is less than half of one is not resolved."""
_SPARE = 4
"""Networks that may fail in the smallest profile."""
_MEND = "hwnas profile --kernels with a larger profile.networks"


def require_kernel_target(target: Target, networks: int | None = None) -> None:
    """Raise unless kernels of a target can be told from a file, and ``networks`` are enough to learn their prices from.

    Raises:
        ConfigError: They cannot, or are not.
    """
    if target.runtime not in FUSIONS or target.precision != "fp32":
        raise ConfigError(
            f"kernels of {target} cannot be told from a file yet, only those of {', '.join(FUSIONS)} in fp32. "
            f"Measure a model file with: hwnas measure FILE --target {target}"
        )
    if networks is not None and networks < FEWEST + _SPARE:
        raise ConfigError(f"profile.networks={networks}: a kernel model needs at least {FEWEST + _SPARE} networks.")


@functools.lru_cache(maxsize=4096)
def kernels_of_graph(graph: LayerGraph, runtime: str, batch: int = 1) -> tuple[Kernel, ...]:
    """Return the kernels that a runtime will run for a layer graph, read as those of any file are.

    Args:
        graph: The network.
        runtime: The runtime.
        batch: Images per inference.

    Raises:
        ConfigError: What the runtime fuses is not known.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-kernels-") as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(outline(graph, batch=batch), str(path))
        return tuple(kernels_of_onnx(path, runtime))


@dataclass(frozen=True, kw_only=True)
class KernelPredictor:
    """Predicts the median latency of any network on a target, under its table's reference condition.

    Attributes:
        target: The target.
        fingerprint: Machine and setting it is valid for.
        space: Name, settings and digest of the space whose networks were measured.
        model: Prices and intervals.
        facts: Plain data about the fit: rows, error, canaries of the table, unit, versions, ...
    """

    target: Target
    fingerprint: Fingerprint
    space: dict[str, Any]
    model: KernelModel
    facts: dict[str, Any]

    @classmethod
    def fit(
        cls, table: LatencyTable, space: SearchSpace[Architecture], *, seed: int = 0, coverage: float = 0.9
    ) -> KernelPredictor:
        """Fit on the rows of a table that are not held out.

        Args:
            table: Measured networks.
            space: Their space.
            seed: Seed of folds and trees.
            coverage: Share of networks whose measured latency the interval is to hold.

        Raises:
            TableError: The table is of another space or has fewer than 20 measured rows to fit on.
            ConfigError: What the target's runtime fuses is not known.
        """
        rows = rows_to_fit(table, space, FEWEST, _MEND)
        batch, times = _batch_of(rows, space, table.target), times_of(rows, space, table.target)
        families = np.array([row.encoding[0] for row in rows], dtype=np.int64)
        model = KernelModel.fit(
            batch,
            latencies_of(rows),
            row_weights(rows),
            times=times,
            groups=families if len(set(families)) > 2 else None,
            seed=seed,
            coverage=coverage,
        )
        described = {"name": space.name, "settings": space.settings(), "digest": space.digest}
        return cls(
            target=table.target,
            fingerprint=table.header.fingerprint,
            space=described,
            model=model,
            facts={**facts_of(table, rows), **model.facts},
        )

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return str(self.facts["unit"])

    def predict(self, batch: KernelBatch) -> Prediction:
        """Predict the latency of networks."""
        return self.model.predict(batch)

    def predict_rows(self, rows: Sequence[LatencyRow], space: SearchSpace[Architecture]) -> Prediction:
        """Predict the latency of the networks of table rows."""
        return self.predict(_batch_of(rows, space, self.target))

    def require(self, fingerprint: Fingerprint) -> None:
        """Raise unless the model was made on this machine and setting.

        Raises:
            FingerprintMismatchError: It was not.
        """
        mend = f"Profile here: hwnas profile --kernels --target {self.target}"
        self.fingerprint.require_same(fingerprint, f"the kernel model of {self.target}", mend)

    def save(self, folder: Path) -> None:
        """Write ``prices.ubj`` and, last, ``model.json``."""
        content = {
            "target": str(self.target),
            "fingerprint": self.fingerprint.as_dict(),
            "space": self.space,
            "features": SCHEMA,
            "model": self.model.as_dict(),
            "trees": model_files.save_booster(self.model.full.booster, folder / "prices.ubj"),
            "facts": self.facts,
        }
        model_files.write_description(folder, "kernels", content)

    @classmethod
    def load(cls, folder: Path, fingerprint: Fingerprint | None = None) -> KernelPredictor:
        """Read a model.

        Args:
            folder: Where :meth:`save` wrote it.
            fingerprint: The machine it must belong to; not checked if not given.

        Raises:
            TableError: Files are absent, damaged or of another version.
            FingerprintMismatchError: It was made on another machine or setting.
        """
        kind, content = model_files.read_description(folder)
        if kind != "kernels":
            raise TableError(
                f"the latency model in {folder} is of the networks of one space, not of kernels. "
                "Make one of kernels: hwnas profile --kernels."
            )
        with model_files.explain(folder):
            model_files.require_schema(content, SCHEMA, folder)
            booster = model_files.load_booster(folder, content["trees"])
            found = cls(
                target=Target.parse(content["target"]),
                fingerprint=Fingerprint.from_dict(content["fingerprint"]),
                space=content["space"],
                model=KernelModel.from_dict(content["model"], booster),
                facts=content["facts"],
            )
        if fingerprint is not None:
            found.require(fingerprint)
        return found


def _kernels_of(row: LatencyRow, space: SearchSpace[Architecture], target: Target) -> tuple[Kernel, ...]:
    graph = space.graph(space.decode(np.array(row.encoding, dtype=np.int64)))
    return kernels_of_graph(graph, target.runtime, target.batch)


def _batch_of(rows: Sequence[LatencyRow], space: SearchSpace[Architecture], target: Target) -> KernelBatch:
    return KernelBatch.of([_kernels_of(row, space, target) for row in rows])


def times_of(rows: Sequence[LatencyRow], space: SearchSpace[Architecture], target: Target) -> FloatArray | None:
    """Return the profiled time of every kernel of the rows' networks, ``[kernels]``, NaN where there is none.

    None when too few kernels have one for a model to learn from them.
    """
    parts = [_times_of(row.kernels, _kernels_of(row, space, target)) for row in rows]
    times = np.concatenate(parts)
    return times if np.isfinite(times).mean() >= _KNOWN else None


def _times_of(told: Mapping[str, float], kernels: Sequence[Kernel]) -> FloatArray:
    """Return the times of one network's kernels, ``[kernels]``.

    Pieces of one node share its time; kernels of no name share, by what they write, what was told without a name.
    """
    times = np.full(len(kernels), np.nan)
    pieces = Counter(node for kernel in kernels for node in kernel.nodes)
    for index, kernel in enumerate(kernels):
        found = [told[node] / pieces[node] for node in kernel.nodes if node in told]
        if found:
            times[index] = max(sum(found), _RESOLUTION_MS)
    rest, nameless = np.isnan(times), told.get("", 0.0)
    written = np.array([kernel.written for kernel in kernels])
    if told and nameless > 0 and rest.any() and written[rest].sum() > 0:
        times[rest] = nameless * written[rest] / written[rest].sum()
    return times


def compare(predictor: KernelPredictor, table: LatencyTable, space: SearchSpace[Architecture]) -> dict[str, Scores]:
    """Score a kernel model, its baselines and the repeated measurement on the held-out rows.

    Returns:
        Name -> scores: ``model``, ``physics`` (the prices without trees), ``macs`` (a line through multiply-accumulates) and
        ``test_retest`` (if rows have halves).

    Raises:
        TableError: No held-out rows.
    """
    train, held_out = table.measured("train", "search"), table.measured("held_out")
    if not held_out:
        raise TableError("no held-out networks to judge the model by. Profile with profile.held_out above 0.")
    batch, y = _batch_of(held_out, space, table.target), latencies_of(held_out)
    prediction = predictor.predict(batch)

    def line(kernels: KernelBatch) -> FloatArray:
        return np.column_stack([np.ones(len(kernels)), kernels.sums(kernels["macs"])])

    fitted = fit_non_negative(line(_batch_of(train, space, table.target)), latencies_of(train), row_weights(train))
    found = {
        "model": score(prediction.value, y, prediction.low, prediction.high),
        "physics": score(predictor.model.full.physical.totals(batch), y),
        "macs": score(line(batch) @ fitted, y),
    }
    repeated = test_retest(held_out)
    return found | ({"test_retest": repeated} if repeated is not None else {})

"""The stage that makes table and latency model of each target, or finds those that already fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import ProfileSection
from hwnas.errors import ConfigError, RunFolderError, TableError
from hwnas.files import write_json
from hwnas.kernels.predictor import KernelPredictor, require_kernel_target
from hwnas.kernels.predictor import compare as kernel_scores
from hwnas.latency.card import write_card
from hwnas.latency.evaluation import Scores, compare, evaluate
from hwnas.latency.importing import is_imported
from hwnas.latency.measurement import OnProgress
from hwnas.latency.model import LatencyModel
from hwnas.latency.narrowing import FIRST, STEP, narrow
from hwnas.latency.networks import fingerprint_on
from hwnas.latency.predictor import LatencyPredictor, Prediction
from hwnas.latency.profile_plan import PLAN_FILE
from hwnas.latency.profiling import MODEL_FOLDER, SOURCES, TABLE_FILE, ProfileReport, profile_target
from hwnas.latency.rows import encodings_of, latencies_of
from hwnas.latency.store import find_table, read_header
from hwnas.latency.table import LatencyTable
from hwnas.latency.transferred import TransferredModel, load_model, load_sources, save_sources
from hwnas.progress import progress_bar
from hwnas.runs.session import Run
from hwnas.spaces.base import SearchSpace
from hwnas.targets import Device, Target, find_device

EVALUATION = "evaluation.json"
CURVE = (5, 10, 20, 50, 100)
"""Numbers of measured networks that a transferred model is also judged with."""


@dataclass(frozen=True)
class Fitted:
    """A latency model beside its table, and how good it is.

    Attributes:
        folder: Folder of table and model.
        target: The target.
        scores: Name (``model``, baselines, ``test-retest``) -> scores on the held-out networks.
        networks: Networks in the table.
        notes: What a person should know, as sentences.
        sources: What the model was transferred from; empty if it stands on its own measurements alone.
        curve: Of a transferred model: measured networks used -> scores.
        moved: Of a refreshed one: how the new table differs from the older (:func:`hwnas.latency.comparing.diff`).
    """

    folder: Path
    target: Target
    scores: dict[str, Scores]
    networks: int
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    curve: dict[int, Scores] = field(default_factory=dict)
    moved: dict[str, Any] | None = None

    @property
    def rows(self) -> list[tuple[str, object]]:
        """Lines for a table: networks, then MAPE, shares and coverage of the model and its baselines."""
        lines: list[tuple[str, object]] = [("networks", self.networks)]
        lines += [(name, _summary(scores)) for name, scores in self.scores.items()]
        lines += [(f"with {count} networks", _summary(scores)) for count, scores in self.curve.items()]
        lines += [("transferred from", source) for source in self.sources]
        return [*lines, *(("note", note) for note in self.notes)]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "folder": str(self.folder),
            "target": str(self.target),
            "networks": self.networks,
            "scores": {name: _plain(scores) for name, scores in self.scores.items()},
            "notes": list(self.notes),
            "sources": list(self.sources),
            "curve": {count: _plain(scores) for count, scores in self.curve.items()},
            "moved": self.moved,
        }


def _summary(scores: Scores) -> str:
    text = f"MAPE {scores.mape:.1%}, within 5 % {scores.within_5:.0%}, within 10 % {scores.within_10:.0%}"
    if not math.isnan(scores.spearman):
        text += f", Spearman {scores.spearman:.3f}"
    if not math.isnan(scores.coverage):
        text += f", coverage {scores.coverage:.0%}"
    return text


def _plain(scores: Scores) -> dict[str, float | int | None]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in scores.as_dict().items()
    }


def fit_folder(
    folder: Path,
    space: SearchSpace[Any],
    *,
    seed: int = 0,
    coverage: float = 0.9,
    notes: tuple[str, ...] = (),
) -> Fitted:
    """Fit the model of the table in ``folder``, save it beside the table, evaluate it on the held-out networks, write a card.

    The model of a table that was made for a transfer is transferred from what lies in ``model/sources``.

    Raises:
        TableError: The table is damaged, of another space, or too small.
    """
    table = LatencyTable.load(folder / TABLE_FILE)
    if not space.compositional:
        return _fit_kernels(folder, table, space, seed, coverage, notes)
    sources = sources_of(folder, table, space)
    model: LatencyPredictor
    if sources:
        model = TransferredModel.fit(table, space, sources, coverage=coverage)
    else:
        model = LatencyModel.fit(table, space, seed=seed, coverage=coverage)
    model.save(folder / MODEL_FOLDER)
    held_out = table.measured("held_out")
    curve = transfer_curve(table, space, sources, coverage) if sources and held_out else {}
    names = tuple(model.facts.get("sources", ()))
    scores = compare(table, model, space, seed) if held_out else {}
    fitted = Fitted(folder, table.target, scores, len(table.measured()), notes, names, curve)
    _write_evaluation(fitted, table, model.predict(encodings_of(table.measured())), coverage, kernels=False)
    return fitted


def _fit_kernels(
    folder: Path, table: LatencyTable, space: SearchSpace[Any], seed: int, coverage: float, notes: tuple[str, ...]
) -> Fitted:
    predictor = KernelPredictor.fit(table, space, seed=seed, coverage=coverage)
    predictor.save(folder / MODEL_FOLDER)
    rows = table.measured()
    scores = kernel_scores(predictor, table, space) if table.measured("held_out") else {}
    fitted = Fitted(folder, table.target, scores, len(rows), notes)
    _write_evaluation(fitted, table, predictor.predict_rows(rows, space), coverage, kernels=True)
    return fitted


def _write_evaluation(
    fitted: Fitted, table: LatencyTable, prediction: Prediction, coverage: float, *, kernels: bool
) -> None:
    rows = table.measured()
    points = [
        {
            "id": row.key,
            "measured": float(measured),
            "predicted": float(prediction.value[i]),
            "low": float(prediction.low[i]),
            "high": float(prediction.high[i]),
            "held_out": row.split == "held_out",
        }
        for i, (row, measured) in enumerate(zip(rows, latencies_of(rows), strict=True))
    ]
    named = {name: _plain(value) for name, value in fitted.scores.items()}
    curve = {count: _plain(value) for count, value in fitted.curve.items()}
    write_card(
        fitted.folder,
        table,
        named,
        coverage=coverage,
        kernels=kernels,
        sources=fitted.sources,
        curve=curve,
    )
    write_json(
        fitted.folder / EVALUATION,
        {
            "metrics": named.get("model", {}),
            "baselines": {name: value for name, value in named.items() if name != "model"},
            "points": points,
            "unit": table.header.unit,
            "sources": list(fitted.sources),
            "curve": curve,
        },
    )


def sources_of(folder: Path, table: LatencyTable, space: SearchSpace[Any]) -> tuple[LatencyModel, ...]:
    """Return what the table in a folder is to be transferred from; nothing if it stands on its own.

    Raises:
        TableError: It was made for a transfer, and the sources are missing or damaged.
    """
    return load_sources(folder / MODEL_FOLDER, space) if SOURCES in table.header.session else ()


def transfer_curve(
    table: LatencyTable, space: SearchSpace[Any], sources: Sequence[LatencyModel], coverage: float = 0.9
) -> dict[int, Scores]:
    """Return the scores on the held-out networks of transfers that use fewer of the measured networks, and all.

    Those used are spread evenly over the networks in order of what the first source predicts, the extremes among them.
    """
    rows, held_out = table.measured("train", "search"), table.measured("held_out")
    order = np.argsort(sources[0].predict(encodings_of(rows)).value)
    scores = {}
    for count in [size for size in CURVE if size < len(rows)] + [len(rows)]:
        spread = order[np.linspace(0, len(rows) - 1, count).round().astype(int)]
        kept = replace(table, rows=(*(rows[i] for i in spread), *held_out))
        scores[count] = evaluate(TransferredModel.fit(kept, space, sources, coverage=coverage), held_out)
    return scores


def profile_folder(
    target: Target,
    space: SearchSpace[Any],
    section: ProfileSection,
    folder: Path,
    device: Device | None = None,
    sources: Sequence[LatencyModel] = (),
) -> Fitted:
    """Profile a target into ``folder`` (resuming what is there) and fit its model, or transfer it from ``sources``.

    Raises:
        ConfigError: The space is one of kernels, and those of the target's runtime cannot be told or are too few.
    """
    if section.interval is not None and (sources or not space.compositional):
        raise ConfigError("profile.interval is for networks of a space that are measured at length: leave it out here.")
    if not space.compositional:
        require_kernel_target(target, section.networks)
    notes: tuple[str, ...] = ()
    planned, stored = (folder / PLAN_FILE).exists(), (folder / TABLE_FILE).exists()
    if stored:
        _require_own(folder, target, transferring=bool(sources) and not planned)
    if planned or not stored:
        narrowing = section.interval is not None
        first = section.model_copy(update={"networks": min(FIRST, section.networks)}) if narrowing else section
        with progress_bar(f"profiling {target}", 1.0) as advance:
            report: ProfileReport = profile_target(
                target, space, first, folder, device=device, sources=sources, on_progress=advance, save=not narrowing
            )
        notes = report.notes
        if narrowing:
            notes += (_narrow(report, space, section, folder, device or find_device(target.device)),)
    return fit_folder(folder, space, seed=section.seed, coverage=section.coverage, notes=notes)


def _narrow(
    report: ProfileReport, space: SearchSpace[Any], section: ProfileSection, folder: Path, device: Device
) -> str:
    """Measure until the intervals are as narrow as asked for, replace the table, and return how it ended."""
    left = math.inf if section.budget_minutes is None else 60.0 * section.budget_minutes - report.seconds
    with progress_bar(f"narrowing {report.table.target}", section.networks - FIRST) as advance:

        def steps(count: int) -> OnProgress:
            return lambda step, note: advance(step * count, note)

        likely = 60.0 * report.plan.estimated_minutes * STEP / len(report.table.rows)
        table, note = narrow(
            *(report.table, space, section, folder, device),
            seconds_left=left,
            step_seconds=likely,
            on_progress=steps,
        )
    table.save(folder / TABLE_FILE)
    return note


def _require_own(folder: Path, target: Target, transferring: bool) -> None:
    """Raise where a folder's table is of another target, or, for a transfer, was not made by one."""
    header = read_header(folder / TABLE_FILE)
    own = header.target
    if own != target:
        raise RunFolderError(f"{folder} holds the table of {own}, not of {target}. Use another folder: --output.")
    if is_imported(header.fingerprint):
        raise RunFolderError(f"{folder} holds an imported table, not a profile. Use another folder: --output.")
    if transferring:
        raise RunFolderError(
            f"{folder} holds a table that no transfer made; a transfer would replace its model. Use another folder: --output."
        )


def _reuse(run: Run, target: Target, folder: Path) -> Fitted | None:
    """Copy a stored table of this machine, target and space into the run and fit it there; None if there is none."""
    fingerprint = fingerprint_on(run.devices[target.device], target)
    stored = find_table(target, run.space, fingerprint)
    if stored is None:
        return None
    table = stored.load()
    sources = sources_of(stored.path.parent, table, run.space)
    if sources:
        save_sources(sources, folder / MODEL_FOLDER)
    table.save(folder / TABLE_FILE)
    note = f"table of {len(table.rows)} networks taken from the {stored.place} tables; profile.reuse=false measures"
    if stored.header.fingerprint.context_digest != fingerprint.context_digest:
        note += "; kernel, driver or memory differ from when it was measured"
    section = run.config.profile
    return fit_folder(folder, run.space, seed=section.seed, coverage=section.coverage, notes=(note,))


def require_here(model: LatencyPredictor, device: Device) -> None:
    """Raise unless a model was made on this device as it is now.

    Raises:
        FingerprintMismatchError: Another machine, runtime version or setting.
    """
    model.require(fingerprint_on(device, model.target))


def profile_stage(run: Run) -> dict[Target, Fitted | None]:
    """Make table and model of every target of the run; ``None`` where both were there already."""
    done: dict[Target, Fitted | None] = {}
    for target in run.targets:
        folder = run.folder.table(target)
        if (folder / EVALUATION).exists():
            require_here(model_of(run, target), run.devices[target.device])
            done[target] = None
            continue
        fitted = None
        if run.config.profile.reuse and not (folder / PLAN_FILE).exists() and not (folder / TABLE_FILE).exists():
            fitted = _reuse(run, target, folder)
        if fitted is not None:
            done[target] = fitted
            continue
        with run.folder.step(f"profile {target}"):
            done[target] = profile_folder(target, run.space, run.config.profile, folder, run.devices[target.device])
    return done


@cache
def _load_model(folder: Path, space: SearchSpace[Any]) -> LatencyPredictor:
    return load_model(folder, space)


def model_of(run: Run, target: Target) -> LatencyPredictor:
    """Return the latency model of a target of the run.

    Raises:
        TableError: It was not made yet, or is damaged.
    """
    folder = run.folder.table(target) / MODEL_FOLDER
    if not folder.is_dir():
        raise TableError(f"{target} has no latency model in this run. Make it with: hwnas run, or hwnas search.")
    return _load_model(folder, run.space)

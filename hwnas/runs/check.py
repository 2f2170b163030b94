"""What a run would do, without doing it: steps and their state, time, disk, and whether the budgets can be kept."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import RunConfig
from hwnas.devices.session import open_session
from hwnas.files import Journal
from hwnas.latency.measurement import Measurement
from hwnas.latency.measuring import measure_networks
from hwnas.latency.networks import Networks
from hwnas.latency.profile_plan import probe_cost
from hwnas.latency.profiling import protocol_of
from hwnas.latency.protocol import Protocol, is_time
from hwnas.latency.sampling import extremes_of, plan_networks
from hwnas.runs.budgets import require_time
from hwnas.runs.counted import check_counted
from hwnas.runs.folder import SUPERNET, table_folder
from hwnas.runs.kept import COLUMNS, BudgetRow, counted_rows, latency_row
from hwnas.runs.session import Run
from hwnas.runs.shortlist import SHORTLIST
from hwnas.spaces.base import IntArray
from hwnas.supernets.estimate import estimate_training
from hwnas.supernets.training import REPORT
from hwnas.targets import Target

_ROUNDS = 8
_POOL = 101
_BYTES_PER_ROW = 20_000
_EXPORT_MINUTES = 0.4
_BACKWARD = 3


@dataclass(frozen=True)
class Checked:
    """What :func:`check_run` found.

    Attributes:
        run_folder: Where the run would live.
        steps: ``(step, state, minutes)``; rough, from a few timed steps on this machine as loaded now.
        budgets: One row per target's latency and per counted cost.
        disk_bytes: About what the run writes.
    """

    run_folder: Path
    steps: list[tuple[str, str, float]]
    budgets: list[BudgetRow]
    disk_bytes: int

    columns = COLUMNS

    @property
    def infeasible(self) -> bool:
        """Whether a budget is broken by all three networks, or could not be measured."""
        return any(row.infeasible for row in self.budgets)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "run_folder": str(self.run_folder),
            "steps": [dict(zip(("step", "state", "minutes"), step, strict=True)) for step in self.steps],
            "budgets": [row.as_dict() for row in self.budgets],
            "disk_bytes": self.disk_bytes,
            "infeasible": self.infeasible,
        }


def three_networks(run: Run) -> IntArray:
    """Return the encodings of the smallest network, one of median MACs among random ones, and the largest."""
    space = run.space
    pool = space.sample(np.random.default_rng(run.config.seed), _POOL)
    macs = [space.graph(space.decode(row)).macs for row in pool]
    median = pool[int(np.argsort(macs)[len(macs) // 2])]
    return np.stack([space.encode(space.smallest), median, space.encode(space.largest)])


def _measure_three(run: Run, target: Target, X: IntArray) -> tuple[list[Measurement], float]:
    """Return three measurements and the minutes a profile of the target would take."""
    section = run.config.profile
    with (
        tempfile.TemporaryDirectory(prefix="hwnas-check-") as name,
        open_session(run.devices[target.device]) as session,
    ):
        networks = Networks(run.space, target, Path(name))
        items = [networks.item(row) for row in X]
        found = measure_networks(session, target, items, Protocol(rounds=_ROUNDS), Journal(Path(name) / "j.jsonl"))
        plan = plan_networks(run.space, section.networks, section.held_out, section.seed)
        protocol = protocol_of(section).for_unit(session.unit)
        cost = probe_cost(session, networks, protocol, extremes_of(run.space))
        kernels = plan.n_covering if is_time(session.unit) else 0
        minutes = cost.minutes(len(plan.train) + len(plan.held_out), protocol.rounds, kernels)
    return found, min(minutes, section.budget_minutes or minutes)


def _training_minutes(run: Run) -> tuple[float, float]:
    """Return minutes of supernet training, and seconds of one image through a middling network."""
    run.use_threads()
    estimate = estimate_training(run.new_supernet(), run.data, run.config.train)
    images = estimate.steps * run.config.train.batch_size
    return estimate.seconds / 60.0, estimate.seconds / max(1, images)


def check_run(config: RunConfig, runs: Path) -> Checked:
    """Measure three networks per target, time a few training steps, and add up.

    Raises:
        BudgetError: Counted budgets that no network of the space keeps; nothing is measured then.
        HwnasError: Data, space, device or runtime cannot be used.
    """
    run = Run(config, runs)
    check_counted(run)
    X = three_networks(run)
    steps: list[tuple[str, str, float]] = []
    budgets: list[BudgetRow] = []
    for target in run.targets:
        found, minutes = _measure_three(run, target, X)
        require_time(target, run.budget(target), found[0].unit)
        budgets.append(latency_row(target, run.budget(target), found))
        if budgets[-1].values is not None:
            steps.append((f"profile {target}", run.state(table_folder(run.path, target) / "evaluation.json"), minutes))
    budgets += counted_rows(run, X)
    training, image_s = _training_minutes(run)
    training = min(training, config.train.time_budget_minutes or training)
    if config.train.pretrained is not None and not config.train.phases:
        training = 0.0
    searching = _search_minutes(run, image_s)
    searching = min(searching, config.search.time_budget_minutes or searching)
    trained = run.state(run.path / SUPERNET / REPORT)
    state = trained if run.entry is None else f"{trained}: from {run.entry.name} of the zoo"
    steps.append(("train", state, training))
    steps.append(("search", run.state(run.path / SHORTLIST), searching))
    passes = 2 * config.export.winners + max(0, config.finetune.candidates - config.export.winners)
    images = len(run.data.train) * passes * config.finetune.epochs * len(run.targets)
    steps.append(("fine-tune", "at most", images * image_s / 60.0))
    steps.append(("export and verify", "to do", _EXPORT_MINUTES * len(run.targets) * config.export.winners))
    largest = run.space.graph(run.space.largest).parameters * 4
    rows = (config.profile.networks + config.profile.held_out) * len(run.targets) * _BYTES_PER_ROW
    return Checked(run.path, steps, budgets, int(rows + largest * (4 + 2 * len(run.targets))))


def _search_minutes(run: Run, image_s: float) -> float:
    section = run.config.search
    evaluations = section.initial * section.oversample
    evaluations += section.iterations * (section.candidates + (section.archive if section.adapt_epochs else 0))
    judged = min(section.validation_images or len(run.data.validation), len(run.data.validation))
    images = evaluations * (run.config.train.bn_images + judged) / _BACKWARD
    adapted = section.iterations * section.adapt_epochs * len(run.data.train) * 2
    return (images + adapted) * image_s / 60.0

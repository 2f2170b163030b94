"""Budgets of a run in the target's unit: absolute ones as they are, relative ones against the largest network."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.config import Budget, Statistic
from hwnas.errors import ConfigError
from hwnas.latency.predictor import LatencyPredictor, Prediction
from hwnas.latency.profiling import TABLE_FILE
from hwnas.latency.protocol import is_time
from hwnas.latency.table import LatencyTable
from hwnas.runs.counted import Counted
from hwnas.runs.profiling import model_of
from hwnas.runs.session import Run
from hwnas.spaces.base import IntArray
from hwnas.strategies.costs import build_problem
from hwnas.strategies.problem import Problem
from hwnas.targets import Target


class AtStatistic:
    """A latency model read at one statistic.

    Args:
        model: The model.
        statistic: ``p50``, ``p90`` or ``p99``.
    """

    def __init__(self, model: LatencyPredictor, statistic: str) -> None:
        self.model = model
        self.statistic = statistic

    def predict(self, X: IntArray) -> Prediction:
        """Predict canonical encodings ``[n, n_genes]``."""
        return self.model.predict(X, self.statistic)


def require_time(target: Target, budget: Budget | None, unit: str) -> None:
    """Raise where a budget is in milliseconds, and the target is measured in something else.

    Raises:
        ConfigError: It is.
    """
    if budget is not None and budget.max_ms is not None and not is_time(unit):
        raise ConfigError(
            f"{target} is measured in {unit}: the budget max_ms={budget.max_ms:g} means nothing there. Give it a relative one, "
            'for example relative: "-30%".'
        )


def resolve_budget(run: Run, target: Target, model: LatencyPredictor) -> float | None:
    """Return the budget of a target in its unit, None without one.

    A relative budget refers to the largest network of the space as it was measured for the table; where that one
    measurement failed, to the model's prediction.

    Raises:
        ConfigError: It is in milliseconds, and the target is measured in something else.
    """
    budget = run.budget(target)
    require_time(target, budget, model.unit)
    if budget is None or budget.max_ms is not None:
        return None if budget is None else budget.max_ms
    assert budget.relative is not None
    return _largest(run, target, model, budget.statistic) * (1.0 + float(budget.relative.rstrip("%")) / 100.0)


def _largest(run: Run, target: Target, model: LatencyPredictor, statistic: Statistic) -> float:
    largest = run.space.encode(run.space.largest)
    table = LatencyTable.load(run.folder.table(target) / TABLE_FILE)
    for row in table.measured():
        if row.key == run.space.id_of(largest):
            return float(row.latency * row.percentiles[statistic] / row.percentiles["p50"])
    return float(model.predict(largest[None], statistic).value[0])


def statistic_of(run: Run, target: Target) -> Statistic:
    """Return the statistic a target is judged by."""
    budget = run.budget(target)
    return budget.statistic if budget is not None else "p50"


def budgets_of(run: Run) -> dict[Target, float]:
    """Return the resolved budget of every target that has one."""
    resolved = {target: resolve_budget(run, target, model_of(run, target)) for target in run.targets}
    return {target: value for target, value in resolved.items() if value is not None}


def objective_targets(run: Run) -> tuple[Target, ...]:
    """Return the targets whose latency is an objective: all of them for ``latency``, else those named."""
    names = run.config.search.objectives
    named = {Target.parse(name) for name in names if "/" in name}
    return run.targets if "latency" in names else tuple(target for target in run.targets if target in named)


def problem_of(run: Run) -> Problem:
    """Join the run's latency models, counts and budgets into the problem that is searched."""
    counted = Counted.of(run)
    models = {target: model_of(run, target) for target in run.targets}
    latencies = {str(target): value for target, value in budgets_of(run).items()}
    provenance: dict[str, Any] = {str(target): model.facts["table"] for target, model in models.items()}
    return build_problem(
        run.space,
        {str(target): AtStatistic(model, statistic_of(run, target)) for target, model in models.items()},
        {**latencies, **counted.limits},
        extra=counted.names,
        minimised=(*map(str, objective_targets(run)), *counted.objectives),
        seen_by=counted.seen_by,
        units={str(target): model.unit for target, model in models.items()},
        keys={**{str(t): f"targets.{i}.budget" for i, t in enumerate(run.targets)}, **counted.keys},
        provenance=provenance,
    )


def predicted_row(model: LatencyPredictor, encoding: IntArray, statistic: str) -> dict[str, float]:
    """Return value and interval of one encoding as plain data."""
    prediction = model.predict(np.atleast_2d(encoding), statistic)
    return {name: float(getattr(prediction, name)[0]) for name in ("value", "low", "high")}

"""Budgets against the smallest, a median and the largest network: which of the three keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.config import Budget
from hwnas.latency.measurement import Measurement
from hwnas.reporting.formats import DASH
from hwnas.runs.counted import Counted
from hwnas.runs.session import Run
from hwnas.spaces.base import IntArray
from hwnas.strategies.costs import GraphCost, GraphCounter
from hwnas.targets import Target

NAMES = ("smallest", "median", "largest")
COLUMNS = ("cost", "of", "unit", "budget", *NAMES, "verdict")


@dataclass(frozen=True)
class BudgetRow:
    """One budget and what the three networks come to; latency is measured, everything else counted.

    Attributes:
        cost: ``latency p50`` (or p90, p99), ``macs``, ``size_bytes-int8`` and so on.
        of: The target; ``all targets`` where the cost is the same for all.
        unit: Unit of the numbers.
        budget: The limit; None where the cost is only an objective.
        values: Of the smallest, the median and the largest network; None where a measurement failed.
        failure: Why there are no values.
        possible: Whether some network of the space is known to keep the budget, be it none of the three.
    """

    cost: str
    of: str
    unit: str
    budget: float | None
    values: tuple[float, float, float] | None
    failure: str = ""
    possible: bool = False

    @property
    def keeps(self) -> dict[str, bool]:
        """Which of the three networks keep the budget; empty without budget or values."""
        if self.budget is None or self.values is None:
            return {}
        return {name: value <= self.budget for name, value in zip(NAMES, self.values, strict=True)}

    @property
    def infeasible(self) -> bool:
        """Whether the budget cannot be kept, as far as is known, or none of the three could be measured."""
        return self.values is None or (bool(self.keeps) and not any(self.keeps.values()) and not self.possible)

    @property
    def verdict(self) -> str:
        """What the three networks say about the budget, in words."""
        if self.values is None:
            return f"cannot be measured: {self.failure}"
        if self.budget is None:
            return "only an objective"
        nearest = min(self.values)
        if self.infeasible:
            above = nearest / self.budget - 1
            return f"cannot be kept: the smallest network is {above:.0%} above; nearest: {_short(nearest)}"
        broken = [name for name, keeps in self.keeps.items() if not keeps]
        if len(broken) == len(NAMES):
            return "can be kept, but by none of the three"
        return f"can be kept; excludes {' and '.join(broken)}" if broken else "loose: all three keep it"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        values = dict(zip(NAMES, self.values or (None,) * 3, strict=True))
        facts = {"cost": self.cost, "of": self.of, "unit": self.unit, "budget": self.budget}
        return {**facts, **values, "keeps": self.keeps, "verdict": self.verdict}

    def cells(self) -> tuple[str | float, ...]:
        """Return one table row, in the order of :data:`COLUMNS`; a network that breaks the budget is marked."""
        keeps = self.keeps
        numbers = [
            f"{_short(value)}{'' if keeps.get(name, True) else ' ✗'}"
            for name, value in zip(NAMES, self.values or (), strict=False)
        ]
        budget = "none" if self.budget is None else _short(self.budget)
        return (self.cost, self.of, self.unit, budget, *(numbers or [DASH] * 3), self.verdict)


def _short(value: float) -> str:
    return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


def latency_row(target: Target, budget: Budget | None, found: Sequence[Measurement]) -> BudgetRow:
    """Return the row of a target's latency from the measurements of the three networks."""
    statistic = budget.statistic if budget else "p50"
    failures = [m.failure for m in found if m.failure is not None]
    if failures:
        return BudgetRow(f"latency {statistic}", str(target), "", None, None, ": ".join(failures[0]))
    smallest, median, largest = (m.value * m.percentiles[statistic] / m.percentiles["p50"] for m in found)
    limit = None if budget is None else budget.max_ms
    if budget is not None and budget.relative is not None:
        limit = largest * (1.0 + float(budget.relative.rstrip("%")) / 100.0)
    return BudgetRow(f"latency {statistic}", str(target), found[0].unit, limit, (smallest, median, largest))


def counted_rows(run: Run, X: IntArray) -> list[BudgetRow]:
    """Return one row per counted cost of the run; its budgets must have passed :func:`hwnas.runs.counted.check_counted`.

    Args:
        run: The run.
        X: Encodings of the three networks, ``[3, n_genes]``.
    """
    counted = Counted.of(run)
    values = GraphCounter(run.space, counted.names)(X)
    rows = []
    for column, cost in enumerate(counted.names):
        smallest, median, largest = (float(value) for value in values[:, column])
        of = ", ".join(counted.seen_by.get(cost, ())) or "all targets"
        unit, limit = GraphCost.parse(cost).unit, counted.limits.get(cost)
        rows.append(BudgetRow(cost, of, unit, limit, (smallest, median, largest), possible=True))
    return rows

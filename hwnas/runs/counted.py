"""What a run counts on networks instead of measuring it: which costs, for which targets, under which budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.config import CostBudgets
from hwnas.runs.session import Run
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.costs import COUNTS, OF_PRECISION, GraphCost, build_problem
from hwnas.strategies.problem import Problem
from hwnas.targets import Target


def cost_for(name: str, target: Target) -> str:
    """Return how :class:`GraphCost` writes a cost at a target's precision (and batch, for peak memory)."""
    if name not in OF_PRECISION:
        return name
    images = f"-b{target.batch}" if name == "peak_memory_bytes" and target.batch > 1 else ""
    return f"{name}-{target.precision}{images}"


@dataclass(frozen=True)
class Counted:
    """The counted costs of a run.

    Attributes:
        names: Costs as :class:`GraphCost` writes them; those of a precision once for all targets of that precision.
        objectives: Those of ``names`` that are minimised.
        limits: Cost -> its hard limit.
        seen_by: Costs that not all targets see -> the targets that do.
        keys: Limited cost -> its key of the run file.
    """

    names: tuple[str, ...]
    objectives: tuple[str, ...]
    limits: dict[str, float]
    seen_by: dict[str, tuple[str, ...]]
    keys: dict[str, str]

    @classmethod
    def of(cls, run: Run) -> Counted:
        """Return the counted costs that a run's objectives and budgets name."""
        wanted = tuple(name for name in run.config.search.objectives if name in COUNTS)
        budgets = run.config.search.budgets
        plain = tuple(dict.fromkeys([*wanted, *budgets.given]))
        names = {cost_for(name, target): name for name in plain for target in run.targets}
        return cls(
            names=tuple(names),
            objectives=tuple(cost for cost, name in names.items() if name in wanted),
            limits={cost: limit_of(run.space, cost, budgets) for cost, name in names.items() if name in budgets.given},
            seen_by=_seen_by(names, run.targets),
            keys={cost: f"search.budgets.{name}" for cost, name in names.items() if name in budgets.given},
        )


def _seen_by(names: dict[str, str], targets: Sequence[Target]) -> dict[str, tuple[str, ...]]:
    seen = {cost: tuple(str(t) for t in targets if cost_for(name, t) == cost) for cost, name in names.items()}
    return {cost: those for cost, those in seen.items() if len(those) < len(targets)}


def limit_of(space: SearchSpace[Any], cost: str, budgets: CostBudgets) -> float:
    """Return the limit on a counted cost; a relative one refers to the largest network of the space."""
    counted = GraphCost.parse(cost)
    given = budgets.given[counted.name]
    if isinstance(given, float):
        return given
    return counted.of(space.graph(space.largest)) * (1.0 + float(given.rstrip("%")) / 100.0)


def counted_problem(run: Run) -> Problem:
    """Return the problem of counted costs alone, which needs no latency model."""
    counted = Counted.of(run)
    return build_problem(
        run.space,
        {},
        counted.limits,
        extra=counted.names,
        minimised=counted.objectives,
        targets=tuple(str(target) for target in run.targets),
        seen_by=counted.seen_by,
        keys=counted.keys,
    )


def check_counted(run: Run) -> None:
    """Raise if the counted budgets exclude the whole space; costs nothing, so it comes before any measurement.

    Raises:
        BudgetError: Which budget nothing keeps, and by how much.
    """
    counted_problem(run).check_budgets()

"""What a search came to: a front per target and their union, with what each member costs and which are the best bargains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.files import read_json, write_json
from hwnas.latency.profiling import TABLE_FILE
from hwnas.latency.table import LatencyTable
from hwnas.runs.budgets import predicted_row, problem_of, statistic_of
from hwnas.runs.counted import cost_for
from hwnas.runs.profiling import model_of
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import Member, accuracy_of, objectives_of, stack_costs
from hwnas.strategies.costs import COUNTS, GraphCost
from hwnas.strategies.problem import FloatArray, Problem, View
from hwnas.strategies.state import SearchResult
from hwnas.strategies.tradeoff import high_trade_off
from hwnas.targets import Target

FRONT = "front.json"
FORMAT = 1


@dataclass(frozen=True)
class Searched:
    """What a search came to.

    Attributes:
        path: The run's :data:`FRONT`.
        document: Its content: ``targets`` (per target: fingerprint, versions, budgets, members) and ``union``.
        picks: Candidates for fine-tuning, measured where the target has a budget.
    """

    path: Path
    document: dict[str, Any]
    picks: tuple[Pick, ...]

    @property
    def measured(self) -> dict[tuple[str, str], dict[str, float] | None]:
        """``(target, architecture) -> value, low, high`` as measured, or None, of every candidate."""
        return {(str(pick.target), pick.identifier): pick.measured for pick in self.picks}

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**self.document, "file": str(self.path), "candidates": [pick.as_dict() for pick in self.picks]}


def read_searched(run: Run, picks: Sequence[Pick]) -> Searched:
    """Return what a finished search came to, with its candidates."""
    path = run.folder.path / FRONT
    return Searched(path, read_json(path), tuple(picks))


def front_stage(run: Run, result: SearchResult) -> None:
    """Describe the fronts of a search and write them to :data:`FRONT` in the run's folder.

    Args:
        run: The run; its latency models must exist.
        result: What the search has found.
    """
    problem = problem_of(run)
    fronts = result.fronts(problem)
    document = {
        "format": FORMAT,
        "finished": result.finished,
        "supernet_version": max((member.version for member in result.members), default=0),
        "objectives": list(run.config.search.objectives),
        "targets": {
            str(target): _of_target(run, problem, view, target, fronts[view.name])
            for target, view in zip(run.targets, problem.views, strict=True)
        },
        "union": _union(run, problem, result, fronts),
    }
    write_json(run.folder.path / FRONT, document)


def _of_target(run: Run, problem: Problem, view: View, target: Target, members: Sequence[Member]) -> dict[str, Any]:
    header = LatencyTable.load(run.folder.table(target) / TABLE_FILE).header
    F = objectives_of(members, view)[0] if members else np.empty((0, 1))
    picks = set(high_trade_off(F).tolist())
    limits = [problem.limits[column] for column in view.limits]
    return {
        "fingerprint": header.fingerprint.as_dict(),
        "versions": header.versions,
        "unit": header.unit,
        "statistic": statistic_of(run, target),
        "budgets": {limit.cost: {"maximum": limit.maximum, "unit": limit.unit} for limit in limits},
        "members": [
            {**_described(run, member, target), **_margins(problem, view, member), "high_trade_off": i in picks}
            for i, member in enumerate(members)
        ],
    }


def _described(run: Run, member: Member, target: Target) -> dict[str, Any]:
    """Return what a member is and what it costs on a target."""
    encoding = np.array(member.encoding, dtype=np.int64)
    return {
        **_identified(run, encoding, member),
        "latency": predicted_row(model_of(run, target), encoding, statistic_of(run, target)),
        **_counts(run, encoding, target),
    }


def _identified(run: Run, encoding: IntArray, member: Member) -> dict[str, Any]:
    return {
        "id": run.space.id_of(encoding),
        "encoding": list(member.encoding),
        "architecture": run.space.decode(encoding).as_dict(),
        "validation_accuracy": member.accuracy,
        "generation": member.generation,
    }


def _counts(run: Run, encoding: IntArray, target: Target) -> dict[str, int]:
    graph = run.space.graph(run.space.decode(encoding))
    return {name: int(GraphCost.parse(cost_for(name, target)).of(graph)) for name in COUNTS}


def _margins(problem: Problem, view: View, member: Member) -> dict[str, Any]:
    """Return the share of each budget that the upper end leaves free, and the least of them."""
    margins = {problem.limits[column].cost: -member.G[column] for column in view.limits}
    return {"margins": margins, "margin": min(margins.values(), default=None)}


def _union(run: Run, problem: Problem, result: SearchResult, fronts: dict[str, list[Member]]) -> list[dict[str, Any]]:
    """Return the members on any target's front; bargains are judged in the objectives of all targets at once."""
    members = result.union_front(problem)
    picks = set(high_trade_off(_all_objectives(problem, members)).tolist())
    on = {name: {member.key for member in front} for name, front in fronts.items()}
    return [
        {
            **_identified(run, np.array(member.encoding, dtype=np.int64), member),
            "costs": dict(zip(problem.cost_names, member.costs, strict=True)),
            "on": [name for name, keys in on.items() if member.key in keys],
            "high_trade_off": i in picks,
        }
        for i, member in enumerate(members)
    ]


def _all_objectives(problem: Problem, members: Sequence[Member]) -> FloatArray:
    if not members:
        return np.empty((0, 1))
    columns = sorted({column for view in problem.views for column in view.costs})
    return np.column_stack([1.0 - accuracy_of(members), stack_costs(members).F[:, columns]])

"""The stage between search and fine-tuning: candidates are measured on their target before anything is spent on them.

The most accurate members that the model promises to keep the budget are built with the space's layer graph, with the exits
that fine-tuning attaches, and measured under the table's reference condition. The first whose measured intervals keep the
budget with some headroom go on to fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.devices.session import open_session
from hwnas.errors import BudgetError
from hwnas.files import read_json, write_json
from hwnas.finetuning.variant import with_every_exit
from hwnas.latency.networks import measure_encodings
from hwnas.latency.profiling import TABLE_FILE
from hwnas.latency.protocol import Protocol
from hwnas.latency.rows import LatencyRow
from hwnas.latency.table import LatencyTable
from hwnas.progress import progress_bar
from hwnas.runs.budgets import budgets_of, predicted_row, problem_of, statistic_of
from hwnas.runs.counted import Counted
from hwnas.runs.profiling import model_of
from hwnas.runs.session import Run
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import Member, front
from hwnas.strategies.costs import GraphCost
from hwnas.strategies.state import SearchResult
from hwnas.targets import Target

SHORTLIST = "shortlist.json"
AT_ONCE = 6
MOST = 24
"""Candidates measured at most; with all their exits (``finetune.exits: ensemble``), of which the model promises nothing, as many as
there are."""

HEADROOM = 0.04
"""Share of a budget that a candidate leaves free where possible: two sessions of one network on a shared machine differ by
a few per cent beyond their intervals."""

SPARES = 3
"""Candidates kept beyond those that are fine-tuned, for winners that break their budget as exported files."""


@dataclass(frozen=True)
class Pick:
    """An architecture that the search found for one target.

    Attributes:
        target: The target.
        identifier: Name of the architecture (``SearchSpace.id_of``).
        encoding: Its canonical encoding.
        validation_accuracy: Accuracy on the validation split, with supernet weights.
        budget: The target's budget in its unit; None without one.
        predicted: ``value``, ``low``, ``high`` of the latency model for the network as it was searched.
        measured: ``value``, ``low``, ``high`` measured before fine-tuning, with the exits that fine-tuning attaches; None
            without a budget.
    """

    target: Target
    identifier: str
    encoding: tuple[int, ...]
    validation_accuracy: float
    budget: float | None
    predicted: dict[str, float]
    measured: dict[str, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**vars(self), "target": str(self.target), "encoding": list(self.encoding)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Pick:
        """Read what :meth:`as_dict` wrote."""
        return cls(**{**value, "target": Target.parse(value["target"]), "encoding": tuple(value["encoding"])})


def measure_rows(run: Run, target: Target, X: IntArray, folder: Path, *, rounds: int, title: str) -> list[LatencyRow]:
    """Measure networks as fine-tuning will make them on a target, under the reference condition of its latency table.

    Args:
        run: The run; the target's table must exist.
        target: The target.
        X: Canonical encodings ``[n, n_genes]``, each once.
        folder: Where the journal goes; the same one resumes.
        rounds: Rounds of the protocol.
        title: Title of the progress bar.
    """
    table = LatencyTable.load(run.folder.table(target) / TABLE_FILE)
    protocol = replace(Protocol.from_dict(table.header.protocol), rounds=rounds, seed=run.config.profile.seed + 1)
    section, space = run.config.finetune, run.space
    shaped = None if section.exits == "single" else partial(with_every_exit, section, space)
    with open_session(run.devices[target.device]) as session, progress_bar(title, 1.0) as advance:
        return measure_encodings(
            session, table, space, X, folder, protocol=protocol, shaped=shaped, on_progress=advance
        )


def at_statistic(row: LatencyRow, statistic: str) -> dict[str, float]:
    """Return value and interval of a row at a statistic: the median's, moved by the raw samples' ratio."""
    ratio = row.percentiles[statistic] / row.percentiles["p50"]
    return {name: ratio * float(getattr(row, name)) for name in ("value", "low", "high")}


def _candidates(result: SearchResult, run: Run, target: Target) -> list[Member]:
    problem = problem_of(run)
    view = next(view for view in problem.views if view.name == str(target))
    column = problem.cost_names.index(str(target))
    feasible = [m for m in result.members if bool(view.feasible(np.array([m.G]).reshape(1, -1))[0])]
    best = {m.key for m in front(result.members, view)}
    ordered = sorted(feasible, key=lambda m: (-m.accuracy, m.key not in best, m.costs[column]))
    return _kept_with_exits(run, target, ordered)


def _kept_with_exits(run: Run, target: Target, members: list[Member]) -> list[Member]:
    """Return the members whose networks keep the counted budgets as fine-tuning will make them too, with all their exits.

    Raises:
        BudgetError: None of them does.
    """
    section, counted = run.config.finetune, Counted.of(run)
    limits = {
        GraphCost.parse(cost): maximum
        for cost, maximum in counted.limits.items()
        if str(target) in counted.seen_by.get(cost, (str(target),))
    }
    if section.exits == "single" or not limits or not members:
        return members

    def keeps(member: Member) -> bool:
        architecture = run.space.decode(np.array(member.encoding, dtype=np.int64))
        graph = run.space.graph(with_every_exit(section, run.space, architecture))
        return all(cost.of(graph) <= maximum for cost, maximum in limits.items())

    kept = [member for member in members if keeps(member)]
    if not kept:
        keys = ", ".join(f"search.budgets.{cost.name}" for cost in limits)
        raise BudgetError(
            f"none of the {len(members)} candidates of {target} keeps {keys} with all its exits (finetune.exits: ensemble), "
            "as each does with its own alone. Set finetune.exits: single, raise the budget, or search longer (search.iterations)."
        )
    return kept


def candidates_of(run: Run) -> int:
    """Return how many candidates of each target are fine-tuned."""
    return max(run.config.export.winners, run.config.finetune.candidates)


def _pick(run: Run, target: Target, member: Member, measured: dict[str, float] | None) -> Pick:
    encoding = np.array(member.encoding, dtype=np.int64)
    return Pick(
        target=target,
        identifier=run.space.id_of(encoding),
        encoding=member.encoding,
        validation_accuracy=member.accuracy,
        budget=budgets_of(run).get(target),
        predicted=predicted_row(model_of(run, target), encoding, statistic_of(run, target)),
        measured=measured,
    )


def shortlist(run: Run, target: Target, result: SearchResult) -> list[Pick]:
    """Return the candidates of a target and some spares; each was measured to keep the budget.

    Those with headroom come first, the most accurate of them before the others.

    Raises:
        BudgetError: None of the candidates keeps it.
    """
    wanted = candidates_of(run)
    candidates = _candidates(result, run, target)
    budget = budgets_of(run).get(target)
    if not candidates:
        raise BudgetError(
            f"none of the {len(result.members)} evaluated architectures is promised to keep the budget of {target}. "
            "Search longer (search.iterations, search.time_budget_minutes), or raise the budget."
        )
    if budget is None:
        return [_pick(run, target, member, None) for member in candidates[:wanted]]
    sure: list[Pick] = []
    close: list[Pick] = []
    closest = float("inf")
    most = len(candidates) if run.config.finetune.exits == "ensemble" else min(MOST, len(candidates))
    for start in range(0, most, AT_ONCE):
        members = candidates[start : start + AT_ONCE]
        rows = measure_rows(
            run,
            target,
            np.array([member.encoding for member in members], dtype=np.int64),
            run.folder.path / "shortlist" / target.slug,
            rounds=run.config.profile.rounds,
            title=f"measuring candidates on {target}",
        )
        for member, row in zip(members, rows, strict=True):
            if not row.measured:
                continue
            measured = at_statistic(row, statistic_of(run, target))
            closest = min(closest, measured["high"])
            if measured["high"] <= budget:
                keeps = sure if measured["high"] <= (1.0 - HEADROOM) * budget else close
                keeps.append(_pick(run, target, member, measured))
        if len(sure) >= wanted:
            break
    picks = (sure + close)[: wanted + SPARES]
    if not picks:
        raise _none_kept(run, most, target, budget, closest)
    return picks


def _none_kept(run: Run, count: int, target: Target, budget: float, closest: float) -> BudgetError:
    several = run.config.finetune.exits == "ensemble"
    came = "none could be measured" if closest == float("inf") else f"the closest came to {closest:.4g}"
    mend = "Set finetune.exits: single, raise the budget" if several else "Raise the budget"
    return BudgetError(
        f"none of the {count} best candidates keeps the budget of {budget:.4g} on {target} when measured"
        f"{' with all its exits (finetune.exits: ensemble)' if several else ''}; {came}. "
        f"{mend} to that, or search longer (search.iterations)."
    )


def shortlist_stage(run: Run, result: SearchResult) -> list[Pick]:
    """Return the candidates of every target; kept in :data:`SHORTLIST`, which is read back when the run is resumed."""
    path = run.folder.path / SHORTLIST
    if not path.exists():
        picks = [pick for target in run.targets for pick in shortlist(run, target, result)]
        write_json(path, [pick.as_dict() for pick in picks])
    return shortlisted(run)


def shortlisted(run: Run) -> list[Pick]:
    """Return what :func:`shortlist_stage` kept."""
    return [Pick.from_dict(entry) for entry in read_json(run.folder.path / SHORTLIST)]

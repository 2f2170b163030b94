"""Ensembles of exits in a run: what is measured before fine-tuning is what will be exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_support import EARLY, SEARCH, make_run

from hwnas.backends.simulated import describe_graph
from hwnas.errors import BudgetError, ConfigError
from hwnas.runs import shortlist as shortlisting
from hwnas.runs.budgets import problem_of
from hwnas.runs.pipeline import Pipeline
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick, shortlist
from hwnas.spaces.base import IntArray
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.archive import Archive, members_of
from hwnas.strategies.state import SearchResult
from hwnas_profilers.runtimes.base import LoadSpec
from hwnas_profilers.runtimes.simulated import base_latency_ms

TARGET = "simulated-reference/simulated-fp32"
SPACE = MobileNetV3Space(classes=10, in_channels=1, **EARLY)


def truth(architecture: Any) -> float:
    """The latency that the simulated device gives a network, undisturbed, milliseconds."""
    return base_latency_ms(describe_graph(SPACE.graph(architecture), 1), LoadSpec(precision="fp32", threads=1, batch=1))


def deep(changed: tuple[int, ...] = ()) -> IntArray:
    """The largest network, without the second layer of some stages."""
    row = SPACE.upper
    for stage in changed:
        row[3 + 2 * stage + 1] = 0
    return row


def shallow() -> IntArray:
    row = SPACE.upper
    row[2] = 0
    return np.asarray(SPACE.repair(row)[0])


def profiled(runs: Path, exits: str, budget: float, **search: Any) -> Run:
    run = make_run(runs, f"run-{exits}", TARGET, {"max_ms": budget}, {"exits": exits}, search={**SEARCH, **search})
    Pipeline(run).profiled()
    return run


def picks_of(run: Run, rows: list[IntArray]) -> list[Pick]:
    """The shortlist of a search that found these networks, the first the most accurate."""
    X = np.stack(rows)
    found = members_of(X, np.linspace(0.9, 0.8, len(X)), problem_of(run).costs(X), 0, 0)
    archive = Archive()
    archive.add([dataclasses.replace(member, G=(-0.1,) * len(member.G)) for member in found])
    return shortlist(run, run.targets[0], SearchResult(archive, (), True, 0))


def test_candidates_are_measured_with_the_exits_that_will_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [deep((0,)), deep((1,)), shallow()]
    networks = [SPACE.decode(row) for row in rows]
    single, several = ([truth(make(n)) for n in networks] for make in (lambda n: n, SPACE.with_exits))
    budget = 1.05 * max(single)
    assert several[0] > several[1] > 1.03 * budget, "with all exits both deep networks must break it"
    assert several[2] == pytest.approx(single[2]), "one exit is one exit"
    chosen = picks_of(profiled(tmp_path, "single", budget), rows)
    assert chosen[0].encoding == tuple(rows[0])
    assert chosen[0].measured is not None
    assert chosen[0].measured["value"] == pytest.approx(single[0], rel=0.05)
    run = profiled(tmp_path, "ensemble", budget)
    monkeypatch.setattr(shortlisting, "MOST", 2)
    monkeypatch.setattr(shortlisting, "AT_ONCE", 1)
    (pick,) = picks_of(run, rows)
    assert pick.encoding == tuple(rows[2])
    with pytest.raises(BudgetError, match=r"all its exits \(finetune\.exits: ensemble\).*Set finetune\.exits: single"):
        picks_of(run, rows[:2])
    wide = profiled(tmp_path / "wide", "ensemble", 1.2 * max(several))
    (first, *_) = picks_of(wide, rows)
    assert first.encoding == tuple(rows[0])
    assert first.measured is not None
    assert first.measured["value"] == pytest.approx(several[0], rel=0.05)


def test_counted_budgets_hold_for_all_the_exits_that_will_be_exported(tmp_path: Path) -> None:
    rows = [deep(), shallow()]
    single, several = (
        [SPACE.graph(make(SPACE.decode(row))).macs for row in rows] for make in (lambda n: n, SPACE.with_exits)
    )
    assert several[1] == single[1] < single[0] < several[0]
    budgets = {"macs": (single[0] + several[0]) / 2}
    alone = profiled(tmp_path, "single", 1000.0, budgets=budgets)
    assert picks_of(alone, rows)[0].encoding == tuple(rows[0])
    run = profiled(tmp_path, "ensemble", 1000.0, budgets=budgets)
    assert [pick.encoding for pick in picks_of(run, rows)] == [tuple(rows[1])]
    with pytest.raises(BudgetError, match=r"search\.budgets\.macs with all its exits.*Set finetune\.exits: single"):
        picks_of(run, rows[:1])


def test_a_space_with_one_exit_is_refused_before_the_folder_is_claimed(tmp_path: Path) -> None:
    settings = {**EARLY, "exits": "single"}
    run = make_run(tmp_path, "one", TARGET, None, {"exits": "ensemble"}, space={"settings": settings})
    with pytest.raises(ConfigError, match=r"finetune\.exits: ensemble.*Set space\.settings\.exits: early"):
        Pipeline(run).profiled()
    assert not list(tmp_path.iterdir())

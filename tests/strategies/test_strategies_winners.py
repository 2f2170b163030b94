from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.config import SearchSection
from hwnas.errors import BudgetError
from hwnas.strategies.archive import Archive, Member
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import Limit, Problem
from hwnas.strategies.runner import SearchResult, run_search
from hwnas.strategies.winners import trade_off, winners
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem


def member(index: int, accuracy: float, cost: float, limit: float = 3.0, version: int = 0) -> Member:
    return Member((index,), accuracy, (cost,), (cost * 1.1,), (cost * 1.1 / limit - 1.0,), 0, version)


def problem_of(toy: ToySpace) -> Problem:
    return Problem(toy, ("a",), lambda X: (np.ones((len(X), 1)),) * 2, (Limit("a", 3.0),), targets=("a",))


def result_of(members: list[Member], version: int = 0) -> SearchResult:
    archive = Archive()
    archive.add(members)
    return SearchResult(archive, (), True, version)


def test_the_most_accurate_member_whose_upper_end_keeps_the_budget_comes_first(toy: ToySpace) -> None:
    # 2.9 keeps the budget of 3 as a value, its upper end 3.19 does not.
    members = [member(0, 0.95, 2.9), member(1, 0.9, 2.7), member(2, 0.9, 2.5), member(3, 0.8, 1.0)]
    chosen = winners(result_of(members), problem_of(toy), 2)["a"]
    assert [winner.encoding for winner in chosen] == [(2,), (3,)]


def test_accuracies_of_an_older_supernet_are_not_compared(toy: ToySpace) -> None:
    archive = Archive()
    archive.add([member(0, 0.99, 1.0)], activate=False)
    archive.add([member(1, 0.7, 1.0, version=1)])
    chosen = winners(SearchResult(archive, (), True, 1), problem_of(toy), 3)["a"]
    assert [winner.encoding for winner in chosen] == [(1,)]


def test_no_member_within_the_budget_is_an_error_that_says_so(toy: ToySpace) -> None:
    with pytest.raises(BudgetError, match=r"none of the 1 evaluated .* budget of a \(3 ms\)"):
        winners(result_of([member(0, 0.9, 5.0)]), problem_of(toy), 1)


def test_the_knee_of_a_front_has_the_highest_trade_off() -> None:
    F = np.array([[0.50, 1.0], [0.45, 2.0], [0.10, 2.2], [0.08, 5.0], [0.06, 8.0], [0.05, 10.0]])
    assert int(trade_off(F).argmax()) == 2


def test_trade_off_of_short_fronts() -> None:
    assert trade_off(np.array([[0.1, 2.0]])).tolist() == [0.0]
    assert trade_off(np.array([[0.1, 2.0], [0.2, 1.0]])) == pytest.approx([1.0, 1.0])


def test_winners_of_a_search(toy: ToySpace, tmp_path: Path) -> None:
    problem = macs_problem(toy, budget=0.3)
    section = SearchSection(
        initial=10, archive=20, iterations=2, inner_population=20, inner_generations=5, adapt_epochs=0
    )
    result = run_search(NatV2(problem, section), problem, evaluate=AnalyticAccuracy(toy), folder=tmp_path)
    chosen = winners(result, problem, 4)["latency"]
    assert len(chosen) == len({winner.encoding for winner in chosen}) == 4
    assert chosen[0].accuracy == max(m.accuracy for m in result.members if m.G[0] <= 0)
    assert set(chosen) <= set(result.fronts(problem)["latency"])

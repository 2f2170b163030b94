from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.config import SearchSection
from hwnas.strategies.archive import objectives_of
from hwnas.strategies.base import Strategy
from hwnas.strategies.breeding import evolve
from hwnas.strategies.evolution import Evolution, ladder, limited
from hwnas.strategies.hypervolume import normalised_hypervolume
from hwnas.strategies.problem import Problem
from hwnas.strategies.random_search import RandomSearch
from hwnas.strategies.runner import run_search
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem

SECTION = SearchSection(
    initial=10, oversample=3, candidates=12, iterations=2, adapt_epochs=0, inner_population=24, inner_generations=6
)  # fmt: skip


def test_it_ends_at_the_best_network_under_the_limit(toy: ToySpace) -> None:
    problem, oracle = macs_problem(toy, budget=0.3), AnalyticAccuracy(toy)
    everything = toy.enumerate()
    keeps = problem.views[0].feasible(problem.costs(everything).G)
    best = oracle(everything[keeps]).max()
    rng = np.random.default_rng(0)
    X = evolve(problem, problem.views[0], oracle, population=60, generations=20, rng=rng)
    assert np.array_equal(toy.repair(X), X)
    assert (problem.costs(X).G <= 0).all()
    assert oracle(X)[0] == oracle(X).max() >= best - 0.002
    assert best < oracle(everything).max()


def test_limits_reach_from_the_smallest_to_the_budget_and_move_between_iterations() -> None:
    assert ladder(1.0, 5.0, 4, 0.0).tolist() == [2.0, 3.0, 4.0, 5.0]
    assert ladder(1.0, 5.0, 4, 0.5).tolist() == [1.5, 2.5, 3.5, 4.5]


def test_a_further_limit_is_the_views_own(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=0.3)
    tighter = limited(problem, problem.views[0], 0.001)
    assert [limit.maximum for limit in tighter.limits] == [problem.limits[0].maximum, 0.001]
    assert tighter.views[0].limits == (0, 1)
    assert limited(problem, problem.views[0], None) is problem


def volume(strategy: Strategy, oracle: AnalyticAccuracy, reference: np.ndarray) -> float:
    while not strategy.finished:
        X = strategy.ask()
        strategy.tell(X, oracle(X), strategy.problem.costs(X))
    return normalised_hypervolume(*objectives_of(strategy.archive.members, strategy.problem.views[0]), reference)


def test_with_equal_evaluations_its_front_beats_random_search() -> None:
    toy = ToySpace(stages=2, depth=3, codes=4, widths=3)
    problem, oracle = macs_problem(toy, budget=0.3), AnalyticAccuracy(toy, seed=2, effects=0.01)
    everything = toy.enumerate()
    F = problem.views[0].objectives(oracle(everything), problem.costs(everything).F)
    reference = F.max(axis=0) * 1.01
    for seed in range(2):
        section = SECTION.model_copy(update={"seed": seed})
        bred, drawn = Evolution(problem, section), RandomSearch(problem, section)
        assert volume(bred, oracle, reference) > volume(drawn, oracle, reference)
        assert len(bred.archive) == len(drawn.archive) == 30 + 24


def test_candidates_spread_over_the_range_of_the_first_cost(toy: ToySpace) -> None:
    problem, oracle = macs_problem(toy, budget=0.5), AnalyticAccuracy(toy)
    strategy = Evolution(problem, SECTION)
    X = strategy.ask()
    strategy.tell(X, oracle(X), problem.costs(X))
    upper = problem.costs(strategy.ask()).upper[:, 0]
    low, high = problem.costs(problem.smallest()[None]).upper[0, 0], problem.limits[0].maximum
    assert len(upper) == 12
    assert (upper <= high).all()
    # Each is bred under a limit of its own: at least one in every third of the range.
    assert set(np.floor(3 * (upper - low) / (high - low) - 1e-9).clip(0, 2)) == {0.0, 1.0, 2.0}


def test_accuracy_alone_needs_no_ladder(toy: ToySpace, tmp_path: Path) -> None:
    base = macs_problem(toy, budget=0.25)
    problem = Problem(toy, base.cost_names, base.predict, base.limits, base.targets, minimised=())
    result = run_search(Evolution(problem, SECTION), problem, evaluate=AnalyticAccuracy(toy), folder=tmp_path)
    (best,) = result.union_front(problem)
    assert best.accuracy == pytest.approx(max(m.accuracy for m in result.members if m.G[0] <= 0))
    assert result.finished

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwnas.strategies.subset_selection import select_candidates, spread, spread_subset


def scaled(costs: np.ndarray, existing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = np.ptp(np.vstack([costs, existing]), axis=0)
    return costs / width, existing / width


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_costs", [1, 2])
def test_close_to_the_best_of_all_subsets(seed: int, n_costs: int) -> None:
    rng = np.random.default_rng(seed)
    costs, existing = rng.random((12, n_costs)) * 10, rng.random((4, n_costs)) * 10
    chosen = spread_subset(costs, existing, 4)
    a, b = scaled(costs, existing)
    every = [spread(np.vstack([b, a[list(rows)]])) for rows in itertools.combinations(range(12), 4)]
    found = spread(np.vstack([b, a[chosen]]))
    assert len(set(chosen)) == 4
    # A local optimum: within the best percent of all 495 subsets.
    assert (np.array(every) < found - 1e-12).mean() <= 0.01


@pytest.mark.parametrize("k", [1, 3, 8, 20, 25])
def test_exactly_k_distinct_rows(k: int) -> None:
    rng = np.random.default_rng(k)
    F, G = rng.random((20, 2)), rng.normal(size=(20, 1))
    rows = select_candidates(F, G, rng.random((5, 1)), k)
    assert len(rows) == len(set(rows.tolist())) == min(k, 20)


def test_feasible_rows_first_then_least_violation() -> None:
    F = np.column_stack([np.linspace(0.5, 0.1, 8), np.arange(8.0)])
    G = np.array([[-1.0], [-1.0], [0.5], [0.1], [0.9], [-0.2], [0.2], [2.0]])
    assert select_candidates(F, G, np.empty((0, 1)), 5).tolist() == [0, 1, 5, 3, 6]


def test_the_most_accurate_feasible_candidate_is_always_chosen() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        F, G = rng.random((40, 2)), rng.normal(size=(40, 1))
        feasible = np.flatnonzero(G[:, 0] <= 0)
        best = feasible[F[feasible, 0].argmin()]
        assert best in select_candidates(F, G, rng.random((6, 1)), 5)


def test_one_objective_takes_the_best_predicted() -> None:
    F = np.array([[0.4], [0.1], [0.3], [0.2]])
    assert select_candidates(F, np.empty((4, 0)), np.empty((0, 0)), 2).tolist() == [1, 3]


def test_gaps_are_filled() -> None:
    existing = np.array([[0.0], [10.0]])
    costs = np.array([[0.1], [0.2], [5.0], [9.9]])
    assert spread_subset(costs, existing, 1) == [2]


def test_equal_costs_are_no_problem() -> None:
    assert len(set(spread_subset(np.ones((6, 2)), np.ones((2, 2)), 3))) == 3

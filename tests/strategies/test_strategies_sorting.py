from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.strategies.hypervolume import normalised_hypervolume, reference_point
from hwnas.strategies.sorting import merge_in_turns, non_dominated, reference_directions, survival, violation


def random_rows(seed: int, n: int, objectives: int, limits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Rounding makes ties and equal rows, the cases in which selections by value go wrong.
    return np.round(rng.random((n, objectives)), 1), np.round(rng.normal(-0.2, 0.5, (n, limits)), 1)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 50), st.integers(1, 5))
def test_survival_returns_exactly_n_distinct_indices(seed: int, size: int, n: int, objectives: int) -> None:
    F, G = random_rows(seed, size, objectives)
    kept = survival(F, G, n)
    assert len(kept) == len(set(kept.tolist())) == min(n, size)
    assert kept.min() >= 0
    assert kept.max() < size


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_feasible_rows_come_first_then_least_violation(seed: int, objectives: int) -> None:
    F, G = random_rows(seed, 30, objectives, limits=2)
    kept = survival(F, G, 20)
    total = violation(G)
    feasible = int((total == 0).sum())
    assert (total[kept[: min(20, feasible)]] == 0).all()
    rest = kept[feasible:]
    assert (np.diff(total[rest]) >= 0).all()
    left = np.setdiff1d(np.arange(30), kept)
    assert all(total[kept].max() <= total[i] for i in left) or feasible >= 20


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_non_dominated_agrees_with_the_definition(seed: int, objectives: int) -> None:
    F, G = random_rows(seed, 25, objectives)
    feasible = [i for i in range(25) if (G[i] <= 0).all()]
    expected = [i for i in feasible if not any(dominates(F[j], F[i]) for j in feasible)]
    assert non_dominated(F, G).tolist() == expected


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(5))
def test_survival_keeps_front_one_when_it_fits_and_the_extremes(seed: int, objectives: int) -> None:
    rng = np.random.default_rng(seed)
    F, G = rng.random((60, objectives)), np.full((60, 1), -1.0)
    front = set(non_dominated(F, G).tolist())
    assert front <= set(survival(F, G, len(front)).tolist())
    few = survival(F, G, objectives)
    assert all(F[few, j].min() == F[:, j].min() for j in range(objectives))


def test_survival_spreads_over_a_crowded_front() -> None:
    x = np.concatenate([np.linspace(0.0, 0.1, 40), [0.4, 0.7, 1.0]])
    F = np.column_stack([x, 1.0 - x])
    kept = survival(F, np.empty((43, 0)), 6)
    assert {40, 41, 42, 0} <= set(kept.tolist())


@pytest.mark.parametrize("objectives", [3, 4, 5, 6])
@pytest.mark.parametrize("count", [4, 60, 100])
def test_reference_directions_are_as_many_as_fit_and_on_the_simplex(objectives: int, count: int) -> None:
    directions = reference_directions(objectives, count)
    assert min(count, objectives) <= len(directions) <= count
    assert len(np.unique(directions, axis=0)) == len(directions)
    assert np.allclose(directions.sum(axis=1), 1.0)


def test_a_hundred_individuals_get_91_directions_of_three_objectives() -> None:
    assert len(reference_directions(3, 100)) == 91
    assert len(reference_directions(3, 105)) == 105


def test_merging_takes_turns() -> None:
    orders = [np.array([4, 1, 2]), np.array([4, 3, 0])]
    assert merge_in_turns(orders, 3).tolist() == [4, 1, 3]
    assert sorted(merge_in_turns(orders, 99).tolist()) == [0, 1, 2, 3, 4]


def test_hypervolume_of_known_points() -> None:
    F = np.array([[0.5, 2.0], [0.25, 4.0], [0.1, 1.0]])
    G = np.array([[-0.1], [0.0], [0.2]])
    reference = np.array([1.0, 5.0])
    # Two rectangles: 0.5 x 3 and 0.25 x 1; the third point is infeasible.
    assert normalised_hypervolume(F, G, reference) == pytest.approx((0.5 * 3 + 0.25 * 1) / 5)
    assert normalised_hypervolume(F, np.ones((3, 1)), reference) == 0.0
    assert normalised_hypervolume(F[:, :1], G, reference[:1]) == pytest.approx(0.75)


@pytest.mark.parametrize("objectives", [3, 4, 5])
def test_hypervolume_of_many_objectives_agrees_with_counting_random_points(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    F, G = rng.random((60, objectives)) * 4.0, rng.normal(-0.5, 1.0, (60, 1))
    reference = np.full(objectives, 4.0 * 1.01)
    points = rng.random((200_000, objectives)) * reference
    covered = np.zeros(len(points), dtype=bool)
    for row in F[G[:, 0] <= 0]:
        covered |= (row <= points).all(axis=1)
    found = normalised_hypervolume(F, G, reference)
    assert found == pytest.approx(covered.mean(), abs=0.005)
    # Four deviations of that many draws are 0.0045: a wrong column or reference would be far outside.
    assert 0.01 < found < 0.99


@pytest.mark.parametrize("objectives", [4, 6])
def test_the_hypervolume_of_a_front_of_300_is_no_matter_of_time(objectives: int) -> None:
    rng = np.random.default_rng(0)
    F = np.abs(rng.normal(size=(300, objectives)))
    F = np.clip(1.0 - F / np.linalg.norm(F, axis=1, keepdims=True), 0.0, 0.999)
    G, start = np.empty((300, 0)), time.perf_counter()
    assert len(non_dominated(F, G)) == 300
    assert 0.0 < normalised_hypervolume(F, G, np.ones(objectives)) < 1.0
    assert time.perf_counter() - start < 5.0


def test_points_behind_the_reference_count_nothing() -> None:
    F, G = np.array([[2.0, 0.5], [0.5, 0.5]]), np.empty((2, 0))
    assert normalised_hypervolume(F, G, np.ones(2)) == pytest.approx(0.25)


def test_reference_point_is_of_the_feasible_rows() -> None:
    F, G = np.array([[0.5, 2.0], [0.1, 9.0]]), np.array([[-1.0], [1.0]])
    assert reference_point(F, G) == pytest.approx([0.505, 2.02])
    assert reference_point(F, np.ones((2, 1))) == pytest.approx([0.505, 9.09])

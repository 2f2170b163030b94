from __future__ import annotations

import numpy as np
import pytest

from hwnas.strategies.tradeoff import high_trade_off, trade_offs


def bent(corner: float, n: int = 21) -> np.ndarray:
    """Two straight lines from (0, 1) and (1, 0) that meet in (corner, corner): the knee, at index n - 1."""
    t = np.linspace(0.0, 1.0, n)[:, None]
    first = np.array([0.0, 1.0]) + t * (np.array([corner, corner]) - np.array([0.0, 1.0]))
    second = np.array([corner, corner]) + t * (np.array([1.0, 0.0]) - np.array([corner, corner]))
    return np.vstack([first, second[1:]])


def test_the_knee_of_two_lines_has_the_highest_trade_off() -> None:
    F = bent(0.2)
    inner = np.arange(5, len(F) - 5)
    values = trade_offs(F)
    assert inner[values[inner].argmax()] == 20
    # From the knee either way a unit gained costs four; elsewhere on the line one way costs a quarter.
    assert values[20] == pytest.approx(4.0)
    assert values[10] == pytest.approx(0.25)
    assert 20 in high_trade_off(F)


def test_scale_and_order_of_the_objectives_do_not_matter() -> None:
    F = bent(0.3)
    order = np.random.default_rng(0).permutation(len(F))
    picks = {int(i) for i in high_trade_off(F)}
    assert len(picks) == 4
    assert {int(order[i]) for i in high_trade_off(F[order] * [1e6, 1e-3] + [5, 0])} == picks
    assert {int(i) for i in high_trade_off(F[:, ::-1])} == picks


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 40])
def test_small_fronts_give_what_they_have(objectives: int, n: int) -> None:
    F = np.random.default_rng(n).random((n, objectives))
    picks = high_trade_off(F)
    assert len(picks) == len(set(picks.tolist())) == min(4, n)


def test_a_knee_in_three_objectives_is_found() -> None:
    rng = np.random.default_rng(3)
    plane = rng.dirichlet(np.ones(3), 200)
    F = np.vstack([plane, [[0.22, 0.22, 0.22]]])
    assert 200 in high_trade_off(F)


def test_equal_members_are_no_problem() -> None:
    assert len(high_trade_off(np.ones((6, 3)))) == 4

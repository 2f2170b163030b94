from __future__ import annotations

import numpy as np
import pytest

from hwnas.config import SearchSection
from hwnas.errors import BudgetError, ConfigError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.costs import GraphCounter, build_problem
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import Limit, Problem
from hwnas.strategies.sampling import draw_eligible, draw_for_views, shares, step_down
from hwnas.testing.toy import ToySpace, macs_problem


def depths(space: MobileNetV3Space, X: np.ndarray) -> np.ndarray:
    return (X[:, 2:].reshape(len(X), len(space.stages), -1) > 0).sum(axis=2)


def budget_of(problem: Problem) -> Problem:
    """The same problem with a limit 1 % above its smallest architecture."""
    upper = problem.predict(problem.smallest()[None])[1][0, 0]
    return Problem(
        problem.space, problem.cost_names, problem.predict, (Limit("latency", 1.01 * upper),), targets=("latency",)
    )


def test_initial_members_are_nearly_uniform_in_depth(space: MobileNetV3Space) -> None:
    strategy = NatV2(macs_problem(space), SearchSection(initial=500, oversample=4))
    drawn = depths(space, strategy.ask()).ravel()
    shares_of_depths = np.bincount(drawn, minlength=5)[2:] / len(drawn)
    assert shares_of_depths == pytest.approx([1 / 3, 2 / 9, 4 / 9], abs=0.03)


def test_accuracy_is_asked_only_where_the_budget_can_be_kept(space: MobileNetV3Space) -> None:
    problem = macs_problem(space, budget=0.12)
    X = NatV2(problem, SearchSection(initial=20, oversample=3)).ask()
    assert len(X) == 60
    G = problem.costs(X).G[:, 0]
    inner = (problem.largest() != X).any(axis=1)
    assert (G[inner] <= 0.10).all()
    assert (G <= 0).sum() > 30
    assert not inner.all()
    assert (problem.smallest() == X).all(axis=1).any()


def test_a_budget_that_sampling_never_meets_is_met_by_stepping_down(space: MobileNetV3Space) -> None:
    problem = budget_of(macs_problem(space))
    drawn = space.sample(np.random.default_rng(0), 500)
    assert (problem.costs(drawn).G > 0.1).all()
    view = problem.views[0]
    stepped = step_down(problem, view, drawn[:20], np.random.default_rng(1))
    assert (problem.costs(stepped).G <= 0).all()
    assert np.array_equal(space.repair(stepped), stepped)


def test_stepping_down_leaves_what_keeps_its_limits(space: MobileNetV3Space) -> None:
    problem = macs_problem(space, budget=0.4)
    X = space.sample(np.random.default_rng(0), 60)
    keeps = problem.costs(X).G[:, 0] <= 0
    stepped = step_down(problem, problem.views[0], X, np.random.default_rng(1))
    assert keeps.any()
    assert not keeps.all()
    assert np.array_equal(stepped[keeps], X[keeps])
    # Stepped rows stop as soon as they fit, so they are spread instead of all being the smallest.
    assert len(np.unique(stepped[~keeps], axis=0)) == (~keeps).sum()


def test_draws_are_distinct_and_new(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=0.3)
    first = draw_eligible(problem, problem.views[0], np.random.default_rng(0), 40, set())
    taken = {row.tobytes() for row in first}
    second = draw_eligible(problem, problem.views[0], np.random.default_rng(0), 40, taken)
    assert len(taken) == 40
    assert not taken & {row.tobytes() for row in second}


def test_a_small_space_gives_what_it_has() -> None:
    space = ToySpace(stages=1, depth=1, codes=2, widths=2)
    problem = macs_problem(space)
    assert len(draw_eligible(problem, problem.views[0], np.random.default_rng(0), 50, set())) == 4


def test_shares_rotate_the_remainder() -> None:
    assert shares(8, 3) == [3, 3, 2]
    assert shares(8, 3, turn=1) == [2, 3, 3]
    assert shares(1, 3, turn=5) == [0, 0, 1]


class Line:
    """A latency model: MACs times a factor, known up to 5 %."""

    def __init__(self, space: ToySpace, factor: float) -> None:
        self.counter = GraphCounter(space, ["macs"])
        self.factor = factor

    def predict(self, X: np.ndarray) -> Line:
        self.value = self.counter(X)[:, 0] * self.factor
        self.high = self.value * 1.05
        return self


def test_every_target_gets_its_share_of_draws_within_its_own_budget(toy: ToySpace) -> None:
    models = {"slow/onnxruntime-fp32": Line(toy, 1e-5), "fast/onnxruntime-fp32": Line(toy, 1e-6)}
    largest = float(models["slow/onnxruntime-fp32"].predict(toy.encode(toy.largest)[None]).value[0])
    problem = build_problem(
        toy, models, {"slow/onnxruntime-fp32": 0.1 * largest, "fast/onnxruntime-fp32": 0.09 * largest}
    )
    assert [view.name for view in problem.views] == list(models)
    drawn = draw_for_views(problem, np.random.default_rng(0), 30, set(), margin=0.0)
    G = problem.costs(drawn).G
    assert (G[:15, 0] <= 0).all()
    assert (G[15:, 1] <= 0).all()
    assert (G[15:, 0] > 0).any()


def test_a_budget_below_the_smallest_is_an_error_that_names_the_nearest(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=1e-4)
    with pytest.raises(BudgetError) as caught:
        problem.check_budgets()
    message = str(caught.value)
    nearest = float(message.split("can be kept is ")[1].split(" ms")[0])
    assert "latency" in message
    assert "% above" in message
    mended = Problem(toy, ("latency",), problem.predict, (Limit("latency", nearest),), targets=("latency",))
    mended.check_budgets()
    assert nearest == pytest.approx(problem.predict(problem.smallest()[None])[1][0, 0], rel=0.01)


def test_costs_are_checked(toy: ToySpace) -> None:
    X = toy.sample(np.random.default_rng(0), 3)
    for values, expected in [(np.ones((3, 2)), "shape"), (np.full((3, 1), np.nan), "not a finite number")]:
        problem = Problem(toy, ("latency",), lambda _, values=values: (values, values))
        with pytest.raises(ConfigError, match=expected):
            problem.costs(X)


def test_unknown_names_are_refused(toy: ToySpace) -> None:
    with pytest.raises(ConfigError, match="unknown cost 'mac'"):
        GraphCounter(toy, ["mac"])
    with pytest.raises(ConfigError, match="known costs: macs"):
        build_problem(toy, {}, {"latency": 3.0}, extra=("macs",))
    with pytest.raises(ConfigError, match="finite number above 0"):
        Limit("latency", float("nan"))


def test_upper_ends_decide_feasibility(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=0.5, interval=0.2)
    X = toy.sample(np.random.default_rng(0), 200)
    costs = problem.costs(X)
    limit = problem.limits[0].maximum
    assert costs.upper == pytest.approx(costs.F * 1.2)
    assert pytest.approx(costs.upper / limit - 1) == costs.G
    assert ((costs.F[:, 0] <= limit) & (costs.G[:, 0] > 0)).any()

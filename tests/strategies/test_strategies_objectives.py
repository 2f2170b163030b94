"""Many objectives and budgets on costs that are none, from the first member to the front on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.config import SearchSection
from hwnas.strategies.archive import objectives_of
from hwnas.strategies.base import Strategy
from hwnas.strategies.costs import GraphCounter, build_problem
from hwnas.strategies.evolution import Evolution
from hwnas.strategies.hypervolume import normalised_hypervolume
from hwnas.strategies.inner_search import inner_search
from hwnas.strategies.nat import Nat
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import Problem
from hwnas.strategies.random_search import RandomSearch
from hwnas.strategies.runner import run_search
from hwnas.strategies.sorting import non_dominated
from hwnas.testing.toy import AnalyticAccuracy, ToySpace

A, B = "a/onnxruntime-fp32-t1-b1", "b/onnxruntime-int8-t1-b1"
SECTION = SearchSection(
    initial=10, oversample=2, archive=16, iterations=3, candidates=6, adapt_epochs=0, inner_population=30,
    inner_generations=6, seed=5,
)  # fmt: skip


class Device:
    """A latency model: MACs, and what each gene costs on that device."""

    def __init__(self, space: ToySpace, seed: int) -> None:
        self.counter = GraphCounter(space, ["macs"])
        self.extra = np.random.default_rng(seed).random((space.n_genes, int(space.upper.max()) + 1)).cumsum(axis=1)

    def predict(self, X: np.ndarray) -> Device:
        self.value = self.counter(X)[:, 0] / 1e5 + self.extra[np.arange(X.shape[1]), X].sum(axis=1)
        self.high = 1.03 * self.value
        return self


def problem_of(toy: ToySpace) -> Problem:
    """Two targets of two precisions; per view error, latency, MACs and size, under a budget on parameters, no objective."""
    extra = ("macs", "parameters", "size_bytes-fp32", "size_bytes-int8")
    largest = dict(zip(extra, GraphCounter(toy, extra)(toy.encode(toy.largest)[None])[0], strict=True))
    return build_problem(
        toy,
        {A: Device(toy, 0), B: Device(toy, 1)},
        {"parameters": 0.4 * largest["parameters"], "size_bytes-int8": 0.15 * largest["size_bytes-int8"]},
        extra=extra,
        minimised=(A, B, "macs", "size_bytes-fp32", "size_bytes-int8"),
        seen_by={"size_bytes-fp32": (A,), "size_bytes-int8": (B,)},
    )


@pytest.mark.parametrize("cls", [NatV2, Nat, RandomSearch, Evolution])
def test_four_objectives_per_view_and_a_budget_beside_them(toy: ToySpace, tmp_path: Path, cls: type[Strategy]) -> None:
    problem = problem_of(toy)
    result = run_search(cls(problem, SECTION), problem, evaluate=AnalyticAccuracy(toy), folder=tmp_path)
    assert result.finished
    fronts = result.fronts(problem)
    assert list(fronts) == [A, B]
    macs, parameters, int8 = (problem.cost_names.index(n) for n in ("macs", "parameters", "size_bytes-int8"))
    for view in problem.views:
        assert len(view.costs) == 3
        assert macs in view.costs
        assert parameters not in view.costs
        members = fronts[view.name]
        assert len(members) > 4
        F, G = objectives_of(members, view)
        assert F.shape == (len(members), 4)
        assert (G <= 0).all()
        assert len(non_dominated(F, G)) == len(members)
        assert all(member.costs[parameters] <= problem.limits[0].maximum for member in members)
    assert all(member.costs[int8] <= problem.limits[1].maximum for member in fronts[B])
    # The other precision's limit is none of the first target's business.
    assert any(member.costs[int8] > problem.limits[1].maximum for member in fronts[A])
    volumes = [record["hypervolumes"] for record in result.history]
    assert set(volumes[0]) == {A, B}
    for name in (A, B):
        seen = [volume[name] for volume in volumes]
        assert 0.0 < seen[0] <= seen[-1] < 1.0
        assert seen == sorted(seen), "a fixed reference and a growing archive never lose volume"


def test_archive_and_candidates_have_their_sizes_in_many_objectives_too(toy: ToySpace) -> None:
    problem, oracle = problem_of(toy), AnalyticAccuracy(toy)
    strategy = NatV2(problem, SECTION)
    while not strategy.finished:
        known, X = strategy.archive.keys, strategy.ask()
        assert len(X) == (SECTION.candidates if known else SECTION.initial * SECTION.oversample)
        assert not known & {row.tobytes() for row in X}
        strategy.tell(X, oracle(X), problem.costs(X))
        active = {member.key for member in strategy.archive.active}
        assert len(active) == SECTION.archive
        if not known:
            assert {problem.smallest().tobytes(), problem.largest().tobytes()} <= active
    # The largest breaks both budgets: it may go once better members are there.
    assert problem.largest().tobytes() not in active


def test_a_search_of_four_objectives_goes_on_to_the_same_bits(toy: ToySpace, tmp_path: Path) -> None:
    problem, oracle = problem_of(toy), AnalyticAccuracy(toy)
    straight = run_search(NatV2(problem, SECTION), problem, evaluate=oracle, folder=tmp_path / "straight")

    class Stop(BaseException):
        pass

    calls = 0

    def stopping(X: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls % 9 == 0:
            raise Stop
        return oracle(X)

    folder, stops = tmp_path / "stopped", 0
    while True:
        try:
            result = run_search(NatV2(problem_of(toy), SECTION), problem, evaluate=stopping, folder=folder)
            break
        except Stop:
            stops += 1
    assert stops >= 3
    assert result.archive.state() == straight.archive.state()
    assert result.history == straight.history


@pytest.mark.parametrize("population", [4, 40, 100])
def test_niching_comes_close_to_the_true_front_and_prints_nothing(
    toy: ToySpace, capsys: pytest.CaptureFixture[str], population: int
) -> None:
    problem, oracle = problem_of(toy), AnalyticAccuracy(toy)
    view = problem.views[1]
    everything = toy.enumerate()
    costs = problem.costs(everything)
    F, G = view.objectives(oracle(everything), costs.F), view.constraints(costs.G)
    reference = F.max(axis=0) * 1.01
    found = inner_search(
        problem, view, oracle, seeds=everything[:3], known=set(), population=population, generations=20,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    share = normalised_hypervolume(found.F, found.G, reference) / normalised_hypervolume(F, G, reference)
    assert share > (0.6 if population == 4 else 0.95)
    assert capsys.readouterr().out == "", "standard output is for results"

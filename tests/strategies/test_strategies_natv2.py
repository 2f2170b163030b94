from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.config import SearchSection
from hwnas.spaces.base import IntArray
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.archive import encodings_of, objectives_of
from hwnas.strategies.base import Strategy
from hwnas.strategies.costs import build_problem
from hwnas.strategies.hypervolume import normalised_hypervolume
from hwnas.strategies.inner_search import inner_search
from hwnas.strategies.nat import Nat
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import FloatArray, Problem
from hwnas.strategies.random_search import RandomSearch
from hwnas.strategies.runner import run_search
from hwnas.strategies.sorting import non_dominated
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem

SECTION = SearchSection(
    initial=12, oversample=3, archive=16, iterations=4, candidates=6, adapt_epochs=1, adapt_top=8,
    inner_population=30, inner_generations=8, seed=1,
)  # fmt: skip


class Device:
    """A latency model whose cost is MACs plus what each gene costs on that device."""

    def __init__(self, space: ToySpace, seed: int, scale: float) -> None:
        self.base = macs_problem(space)
        rng = np.random.default_rng(seed)
        self.extra = scale * rng.random((space.n_genes, int(space.upper.max()) + 1)).cumsum(axis=1)
        self.scale = scale

    def predict(self, X: IntArray) -> Device:
        genes = np.arange(X.shape[1])
        self.value = self.scale * self.base.predict(X)[0][:, 0] + self.extra[genes, X].sum(axis=1)
        self.high = self.value * 1.03
        return self


def two_targets(space: ToySpace) -> Problem:
    models = {"a/onnxruntime-fp32": Device(space, 0, 1.0), "b/onnxruntime-int8": Device(space, 1, 0.3)}
    largest = {name: float(model.predict(space.encode(space.largest)[None]).value[0]) for name, model in models.items()}
    budgets = {"a/onnxruntime-fp32": 0.45 * largest["a/onnxruntime-fp32"],
               "b/onnxruntime-int8": 0.7 * largest["b/onnxruntime-int8"]}  # fmt: skip
    return build_problem(space, models, budgets)


def tell(strategy: Strategy, oracle: AnalyticAccuracy) -> IntArray:
    X = strategy.ask()
    strategy.tell(X, oracle(X), strategy.problem.costs(X))
    return X


def test_archive_size_is_constant_and_both_ends_are_in_it_at_first(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=0.3)
    strategy, oracle = NatV2(problem, SECTION), AnalyticAccuracy(toy)
    tell(strategy, oracle)
    first = {member.encoding for member in strategy.archive.active}
    assert {tuple(problem.smallest().tolist()), tuple(problem.largest().tolist())} <= first
    for _ in range(SECTION.iterations):
        assert len(strategy.archive.active) == SECTION.archive
        assert len(tell(strategy, oracle)) == SECTION.candidates
    assert strategy.finished
    assert len(strategy.archive) == 36 + 4 * 6
    # The largest breaks the budget: it goes as soon as better members are there.
    assert tuple(problem.largest().tolist()) not in {member.encoding for member in strategy.archive.active}


def test_candidates_are_new_and_keep_the_budget(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=0.3)
    strategy, oracle = NatV2(problem, SECTION), AnalyticAccuracy(toy)
    tell(strategy, oracle)
    known = strategy.archive.keys
    X = strategy.ask()
    assert not known & {row.tobytes() for row in X}
    assert (problem.costs(X).G <= 0).all()


def test_adaptation_makes_the_archive_stale_and_asks_it_again(toy: ToySpace) -> None:
    strategy = NatV2(macs_problem(toy, budget=0.3), SECTION)
    tell(strategy, AnalyticAccuracy(toy))
    assert strategy.sampler() is None
    tell(strategy, AnalyticAccuracy(toy))
    active = {member.key for member in strategy.archive.active}
    generations = {member.key: member.generation for member in strategy.archive.active}
    assert strategy.sampler() is not None
    strategy.adapted()
    assert strategy.sampler() is None
    before = strategy.iteration
    X = tell(strategy, AnalyticAccuracy(toy, seed=5))
    assert {row.tobytes() for row in X} == active
    assert strategy.iteration == before
    assert {member.version for member in strategy.archive.active} == {1}
    assert {member.key: member.generation for member in strategy.archive.active} == generations
    assert [record["iteration"] for record in strategy.history] == [0, 1]
    assert strategy.history[-1]["version"] == 1


def test_distribution_is_of_feasible_members_only(toy: ToySpace) -> None:
    # Below every architecture of the largest width.
    problem = macs_problem(toy, budget=0.006)
    strategy = NatV2(problem, SECTION.model_copy(update={"candidates": 2}))
    tell(strategy, AnalyticAccuracy(toy))
    tell(strategy, AnalyticAccuracy(toy))
    widths = encodings_of([m for m in strategy.archive.active if max(m.G) <= 0])[:, 0]
    sampler = strategy.sampler()
    assert sampler is not None
    rng = np.random.default_rng(0)
    drawn = np.array([sampler.sample(rng)[0] for _ in range(300)])
    unseen = np.setdiff1d(np.arange(3), widths)
    assert len(unseen)
    assert np.isin(drawn, unseen).mean() < 0.1


def test_zero_adaptation_epochs_never_adapt(toy: ToySpace) -> None:
    strategy = NatV2(macs_problem(toy), SECTION.model_copy(update={"adapt_epochs": 0.0}))
    while not strategy.finished:
        tell(strategy, AnalyticAccuracy(toy))
        assert strategy.sampler() is None


def test_nat_grows_and_starts_without_regard_to_limits(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=0.2)
    strategy, oracle = Nat(problem, SECTION), AnalyticAccuracy(toy)
    X = tell(strategy, oracle)
    assert len(X) == SECTION.initial
    assert (problem.costs(X).G > 0.1).sum() > 1
    for iteration in range(1, 3):
        tell(strategy, oracle)
        assert len(strategy.archive.active) == SECTION.initial + iteration * SECTION.candidates


def test_two_targets_share_one_archive_and_each_has_its_own_front(toy: ToySpace, tmp_path: Path) -> None:
    problem = two_targets(toy)
    strategy = NatV2(problem, SECTION.model_copy(update={"adapt_epochs": 0.0}))
    result = run_search(strategy, problem, evaluate=AnalyticAccuracy(toy), folder=tmp_path)
    fronts = result.fronts(problem)
    assert list(fronts) == ["a/onnxruntime-fp32", "b/onnxruntime-int8"]
    for column, members in enumerate(fronts.values()):
        assert len(members) >= 3
        assert all(member.G[column] <= 0 for member in members)
    # The generous target keeps members that the strict one could not.
    assert any(member.G[0] > 0 for member in fronts["b/onnxruntime-int8"])
    union = {member.encoding for member in result.union_front(problem)}
    assert union == {member.encoding for members in fronts.values() for member in members}
    assert set(result.history[-1]["hypervolumes"]) == set(fronts)


def test_three_objectives_go_through_niching(toy: ToySpace, tmp_path: Path) -> None:
    model = Device(toy, 3, 1.0)
    problem = build_problem(toy, {"a/torch-fp32": model}, {"parameters": 2000.0}, extra=("parameters",))
    strategy = NatV2(problem, SECTION.model_copy(update={"adapt_epochs": 0.0}))
    result = run_search(strategy, problem, evaluate=AnalyticAccuracy(toy), folder=tmp_path)
    best = result.union_front(problem)
    assert len(best) > 5
    assert all(member.G[0] <= 0 and member.costs[1] <= 2000 for member in best)
    assert len(strategy.archive.active) == SECTION.archive


def test_accuracy_alone_can_be_the_objective(toy: ToySpace, tmp_path: Path) -> None:
    base = macs_problem(toy, budget=0.25)
    problem = Problem(toy, base.cost_names, base.predict, base.limits, base.targets, minimised=())
    strategy = NatV2(problem, SECTION.model_copy(update={"adapt_epochs": 0.0}))
    result = run_search(strategy, problem, evaluate=AnalyticAccuracy(toy), folder=tmp_path)
    best = result.union_front(problem)
    accuracies = [m.accuracy for m in result.members if m.G[0] <= 0]
    assert [member.accuracy for member in best] == [max(accuracies)]


@pytest.mark.parametrize("limit", [None, 0.15])
def test_inner_search_comes_close_to_the_true_front(toy: ToySpace, limit: float | None) -> None:
    problem, oracle = macs_problem(toy, budget=limit), AnalyticAccuracy(toy)
    view = problem.views[0]
    everything = toy.enumerate()
    costs = problem.costs(everything)
    F, G = view.objectives(oracle(everything), costs.F), view.constraints(costs.G)
    reference = F.max(axis=0) * 1.01
    found = inner_search(
        problem, view, oracle, seeds=everything[:3], known=set(), population=60, generations=20,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert np.array_equal(toy.repair(found.X), found.X)
    assert len(np.unique(found.X, axis=0)) == len(found)
    best = normalised_hypervolume(F, G, reference)
    assert normalised_hypervolume(found.F, found.G, reference) > 0.97 * best


def test_inner_search_leaves_out_what_is_known(space: MobileNetV3Space) -> None:
    problem, oracle = macs_problem(space, budget=0.3), AnalyticAccuracy(space)

    def search(known: set[bytes]) -> IntArray:
        return inner_search(
            problem, problem.views[0], oracle, seeds=problem.smallest()[None], known=known, population=20, generations=3,
            rng=np.random.default_rng(4),
        ).X  # fmt: skip

    everything = search(set())
    known = {row.tobytes() for row in everything[::2]}
    assert {row.tobytes() for row in search(known)} == {row.tobytes() for row in everything[1::2]}


def evaluated_hypervolume(strategy: Strategy, oracle: AnalyticAccuracy, reference: FloatArray) -> float:
    while not strategy.finished:
        tell(strategy, oracle)
    F, G = objectives_of(strategy.archive.members, strategy.problem.views[0])
    return normalised_hypervolume(F, G, reference)


@pytest.mark.parametrize("limit", [None, 0.2])
def test_natv2_beats_random_search_on_a_space_walked_through_completely(limit: float | None) -> None:
    toy = ToySpace(stages=2, depth=3, codes=4, widths=3)
    problem = macs_problem(toy, budget=limit)
    oracle = AnalyticAccuracy(toy, seed=2, effects=0.01)
    everything = toy.enumerate()
    costs = problem.costs(everything)
    F = problem.views[0].objectives(oracle(everything), costs.F)
    reference = F.max(axis=0) * 1.01
    best = normalised_hypervolume(F, costs.G, reference)
    section = SECTION.model_copy(
        update={"adapt_epochs": 0.0, "initial": 10, "archive": 20, "candidates": 12, "iterations": 2}
    )
    share: dict[str, list[float]] = {"natv2": [], "random": []}
    for seed in range(3):
        for cls in (NatV2, RandomSearch):
            strategy = cls(problem, section.model_copy(update={"seed": seed}))
            share[cls.name].append(evaluated_hypervolume(strategy, oracle, reference) / best)
            assert len(strategy.archive) == 30 + 24
    assert all(natv2 > random for natv2, random in zip(share["natv2"], share["random"], strict=True))
    assert np.mean(share["natv2"]) > np.mean(share["random"]) + 0.25 * (1 - np.mean(share["random"]))
    assert non_dominated(F, costs.G).size > 5

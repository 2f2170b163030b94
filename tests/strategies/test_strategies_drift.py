from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hwnas.config import SearchSection
from hwnas.strategies.archive import Member, front, objectives_of
from hwnas.strategies.drift import UNKNOWN_STD, Drift
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import FloatArray
from hwnas.strategies.sorting import non_dominated
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem


def member(gene: int, accuracy: float, version: int) -> Member:
    return Member((gene,), accuracy, (1.0,), (), (), generation=0, version=version)


def test_members_of_the_present_version_are_what_they_read() -> None:
    accuracy, std = Drift().estimate([member(0, 0.5, 3), member(1, 0.7, 3)], 3)
    assert accuracy.tolist() == [0.5, 0.7]
    assert std.tolist() == [0.0, 0.0]


def test_a_step_nobody_walked_changes_nothing_but_the_doubt() -> None:
    accuracy, std = Drift().estimate([member(0, 0.5, 1)], 3)
    assert accuracy.tolist() == [0.5]
    assert std.tolist() == pytest.approx([UNKNOWN_STD * 2**0.5])


def test_estimates_follow_those_evaluated_again() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.4, 0.6, size=40)
    noise = rng.normal(0, 0.01, size=(2, 40))
    drift = Drift()
    old = [member(i, a, 0) for i, a in enumerate(before)]
    drift.learn(old[:20], before[:20] + 0.10 + noise[0, :20], 1)
    middle = [member(i, before[i] + 0.10 + noise[0, i], 1) for i in range(10)]
    drift.learn(middle, before[:10] + 0.15 + noise[1, :10], 2)
    accuracy, std = drift.estimate(old[20:], 2)
    assert np.abs(accuracy - (before[20:] + 0.15)).max() < 0.02
    assert np.all((std > 0.005) & (std < 0.03))
    # A member two versions old teaches the last step only what the first does not explain.
    again = Drift.from_state(json.loads(json.dumps(drift.state())))
    again.learn(old[30:35], accuracy[10:15], 2)
    assert again.estimate(old[20:], 2)[0] == pytest.approx(accuracy, abs=0.01)


def test_state_goes_through_json() -> None:
    drift = Drift()
    drift.learn([member(0, 0.1, 0)], np.array([0.3]), 1)
    restored = Drift.from_state(json.loads(json.dumps(drift.state())))
    assert restored.state() == drift.state()
    assert restored.present([member(5, 0.2, 0)], 1)[0].accuracy == pytest.approx(0.4)


SECTION = SearchSection(
    initial=30, oversample=1, archive=30, iterations=4, candidates=6, adapt_epochs=0.5, adapt_top=10,
    inner_population=24, inner_generations=6, seed=1,
)  # fmt: skip


def moved(space: ToySpace, version: int) -> AnalyticAccuracy:
    """Return accuracies that move a little with every version, as those of an adapting supernet do."""
    return AnalyticAccuracy(space, seed=2, effects=0.01 + 0.001 * version)


def drive(reevaluate: str, minimised: tuple[str, ...] | None = None) -> tuple[NatV2, ToySpace]:
    space = ToySpace(stages=2, depth=3, codes=4, widths=3)
    problem = dataclasses.replace(macs_problem(space, budget=0.5), minimised=minimised)
    strategy = NatV2(problem, SECTION.model_copy(update={"reevaluate": reevaluate}))
    while not strategy.finished:
        X = strategy.ask()
        strategy.tell(X, moved(space, strategy.version)(X), strategy.problem.costs(X))
        if strategy.sampler() is not None:
            strategy.adapted()
    return strategy, space


def volume_front(strategy: NatV2, accuracy: FloatArray) -> set[bytes]:
    members = strategy.archive.active
    F, G = objectives_of(members, strategy.problem.views[0])
    F[:, 0] = 1.0 - accuracy
    return {members[i].key for i in non_dominated(F, G)}


def test_only_what_may_be_on_the_front_is_evaluated_again() -> None:
    needed, space = drive("needed")
    everything, _ = drive("all")
    asked = {name: found.evaluations - len(found.archive) for name, found in (("n", needed), ("a", everything))}
    assert 0 < asked["n"] < 0.7 * asked["a"]
    view, current = needed.problem.views[0], needed.archive.current(needed.version)
    best = {m.key for m in front(current, view)}
    assert best == {m.key for m in front(needed.present(needed.archive.active), view)}
    # What was left out would not have been there: the front of all active members at the last version is the same.
    encodings = np.array([m.encoding for m in needed.archive.active], dtype=np.int64)
    truth = volume_front(needed, moved(space, needed.version)(encodings))
    assert len(best & truth) >= 0.9 * len(truth)


@pytest.mark.parametrize("minimised", [None, ()], ids=["macs", "accuracy-alone"])
def test_as_many_as_an_iteration_has_candidates_end_with_the_final_weights(minimised: tuple[str, ...] | None) -> None:
    strategy, _ = drive("needed", minimised)
    view = strategy.problem.views[0]
    members = [m for m in strategy.present(strategy.archive.active) if m.G[0] <= 0.0]
    best = sorted(members, key=lambda m: -m.accuracy)[: SECTION.candidates]
    current = {m.key for m in strategy.archive.current(strategy.version)}
    assert len(best) == SECTION.candidates
    assert {m.key for m in best} <= current
    assert {m.key for m in front(strategy.present(strategy.archive.active), view)} <= current


def test_everything_is_evaluated_again_where_that_is_asked() -> None:
    strategy, _ = drive("all")
    assert not strategy.archive.stale(strategy.version)
    assert strategy.evaluations >= len(strategy.archive) + 4 * len(strategy.archive.active)

"""Contract suite for authors of strategies, with a small space and an analytic accuracy to run it on.

Use it so::

    from hwnas.testing.strategies import StrategyContract

    class TestMyStrategy(StrategyContract):
        strategy = MyStrategy
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from hwnas.config import SearchSection
from hwnas.spaces.base import IntArray
from hwnas.strategies.base import Strategy
from hwnas.strategies.runner import run_search
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem

SMALL = SearchSection(
    initial=10, oversample=2, archive=12, iterations=3, candidates=4, adapt_epochs=0.5, adapt_top=6,
    inner_population=16, inner_generations=4, seed=3,
)  # fmt: skip


class StrategyContract:
    """What every strategy has to keep; inherit from it and set ``strategy``."""

    strategy: ClassVar[type[Strategy]]
    section: ClassVar[SearchSection] = SMALL
    budget: ClassVar[float | None] = 0.3

    def make(self, section: SearchSection | None = None) -> Strategy:
        """Return a new strategy on the toy space."""
        return self.strategy(macs_problem(ToySpace(), budget=self.budget), section or self.section)

    def step(self, strategy: Strategy, *, adapt: bool = True) -> IntArray:
        """Ask, evaluate, tell and adapt once; return what was asked."""
        X = strategy.ask()
        oracle = AnalyticAccuracy(strategy.problem.space, seed=strategy.version)
        strategy.tell(X, oracle(X), strategy.problem.costs(X))
        if adapt and strategy.sampler() is not None:
            strategy.adapted()
        return X

    def drive(self, strategy: Strategy, *, adapt: bool = True) -> Strategy:
        """Step until the strategy is finished."""
        for _ in range(1000):
            if strategy.finished:
                return strategy
            self.step(strategy, adapt=adapt)
        raise AssertionError(f"{strategy.name} did not finish within 1000 steps")

    def test_asks_distinct_canonical_encodings(self) -> None:
        """What is asked is canonical, and each encoding once."""
        strategy = self.make()
        space = strategy.problem.space
        while not strategy.finished:
            X = self.step(strategy)
            assert np.array_equal(space.repair(X), X)
            assert len({row.tobytes() for row in X}) == len(X)

    def test_never_evaluates_twice_with_the_same_supernet(self) -> None:
        """No evaluation is paid for twice."""
        strategy = self.make()
        seen: set[tuple[bytes, int]] = set()
        while not strategy.finished:
            version = strategy.version
            keys = {(row.tobytes(), version) for row in self.step(strategy)}
            assert not keys & seen
            seen |= keys

    def test_asking_again_changes_nothing(self) -> None:
        """Asking twice before telling gives the same."""
        strategy = self.make()
        self.step(strategy)
        first = strategy.ask()
        state = strategy.state()
        assert np.array_equal(strategy.ask(), first)
        assert strategy.state() == state

    def test_progress_grows_to_one(self) -> None:
        """Progress starts at 0, never falls and ends at 1."""
        strategy = self.make()
        seen = [strategy.progress]
        while not strategy.finished:
            self.step(strategy)
            seen.append(strategy.progress)
        assert seen[0] == 0.0
        assert seen[-1] == 1.0
        assert seen == sorted(seen)

    def test_refuses_what_it_did_not_ask(self) -> None:
        """Other encodings, other lengths and NaN are refused."""
        strategy = self.make()
        X = strategy.ask()
        accuracy, costs = np.full(len(X), 0.5), strategy.problem.costs(X)
        wrong = [
            (X[::-1].copy(), accuracy, costs),
            (X, accuracy[:-1], costs),
            (X, np.where(np.arange(len(X)) == 1, np.nan, accuracy), costs),
        ]
        for arguments in wrong:
            try:
                strategy.tell(*arguments)
            except ValueError:
                continue
            raise AssertionError(f"{strategy.name} accepted what it did not ask, or an accuracy that is no number")

    def test_state_is_plain_json(self) -> None:
        """The state goes through JSON unchanged."""
        strategy = self.make()
        while not strategy.finished:
            self.step(strategy)
            state = strategy.state()
            assert json.loads(json.dumps(state, allow_nan=False)) == state

    def test_a_restored_strategy_goes_on_to_the_same_bits(self) -> None:
        """Restored after every step, a search ends in the same state."""
        expected = json.dumps(self.drive(self.make()).state(), sort_keys=True)
        strategy = self.make()
        while not strategy.finished:
            self.step(strategy)
            state = json.loads(json.dumps(strategy.state()))
            strategy = self.make()
            strategy.restore(state)
        assert json.dumps(strategy.state(), sort_keys=True) == expected

    def test_another_seed_is_another_search(self) -> None:
        """The seed matters."""
        other = self.section.model_copy(update={"seed": self.section.seed + 1})
        assert not np.array_equal(self.make().ask(), self.make(other).ask())

    def test_what_it_trains_on_is_canonical(self) -> None:
        """Samplers give canonical encodings."""
        strategy = self.make()
        space, rng, seen = strategy.problem.space, np.random.default_rng(0), 0
        while not strategy.finished:
            X = strategy.ask()
            strategy.tell(X, AnalyticAccuracy(space)(X), strategy.problem.costs(X))
            sampler = strategy.sampler()
            if sampler is not None:
                drawn = np.array([sampler.sample(rng) for _ in range(50)])
                assert np.array_equal(space.repair(drawn), drawn)
                seen += 1
                strategy.adapted()
        assert strategy.version == seen

    def test_ends_when_a_space_is_exhausted(self) -> None:
        """A space smaller than the search is evaluated completely, and the search ends."""
        space = ToySpace(stages=1, depth=2, codes=2, widths=2)
        section = self.section.model_copy(update={"iterations": 50, "adapt_epochs": 0.0})
        strategy = self.drive(self.strategy(macs_problem(space), section), adapt=False)
        assert {member.encoding for member in strategy.archive.members} == {
            tuple(x) for x in space.enumerate().tolist()
        }

    def test_runs_and_finds_members_that_keep_the_budget(self, tmp_path: Path) -> None:
        """A whole run gives a front within the budget."""
        strategy = self.make(self.section.model_copy(update={"adapt_epochs": 0.0}))
        problem = strategy.problem
        result = run_search(strategy, problem, evaluate=AnalyticAccuracy(problem.space), folder=tmp_path)
        assert result.finished
        best = result.union_front(problem)
        assert best
        assert all(value <= 0.0 for member in best for value in member.G)

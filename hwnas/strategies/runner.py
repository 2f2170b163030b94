"""Drives a strategy: evaluates what it asks, writes everything to disk, goes on where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hwnas.errors import RunFolderError
from hwnas.strategies.base import Strategy
from hwnas.strategies.distribution import Sampler
from hwnas.strategies.evaluations import Evaluate, Evaluations
from hwnas.strategies.problem import CostFunction, Problem
from hwnas.strategies.state import SearchResult, identity_of, read_result, resume, write_state

__all__ = ["Adapt", "Evaluate", "OnProgress", "SearchResult", "read_result", "run_search"]

Adapt = Callable[[Sampler, float], None]
"""Train the supernet for some epochs on architectures drawn from a sampler; must be deterministic."""
OnProgress = Callable[[float, str], None]
"""``on_progress(share done, note)``."""


@dataclass(frozen=True)
class SupernetStore:
    """How the supernet's checkpoint, part of the search state where it adapts, is kept by the caller.

    Attributes:
        save: ``save(version)``; must be atomic. Only the two latest versions are ever loaded again.
        load: ``load(version)``.
    """

    save: Callable[[int], None]
    load: Callable[[int], None]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "search.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(
            f"another process is searching in {folder}. Wait for it, or use another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def run_search(
    strategy: Strategy,
    problem: Problem,
    *,
    evaluate: Evaluate,
    folder: Path,
    adapt: Adapt | None = None,
    measure: CostFunction | None = None,
    save_supernet: Callable[[int], None] | None = None,
    load_supernet: Callable[[int], None] | None = None,
    on_progress: OnProgress | None = None,
    deadline_s: float | None = None,
    chunk: int = 1,
) -> SearchResult:
    """Run a search to its end, or until a deadline; the same call on the same folder goes on where it stopped.

    Every evaluation is journalled when it is there, the state is written after every step. Killed at any moment, at most
    the evaluations in flight (``chunk``) and an unfinished adaptation are done again, and the final front is the same to
    the bit if ``evaluate`` and ``adapt`` are deterministic.

    Args:
        strategy: A new strategy made from ``problem`` and its section.
        problem: Space, costs and limits.
        evaluate: Accuracies of the present supernet.
        folder: Run folder; holds ``search_state.json``, ``archive.jsonl`` (every evaluation), ``search_history.jsonl``
            and, with ``measure``, ``measurements.jsonl``.
        adapt: Trains the supernet between iterations; needs ``save_supernet`` and ``load_supernet``.
        measure: Measured costs of evaluated candidates, ``X -> (values, upper ends)``, used instead of predictions.
        save_supernet: Stores the supernet as a version, atomically; called with 0 before the first evaluation. Only the
            two latest versions are ever loaded again.
        load_supernet: Brings a stored version back.
        on_progress: Told the share done and a note after every step.
        deadline_s: Seconds from now after which no new evaluation starts.
        chunk: Encodings given to ``evaluate`` at once.

    Raises:
        BudgetError: Not even the cheapest architecture keeps a limit.
        RunFolderError: The folder holds another search, is damaged, or is in use.
        ValueError: Adaptation without both supernet callbacks.
    """
    if adapt is not None and (save_supernet is None or load_supernet is None):
        raise ValueError("a search that adapts its supernet needs both save_supernet and load_supernet")
    problem.check_budgets()
    stop = _deadline(deadline_s)
    identity = identity_of(strategy, problem, measure is not None, adapt is not None)
    store = SupernetStore(save_supernet, load_supernet) if save_supernet and load_supernet and adapt else None
    with _alone(folder):
        if not resume(folder, strategy, identity):
            if store:
                store.save(strategy.version)
            write_state(folder, strategy, identity)
        elif store:
            store.load(strategy.version)
        evaluations = Evaluations(folder, problem, evaluate, measure, chunk)
        while not strategy.finished and not stop():
            if not _step(strategy, evaluations, adapt, store, stop):
                break
            write_state(folder, strategy, identity)
            if on_progress is not None:
                on_progress(strategy.progress, _note(strategy))
    return SearchResult(strategy.archive, tuple(strategy.history), strategy.finished, strategy.version)


def _step(
    strategy: Strategy,
    evaluations: Evaluations,
    adapt: Adapt | None,
    store: SupernetStore | None,
    stop: Callable[[], bool],
) -> bool:
    """Ask, evaluate, tell and adapt once; returns False where the deadline came before all was evaluated."""
    X = strategy.ask()
    generation = len(strategy.history)
    told = evaluations.run(X, strategy.version, generation, stop)
    if told is None:
        return False
    strategy.tell(X, *told)
    sampler = strategy.sampler() if adapt is not None else None
    if adapt is not None and sampler is not None and store is not None:
        adapt(sampler, strategy.section.adapt_epochs)
        store.save(strategy.version + 1)
        strategy.adapted()
    return True


def _deadline(deadline_s: float | None) -> Callable[[], bool]:
    start = time.monotonic()
    return lambda: deadline_s is not None and time.monotonic() - start >= deadline_s


def _note(strategy: Strategy) -> str:
    if not strategy.history:
        return ""
    last = strategy.history[-1]
    return (
        f"iteration {last['iteration']}, {last['architectures']} architectures, hypervolume {last['hypervolume']:.4f}"
    )

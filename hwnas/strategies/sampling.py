"""First members of a search: cheap costs come first, accuracy is asked only where budgets can be kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.base import IntArray, unique_rows
from hwnas.strategies.problem import FloatArray, Problem, View

MARGIN = 0.10
"""An architecture up to 10 % above its limits is still worth its accuracy (natv2 5.3)."""

ROUNDS = 20


def eligible(view: View, G: FloatArray, margin: float = MARGIN) -> NDArray[np.bool_]:
    """Return which rows of ``G [n, n_limits]`` keep the limits of ``view`` up to ``margin``, ``[n]``."""
    return np.asarray((view.constraints(G) <= margin).all(axis=1))


def _one_step(problem: Problem, row: IntArray, smallest: IntArray, rng: np.random.Generator) -> IntArray:
    gene = int(rng.choice(np.flatnonzero(row != smallest)))
    low, high = sorted((int(row[gene]), int(smallest[gene])))
    changed = row.copy()
    changed[gene] = int(rng.choice([value for value in range(low, high + 1) if value != row[gene]]))
    repaired: IntArray = problem.space.repair(changed[None])[0]
    return repaired


def step_down(problem: Problem, view: View, X: IntArray, rng: np.random.Generator) -> IntArray:
    """Move random genes of each row towards the smallest architecture until the limits of ``view`` are kept.

    Rejection alone stalls where few architectures are feasible. Rows that still break a limit after as many steps as
    the genes have values become the smallest architecture.

    Args:
        problem: Space, costs and limits.
        view: Whose limits count.
        X: Canonical encodings, ``[n, n_genes]``.
        rng: Source of randomness.
    """
    X = problem.space.repair(X)
    smallest = problem.smallest()
    steps = int((problem.space.upper - problem.space.lower).sum())
    for step in range(steps + 1):
        broken = ~eligible(view, problem.costs(X).G, 0.0) & (smallest != X).any(axis=1)
        if not broken.any():
            break
        for index in np.flatnonzero(broken):
            X[index] = _one_step(problem, X[index], smallest, rng) if step < steps else smallest
    return X


def draw_eligible(
    problem: Problem, view: View, rng: np.random.Generator, count: int, exclude: set[bytes], *, margin: float = MARGIN
) -> IntArray:
    """Draw up to ``count`` distinct encodings that keep the limits of ``view`` up to ``margin``.

    Samples of the space that are eligible come first; if too few turn up, the others are stepped down. Fewer than
    ``count`` rows come back only where the space seems to hold no more.

    Args:
        problem: Space, costs and limits.
        view: Whose limits count.
        rng: Source of randomness.
        count: Rows wanted.
        exclude: Keys of encodings not to return.
        margin: Violation that is still accepted in samples (stepped rows keep their limits).
    """
    found = np.empty((0, problem.space.n_genes), dtype=np.int64)
    refused = found
    for _ in range(ROUNDS):
        if len(found) >= count:
            return found[:count]
        drawn = problem.space.sample(rng, max(count, 8))
        keeps = eligible(view, problem.costs(drawn).G, margin)
        found = unique_rows(np.vstack([found, drawn[keeps]]), list(exclude))
        refused = unique_rows(np.vstack([refused, drawn[~keeps]]))
    for _ in range(ROUNDS):
        missing = count - len(found)
        if missing <= 0 or not len(refused):
            break
        rows = refused[rng.permutation(len(refused))[:missing]]
        stepped = step_down(problem, view, rows, rng)
        keeps = eligible(view, problem.costs(stepped).G, 0.0)
        found = unique_rows(np.vstack([found, stepped[keeps]]), list(exclude))
    return found[:count]


def draw_for_views(
    problem: Problem,
    rng: np.random.Generator,
    count: int,
    exclude: set[bytes],
    *,
    turn: int = 0,
    margin: float = MARGIN,
) -> IntArray:
    """Draw up to ``count`` distinct eligible encodings, an equal share for every view.

    Args:
        problem: Space, costs and limits.
        rng: Source of randomness.
        count: Rows wanted.
        exclude: Keys of encodings not to return.
        turn: Rotates which views get the remainder of the division.
        margin: See :func:`draw_eligible`.
    """
    found = np.empty((0, problem.space.n_genes), dtype=np.int64)
    for view, share in zip(problem.views, shares(count, len(problem.views), turn), strict=True):
        taken = exclude | {row.tobytes() for row in found}
        found = np.vstack([found, draw_eligible(problem, view, rng, share, taken, margin=margin)])
    return found


def shares(count: int, parts: int, turn: int = 0) -> list[int]:
    """Divide ``count`` into ``parts``; the remainder goes to the parts from ``turn`` on."""
    extra = {(turn + i) % parts for i in range(count % parts)}
    return [count // parts + (part in extra) for part in range(parts)]

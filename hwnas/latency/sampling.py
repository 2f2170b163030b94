"""Which networks to measure: held-out ones chosen first, then extremes, every block once, and all sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SpaceError
from hwnas.latency.features import PHYSICAL, FeatureExtractor
from hwnas.latency.indexing import ABSENT, Ids
from hwnas.spaces.base import Architecture, IntArray, SearchSpace, unique_rows

_POOL = 4000
_COVERAGE_SHARE = 0.6


@dataclass(frozen=True)
class SamplingPlan:
    """Networks to measure.

    Attributes:
        train: Encodings the model is fitted on, ``[n, n_genes]``; the first are the smallest, the largest and those
            chosen to cover block keys, so that a cut plan keeps the most useful ones.
        held_out: Encodings that only judge the model, ``[m, n_genes]``; disjoint from ``train``.
        n_covering: How many of ``train`` are extremes or cover block keys.
        coverage: Share of the block keys of a large random pool that ``train`` holds.
    """

    train: IntArray
    held_out: IntArray
    n_covering: int
    coverage: float


def plan_networks(space: SearchSpace[Architecture], count: int, held_out: int, seed: int) -> SamplingPlan:
    """Choose networks to measure; the held-out ones depend on space and seed only, never on the others.

    Args:
        space: The space.
        count: Networks to fit on, at least 2.
        held_out: Networks to judge by.
        seed: Seed of everything.

    Raises:
        SpaceError: The space has too few architectures.
    """
    extremes = extremes_of(space)
    judges = held_out_networks(space, held_out, seed)
    rng = np.random.default_rng([seed, 2])
    pool = draw(space, rng, max(_POOL, 10 * count), [*extremes, *judges], at_most=True)
    require_enough(space, len(pool) + len(extremes), count, held_out)
    extractor = FeatureExtractor(space, "fp32")
    extreme_ids, pool_ids = extractor.ids(extremes), extractor.ids(pool)
    budget = max(0, min(int(_COVERAGE_SHARE * count), count - 2))
    covering = cover_keys(pool_ids, extreme_ids, len(extractor.indexer.keys), budget)
    macs = extractor.matrix(pool)[:, [PHYSICAL.index(name) for name in PHYSICAL if name.startswith("macs_")]]
    rest = stratified(macs.sum(axis=1), covering, count - 2 - len(covering), np.random.default_rng([seed, 3]))
    train = np.concatenate([extremes, pool[covering], pool[rest]]) if count > 1 else extremes[:1]
    share = covered_share(extractor, np.concatenate([extreme_ids, pool_ids[[*covering, *rest]]]))
    return SamplingPlan(train, judges, 2 + len(covering), share)


def plan_draws(space: SearchSpace[Architecture], count: int, held_out: int, seed: int) -> SamplingPlan:
    """Draw networks to measure at random: of a space whose networks share no blocks, none says more than another.

    Args:
        space: The space.
        count: Networks to fit on.
        held_out: Networks to judge by; they depend on space and seed only.
        seed: Seed of everything.

    Raises:
        SpaceError: The space has too few architectures.
    """
    judges = draw(space, np.random.default_rng([seed, 1]), held_out, [])
    train = draw(space, np.random.default_rng([seed, 2]), count, list(judges))
    return SamplingPlan(train, judges, 0, 1.0)


def covered_share(extractor: FeatureExtractor, ids: Ids) -> float:
    """Return the share of the block keys met so far that ``ids [n, positions]`` hold."""
    return float(np.sum(np.unique(ids) != ABSENT)) / max(len(extractor.indexer.keys), 1)


def require_enough(space: SearchSpace[Architecture], found: int, count: int, held_out: int) -> None:
    """Raise unless ``count`` networks were found beside the held-out ones.

    Raises:
        SpaceError: The space has too few architectures.
    """
    if found < count:
        raise SpaceError(
            f"space {space.name} has too few architectures for {count} measured and {held_out} held-out networks "
            f"({found} left). Lower profile.networks or profile.held_out."
        )


def extremes_of(space: SearchSpace[Architecture]) -> IntArray:
    """Return the encodings of the smallest and the largest network, ``[2, n_genes]``."""
    return np.stack([space.encode(space.smallest), space.encode(space.largest)])


def held_out_networks(space: SearchSpace[Architecture], count: int, seed: int) -> IntArray:
    """Return the networks that only judge, ``[count, n_genes]``: the same ones whatever else is measured."""
    return draw(space, np.random.default_rng([seed, 1]), count, list(extremes_of(space)))


def draw(
    space: SearchSpace[Architecture],
    rng: np.random.Generator,
    count: int,
    exclude: Sequence[IntArray],
    at_most: bool = False,
) -> IntArray:
    """Return ``count`` different random encodings, ``[count, n_genes]``, none of those in ``exclude``.

    Raises:
        SpaceError: There are not so many, and not ``at_most``.
    """
    taken = tuple({row.tobytes() for row in exclude})
    found = np.zeros((0, space.n_genes), dtype=np.int64)
    for _ in range(20):
        if len(found) >= count:
            break
        batch = space.sample(rng, max(2 * (count - len(found)), 16))
        found = unique_rows(np.concatenate([found, batch]), taken)
    if len(found) < count and not at_most:
        raise SpaceError(f"space {space.name} has too few architectures: {count} wanted, {len(found)} found.")
    return found[:count]


def cover_keys(pool: Ids, start: Ids, n_keys: int, budget: int) -> list[int]:
    """Choose rows of ``pool`` greedily, each adding the most block keys not yet seen.

    Args:
        pool: Block-key ids of the candidates, ``[n, positions]``.
        start: Ids already covered, ``[m, positions]``.
        n_keys: Number of keys there are.
        budget: Most rows to choose.
    """
    missing = np.ones(n_keys + 1, dtype=np.bool_)
    missing[n_keys] = False
    missing[start[start != ABSENT]] = False
    cells = np.where(pool == ABSENT, n_keys, pool)
    chosen: list[int] = []
    while len(chosen) < budget:
        gains = missing[cells].sum(axis=1)
        best = int(np.argmax(gains))
        if gains[best] == 0:
            break
        chosen.append(best)
        missing[cells[best]] = False
    return chosen


def stratified(size: NDArray[np.float64], taken: list[int], count: int, rng: np.random.Generator) -> list[int]:
    """Choose ``count`` rows not in ``taken``, one at random from each of ``count`` equal bands of log size ``[n]``.

    Bands are equal in log size, not in number, so that small and large networks are measured as well as the middle; an
    empty band gives its place to a random row.
    """
    free = np.setdiff1d(np.arange(len(size)), np.asarray(taken, dtype=np.int64))
    if count <= 0 or not len(free):
        return []
    logs = np.log(np.maximum(size, 1.0))
    edges = np.linspace(logs[free].min(), logs[free].max(), count + 1)[1:-1]
    bands = np.digitize(logs, edges)
    chosen = [int(rng.choice(free[bands[free] == band])) for band in range(count) if np.any(bands[free] == band)]
    left = np.setdiff1d(free, np.asarray(chosen, dtype=np.int64))
    fill = rng.permutation(left)[: count - len(chosen)]
    order = rng.permutation(np.concatenate([np.asarray(chosen, dtype=np.int64), fill]))
    return [int(index) for index in order[:count]]


def banded(score: NDArray[np.float64], count: int, rng: np.random.Generator) -> list[int]:
    """Choose at most ``count`` indices of ``score [n]``, one at random from each of ``count`` equally filled bands, in random order."""
    bands = np.array_split(np.argsort(score, kind="stable"), max(count, 1))
    return [int(index) for index in rng.permutation([int(rng.choice(band)) for band in bands if len(band)])]

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.distribution import GeneDistribution, Mixture, free_genes
from hwnas.testing.toy import ToySpace


def draw(sampler: GeneDistribution | Mixture, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([sampler.sample(rng) for _ in range(count)])


def depths(space: MobileNetV3Space, X: np.ndarray) -> np.ndarray:
    return (X[:, 2:].reshape(len(X), len(space.stages), -1) > 0).sum(axis=2)


def test_free_genes_are_those_that_repair_does_not_override(toy: ToySpace) -> None:
    X = np.array([[1, 2, 0, 0, 1, 3, 2]])
    free, valid = free_genes(toy, X)
    assert free[0].tolist() == [True, True, True, False, True, True, True]
    assert valid[1].tolist() == [True, True, True]
    assert valid[3].tolist() == [True, False, False, False]


@pytest.mark.parametrize("gene", [0, 1, 2, 3])
def test_frequencies_of_always_free_genes_are_reproduced(space: MobileNetV3Space, gene: int) -> None:
    X = space.sample(np.random.default_rng(1), 40)
    X[:, 0] = np.arange(40) % 5 == 0
    X[:, 2] = np.where(np.arange(40) < 25, 3, 7)
    distribution = GeneDistribution(space, X)
    drawn = draw(distribution, 3000)[:, gene]
    expected = distribution.probabilities[gene] * 3000
    observed = np.bincount(drawn - space.lower[gene], minlength=len(expected))
    assert observed[expected == 0].sum() == 0
    assert chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3
    counts = np.bincount(X[:, gene] - space.lower[gene], minlength=len(expected)) / 40
    assert np.abs(distribution.probabilities[gene] - counts).max() < 0.03


def test_depths_of_the_members_are_reproduced(space: MobileNetV3Space) -> None:
    X = space.sample(np.random.default_rng(2), 400)
    drawn = draw(GeneDistribution(space, X), 3000)
    for stage in range(3):
        members = np.bincount(depths(space, X)[:, stage], minlength=5)[2:] / 400
        samples = np.bincount(depths(space, drawn)[:, stage], minlength=5)[2:] / 3000
        assert np.abs(members - samples).max() < 0.04


def test_samples_are_canonical_and_within_bounds(space: MobileNetV3Space) -> None:
    for seed in range(3):
        members = space.sample(np.random.default_rng(seed), 5)
        drawn = draw(GeneDistribution(space, members), 300, seed)
        space.check_bounds(drawn)
        assert np.array_equal(space.repair(drawn), drawn)


def test_smoothing_lets_unseen_values_appear_rarely(toy: ToySpace) -> None:
    X = np.repeat(toy.encode(toy.largest)[None], 10, axis=0)
    share = (draw(GeneDistribution(toy, X), 2000)[:, 0] != 2).mean()
    assert 0.005 < share < 0.06


def test_same_generator_same_samples(toy: ToySpace) -> None:
    distribution = GeneDistribution(toy, toy.sample(np.random.default_rng(0), 8))
    assert np.array_equal(draw(distribution, 20, 4), draw(distribution, 20, 4))
    assert np.array_equal(distribution(np.random.default_rng(9)), distribution.sample(np.random.default_rng(9)))


def test_mixture_weighs_its_parts_equally(toy: ToySpace) -> None:
    low, high = toy.encode(toy.smallest)[None], toy.encode(toy.largest)[None]
    mixture = Mixture([GeneDistribution(toy, low, 1e-9), GeneDistribution(toy, np.repeat(high, 50, axis=0), 1e-9)])
    share = (draw(mixture, 1000)[:, 0] == 2).mean()
    assert 0.44 < share < 0.56


def test_needs_members(toy: ToySpace) -> None:
    with pytest.raises(ValueError, match="at least one member"):
        GeneDistribution(toy, np.empty((0, toy.n_genes), dtype=np.int64))
    with pytest.raises(ValueError, match="at least one distribution"):
        Mixture([])


def test_a_stage_is_judged_by_members_that_reach_it_and_aliases_are_never_drawn(space: MobileNetV3Space) -> None:
    space = MobileNetV3Space(**space.settings(), blocks="dense-parallel", exits="early")
    X = space.sample(np.random.default_rng(3), 200)
    last = 3 + 2 * 4  # the first layer of the last stage
    X[:, 2] = np.where(np.arange(200) < 150, 0, 2)
    X[150:, last] = np.where(np.arange(50) < 30, 63, 40)
    X = space.repair(X)
    distribution = GeneDistribution(space, X, smoothing=0.001)
    assert distribution.probabilities[2] == pytest.approx([0.75, 0, 0.25], abs=1e-3)
    found = distribution.probabilities[last]
    assert found[[62, 39]] == pytest.approx([0.6, 0.4], abs=0.01)
    assert np.count_nonzero(found) == 39
    drawn = draw(distribution, 500)
    assert np.array_equal(space.repair(drawn), drawn)
    assert set(drawn[drawn[:, 2] == 0][:, last]) == {1}

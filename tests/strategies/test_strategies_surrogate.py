from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.surrogate import AccuracySurrogate, one_hot, score
from hwnas.testing.toy import AnalyticAccuracy, ToySpace


@pytest.fixture(scope="module")
def table(space: MobileNetV3Space) -> tuple[np.ndarray, np.ndarray]:
    X = space.sample(np.random.default_rng(0), 300)
    return X, AnalyticAccuracy(space)(X)


@pytest.mark.parametrize("onehot", [False, True])
def test_ranks_held_out_architectures(
    space: MobileNetV3Space, table: tuple[np.ndarray, np.ndarray], onehot: bool
) -> None:
    X, accuracy = table
    surrogate = AccuracySurrogate(space.lower, space.upper, one_hot=onehot).fit(X[:150], accuracy[:150])
    mean, std = surrogate.predict(X[150:])
    assert kendalltau(mean, accuracy[150:]).statistic > 0.5
    assert (std > 0).all()
    assert np.abs(mean - accuracy[150:]).mean() < accuracy.std()


def test_same_seed_same_bits_another_seed_not(space: MobileNetV3Space, table: tuple[np.ndarray, np.ndarray]) -> None:
    X, accuracy = table
    first, second, other = (
        AccuracySurrogate(space.lower, space.upper, seed=seed).fit(X[:60], accuracy[:60]).predict(X)[0]
        for seed in (1, 1, 2)
    )
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()


def test_the_unit_of_the_metric_does_not_matter(space: MobileNetV3Space, table: tuple[np.ndarray, np.ndarray]) -> None:
    X, accuracy = table
    small = AccuracySurrogate(space.lower, space.upper).fit(X[:60], accuracy[:60]).predict(X)[0]
    large = AccuracySurrogate(space.lower, space.upper).fit(X[:60], 100 * accuracy[:60]).predict(X)[0]
    assert large == pytest.approx(100 * small, rel=1e-4)


def test_equal_accuracies_are_predicted_as_they_are(toy: ToySpace) -> None:
    X = toy.sample(np.random.default_rng(0), 12)
    mean, std = AccuracySurrogate(toy.lower, toy.upper).fit(X, np.full(12, 0.25)).predict(X)
    assert mean == pytest.approx(0.25)
    assert std == pytest.approx(0.0)


def test_needs_two_rows(toy: ToySpace) -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        AccuracySurrogate(toy.lower, toy.upper).fit(toy.encode(toy.smallest)[None], np.array([0.5]))


def test_one_hot_has_one_column_per_value(toy: ToySpace) -> None:
    X = toy.sample(np.random.default_rng(0), 5)
    features = one_hot(X, toy.lower, toy.upper)
    assert features.shape == (5, int((toy.upper - toy.lower + 1).sum()))
    assert (features.sum(axis=1) == toy.n_genes).all()


def test_score_of_known_rankings() -> None:
    fit = score(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.3, 0.4]))
    assert fit.tau == pytest.approx(1.0)
    assert fit.spearman == pytest.approx(1.0)
    assert fit.rmse == pytest.approx(0.1)
    assert score(np.array([0.1, 0.2]), np.array([0.2, 0.3])).tau is None
    assert score(np.array([0.1, 0.1, 0.1]), np.array([0.2, 0.3, 0.1])).tau is None

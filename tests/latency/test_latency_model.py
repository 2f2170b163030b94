from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latency_samples import CANARIES, make_rows, make_table

from hwnas.errors import FingerprintMismatchError, TableError
from hwnas.latency.base_models import fit_physical, row_weights
from hwnas.latency.conformal import Conformal
from hwnas.latency.evaluation import compare, evaluate, score
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.lut import fit_prices, monotone
from hwnas.latency.model import LatencyModel
from hwnas.latency.rows import encodings_of, latencies_of
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import unique_rows
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Fingerprint


@pytest.fixture(scope="module")
def model(table: LatencyTable, space: MobileNetV3Space) -> LatencyModel:
    return LatencyModel.fit(table, space)


def test_held_out_networks_are_predicted_to_the_noise(model: LatencyModel, table: LatencyTable) -> None:
    scores = evaluate(model, table.measured("held_out"))
    assert scores.mape < 0.02
    assert scores.within_5 > 0.9
    assert scores.spearman > 0.99
    assert 0.75 <= scores.coverage <= 1.0


def test_comparison_names_baselines_and_ceiling(
    model: LatencyModel, table: LatencyTable, space: MobileNetV3Space
) -> None:
    results = compare(table, model, space)
    assert set(results) == {"model", "without_lut", "block_lut", "macs", "test_retest"}
    assert results["model"].mape < 0.5 * results["macs"].mape
    assert results["test_retest"].mape == pytest.approx(0.01, abs=0.001)
    json.dumps({name: scores.as_dict() for name, scores in results.items()}, allow_nan=False)


def test_save_and_load_predict_the_same(
    model: LatencyModel, table: LatencyTable, space: MobileNetV3Space, tmp_path: Path
) -> None:
    model.save(tmp_path)
    assert not list(tmp_path.rglob("*.pkl"))
    X = space.sample(np.random.default_rng(1), 200)
    for loaded in (LatencyModel.load(tmp_path), LatencyModel.load(tmp_path, space, table.header.fingerprint)):
        for statistic in ("p50", "p90", "p99"):
            a, b = model.predict(X, statistic), loaded.predict(X, statistic)
            assert np.allclose(a.value, b.value, rtol=1e-12)
            assert np.allclose(a.high, b.high, rtol=1e-12)
        assert np.array_equal(a.out_of_distribution, b.out_of_distribution)
        assert loaded.canaries == CANARIES


def test_fitting_twice_gives_the_same_model(model: LatencyModel, table: LatencyTable, space: MobileNetV3Space) -> None:
    X = space.sample(np.random.default_rng(2), 50)
    again = LatencyModel.fit(table, space)
    assert np.array_equal(model.predict(X).value, again.predict(X).value)
    assert np.array_equal(model.predict(X).high, again.predict(X).high)


def test_intervals_enclose_values_and_tails_lie_above(model: LatencyModel, space: MobileNetV3Space) -> None:
    X = space.sample(np.random.default_rng(3), 100)
    middle, tail = model.predict(X), model.predict(X, "p99")
    assert np.all((middle.low < middle.value) & (middle.value < middle.high))
    assert np.allclose(tail.value / middle.value, 1.5)
    assert np.array_equal(model.predict_upper(X), middle.high)
    with pytest.raises(ValueError, match="p42"):
        model.predict(X, "p42")
    assert len(model.predict(np.zeros((0, space.n_genes), dtype=np.int64))) == 0


def test_larger_is_never_predicted_faster(model: LatencyModel, space: MobileNetV3Space) -> None:
    rng = np.random.default_rng(4)
    X = space.sample(rng, 2000)
    kernels = len(space.kernels)
    expand, kernel = np.divmod(X[:, 2:] - 1, kernels)
    expand = np.minimum(expand + (rng.random(expand.shape) < 0.3), len(space.expands) - 1)
    kernel = np.minimum(kernel + (rng.random(kernel.shape) < 0.3), kernels - 1)
    added = np.where(rng.random(expand.shape) < 0.3, rng.integers(1, space.n_codes + 1, expand.shape), 0)
    larger = X.copy()
    larger[:, 0] = np.minimum(X[:, 0] + (rng.random(len(X)) < 0.5), space.upper[0])
    larger[:, 2:] = np.where(X[:, 2:] > 0, expand * kernels + kernel + 1, added)
    assert np.all(model.predict(space.repair(larger)).value >= model.predict(X).value)


def test_noisy_block_prices_become_monotone_and_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    physical = rng.integers(0, 6, (80, 3)).astype(np.float64)
    prices = np.exp(0.3 * rng.standard_normal(80)) * (1 + physical.sum(axis=1))
    found = monotone(physical, prices)
    smaller = np.all(physical[:, None] <= physical[None], axis=2)
    assert np.all(found[:, None] <= found[None] + 1e-12, where=smaller)
    assert not np.all(prices[:, None] <= prices[None], where=smaller)
    np.testing.assert_array_equal(monotone(physical, physical.sum(axis=1)), physical.sum(axis=1))


def test_damage_and_strangers_are_refused(
    model: LatencyModel, table: LatencyTable, space: MobileNetV3Space, tmp_path: Path
) -> None:
    model.save(tmp_path)
    with pytest.raises(TableError, match="other settings"):
        LatencyModel.load(tmp_path, MobileNetV3Space(classes=10))
    other = Fingerprint({**table.header.fingerprint.identity, "cpu_model": "other"}, {})
    with pytest.raises(FingerprintMismatchError, match="cpu_model"):
        LatencyModel.load(tmp_path, space, other)
    booster = tmp_path / "residual.ubj"
    data = booster.read_bytes()
    booster.write_bytes(data[:-10])
    with pytest.raises(TableError, match="digest differs"):
        LatencyModel.load(tmp_path)
    booster.unlink()
    with pytest.raises(TableError, match="missing"):
        LatencyModel.load(tmp_path)
    booster.write_bytes(data)
    document = json.loads((tmp_path / "model.json").read_text())
    for change, message in (
        ({"schema": 7}, "schema 1, got 7"),
        ({"regressors": [{}]}, "damaged"),
        ({"features": {"names": []}}, "other features"),
        ({"conformal": 3}, "damaged"),
    ):
        (tmp_path / "model.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(TableError, match=message):
            LatencyModel.load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(TableError, match="no latency model"):
        LatencyModel.load(tmp_path)


def test_a_booster_outside_the_folder_is_refused(model: LatencyModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    document = json.loads((tmp_path / "model.json").read_text())
    document["regressors"][0]["booster"] = "../residual.ubj"
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(TableError, match="outside its folder"):
        LatencyModel.load(tmp_path)


def test_too_few_rows_are_an_error(table: LatencyTable, space: MobileNetV3Space) -> None:
    with pytest.raises(TableError, match="at least 10"):
        LatencyModel.fit(LatencyTable(table.header, table.rows[:8]), space)
    with pytest.raises(TableError, match="held-out"):
        evaluate(LatencyModel.fit(table, space, use_lut=False), ())


def test_held_out_rows_do_not_touch_the_model(
    model: LatencyModel, table: LatencyTable, space: MobileNetV3Space
) -> None:
    spoiled = [
        replace(row, value=row.latency * 3, low=row.latency * 2, high=row.latency * 4)
        if row.split == "held_out"
        else row
        for row in table.rows
    ]
    X = space.sample(np.random.default_rng(5), 50)
    other = LatencyModel.fit(LatencyTable(table.header, tuple(spoiled)), space)
    assert np.array_equal(model.predict(X).value, other.predict(X).value)


def test_rows_of_a_search_change_the_model(model: LatencyModel, table: LatencyTable, space: MobileNetV3Space) -> None:
    X = unique_rows(space.sample(np.random.default_rng(77), 30))
    rows = make_rows(space, X, "search", 0.0, 5, with_kernels=False)
    refitted, grown = model.add_rows(table, rows)
    assert refitted.facts["rows"] > model.facts["rows"]
    assert {row.key for row in rows} <= {row.key for row in grown.rows}
    assert evaluate(refitted, rows).mape < 0.02


def test_model_without_kernel_times(space: MobileNetV3Space, table: LatencyTable) -> None:
    bare = LatencyTable(table.header, tuple(replace(row, kernels={}) for row in table.rows))
    model = LatencyModel.fit(bare, space)
    assert model.full.base.prices is not None
    assert evaluate(model, bare.measured("held_out")).mape < 0.03


def test_unseen_blocks_are_priced_and_flagged(space: MobileNetV3Space) -> None:
    rng = np.random.default_rng(0)
    X = unique_rows(space.sample(rng, 400))
    low = X[(X[:, 0] == 0)][:60]
    table = make_table(space, make_rows(space, low, "train", 0.005, 1))
    model = LatencyModel.fit(table, space)
    unseen = X[(X[:, 0] == 1)][:40]
    prediction = model.predict(unseen)
    assert prediction.out_of_distribution.all()
    truth = latencies_of(make_rows(space, unseen, "train", 0.0, 1))
    assert np.median(np.abs(prediction.value / truth - 1.0)) < 0.25
    seen = model.predict(low)
    assert seen.out_of_distribution.mean() < 0.05
    extractor = FeatureExtractor(space, "fp32")
    prices = fit_prices(table.rows, extractor, np.ones(len(table.rows)))
    assert prices is not None
    extractor.ids(unseen)
    values, missing = prices.price_list(extractor)
    assert missing.any()
    assert np.all(values > 0)


def test_block_prices_sum_to_the_network(space: MobileNetV3Space, table: LatencyTable) -> None:
    extractor = FeatureExtractor(space, "fp32")
    rows = table.measured("train")
    prices = fit_prices(rows, extractor, row_weights(rows))
    assert prices is not None
    held_out = table.measured("held_out")
    sums, guessed = prices.sums(extractor, extractor.ids(encodings_of(held_out)))
    assert not guessed.any()
    assert score(sums, latencies_of(held_out)).mape < 0.03
    assert type(prices).from_dict(json.loads(json.dumps(prices.as_dict()))).as_dict() == prices.as_dict()


def test_physical_model_is_not_negative(space: MobileNetV3Space, table: LatencyTable) -> None:
    rows = table.measured("train")
    F = FeatureExtractor(space, "fp32").matrix(encodings_of(rows))
    coefficients = fit_physical(F, latencies_of(rows), row_weights(rows))
    assert np.all(coefficients >= 0)
    assert np.any(coefficients > 0)


def test_uncertain_rows_weigh_less(table: LatencyTable) -> None:
    rows = list(table.measured("train"))
    rows[0] = replace(rows[0], low=rows[0].latency * 0.8, high=rows[0].latency * 1.2)
    rows[1] = replace(rows[1], disturbed=("pressure",))
    weights = row_weights(rows)
    assert weights[0] < 0.2 * weights[2]
    assert weights[1] == pytest.approx(0.5 * weights[2])
    assert weights.mean() == pytest.approx(1.0)


def test_conformal_interval_covers() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.01, 0.05, 4000)
    residuals = rng.standard_normal(4000) * spread
    conformal = Conformal.fit(residuals[:300], spread[:300], 0.9)
    covered = np.abs(residuals[300:]) <= conformal.half_width(spread[300:])
    assert 0.86 <= covered.mean() <= 0.94


def test_scores_by_hand() -> None:
    scores = score(
        np.array([1.0, 2.16, 3.0]), np.array([1.0, 2.0, 4.0]), np.array([0.9, 2.1, 2.0]), np.array([1.1, 3.0, 5.0])
    )
    assert scores.mape == pytest.approx((0 + 0.08 + 0.25) / 3)
    assert scores.within_5 == pytest.approx(1 / 3)
    assert scores.within_10 == pytest.approx(2 / 3)
    assert scores.spearman == 1.0
    assert scores.kendall == 1.0
    assert scores.coverage == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no network"):
        score(np.zeros(0), np.zeros(0))

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import xgboost as xgb

from hwnas.errors import TableError
from hwnas.kernels.batch import Kernel, KernelBatch
from hwnas.kernels.model import KernelModel, as_measured
from hwnas.kernels.physics import CLASSES, FEATURES, GROWING, NEAR, TERMS, classes, features, terms
from hwnas.kernels.prices import PhysicalPrices
from hwnas.latency.evaluation import score
from hwnas.latency.statistics import FloatArray

OVERHEAD = 0.02


def network(rng: np.random.Generator, depthwise: bool = True) -> list[Kernel]:
    """A chain of convolutions as people build them, channels of any size."""
    side, channels = 56, 3
    kernels = []
    for _ in range(rng.integers(4, 14)):
        stride = int(rng.choice([1, 1, 2])) if side > 7 else 1
        after = -(-side // stride)
        pixels = (side * side, after * after)
        if depthwise and channels > 3 and rng.random() < 0.4:
            kernels.append(Kernel.conv((channels, channels), pixels, 9, stride=stride, groups=channels))
        else:
            wide = int(rng.integers(8, 200))
            kernels.append(Kernel.conv((channels, wide), pixels, int(rng.choice([1, 9])), stride=stride))
            channels = wide
        if rng.random() < 0.5:
            kernels[-1] = kernels[-1].with_epilogue()
        side = after
    return [*kernels, Kernel.linear(channels, 10)]


def true_prices(batch: KernelBatch) -> FloatArray:
    """Milliseconds on a device whose odd channel counts cost half as much again: no term of the model says so."""
    odd = np.where((batch["out_channels"] % 8 != 0) & (batch["macs"] > 0), 1.5, 1.0)
    rate = np.where(classes(batch) == CLASSES.index("depthwise"), 4e-7, 5e-8)
    return 0.004 + odd * (rate * batch["macs"] + 1e-7 * (batch["read"] + batch["written"]))


def latencies(batch: KernelBatch, seed: int, noise: float = 0.01) -> FloatArray:
    exact = batch.sums(true_prices(batch)) + OVERHEAD
    return exact * np.exp(noise * np.random.default_rng(seed).standard_normal(len(batch)))


def networks(seed: int, count: int, depthwise: bool = True) -> KernelBatch:
    rng = np.random.default_rng(seed)
    return KernelBatch.of([network(rng, depthwise) for _ in range(count)])


@pytest.fixture(scope="module")
def model() -> KernelModel:
    batch = networks(0, 200)
    return KernelModel.fit(batch, latencies(batch, 0))


def test_unseen_networks(model: KernelModel) -> None:
    judges = networks(1, 400)
    measured = latencies(judges, 1)
    prediction = model.predict(judges)
    found = score(prediction.value, measured, prediction.low, prediction.high)
    assert found.mape < 0.05, found
    assert found.spearman > 0.99, found
    assert 0.82 < found.coverage < 0.97, found
    physical = PhysicalPrices.fit(networks(0, 200), latencies(networks(0, 200), 0), np.ones(200))
    assert found.mape < 0.7 * score(physical.totals(judges), measured).mape, "the trees add nothing"


def test_whole_networks_teach_the_prices_of_their_kernels(model: KernelModel) -> None:
    judges = networks(2, 100)
    found, truth = model.prices(judges), true_prices(judges)
    shares = truth / judges.sums(truth)[judges.owner]
    large = shares > 0.05
    error = np.abs(found[large] / truth[large] - 1.0)
    assert np.median(error) < 0.12, np.median(error)
    np.testing.assert_allclose(judges.sums(found) + model.overhead, model.predict(judges).value)


def test_what_was_not_measured_is_flagged_and_has_a_price(model: KernelModel) -> None:
    rng = np.random.default_rng(3)
    known = network(rng)
    foreign = Kernel(kind="resize", read=56.0**2 * 64, written=112.0**2 * 64, out_channels=64)
    enormous = Kernel.conv((2048, 2048), (56**2, 56**2), 9)
    batch = KernelBatch.of([[*known, foreign], [*known, enormous]])
    assert model.predict(batch).out_of_distribution.all()
    price = model.prices(batch)[len(known)]
    moved = Kernel.conv((64, 64), (56**2, 112**2), 1)
    traffic = 1e-7 * (foreign.read + foreign.written)
    assert 0.2 * traffic < price < 5 * (traffic + true_prices(KernelBatch.of([[moved]]))[0])
    inside = model.predict(networks(1, 400)).out_of_distribution
    assert inside.mean() < 0.1


def test_a_family_is_learned_from_a_few_of_its_networks() -> None:
    plain, mobile = networks(4, 150, depthwise=False), networks(5, 220)
    y, own = latencies(plain, 4), latencies(mobile, 5)
    few, rest = np.arange(20), np.arange(20, 220)
    judges, measured = mobile.take(rest), own[rest]
    without = KernelModel.fit(plain, y).predict(judges)
    assert without.out_of_distribution.mean() > 0.9
    joined = KernelModel.fit(plain.joined(mobile.take(few)), np.concatenate([y, own[few]])).predict(judges)
    errors = [score(found.value, measured).mape for found in (without, joined)]
    assert errors[1] < 0.5 * errors[0], errors


def test_the_same_seed_gives_the_same_model(model: KernelModel) -> None:
    batch = networks(0, 200)
    again = KernelModel.fit(batch, latencies(batch, 0))
    judges = networks(6, 20)
    np.testing.assert_array_equal(again.predict(judges).value, model.predict(judges).value)
    assert again.facts == model.facts


def test_too_few_networks() -> None:
    batch = networks(0, 19)
    with pytest.raises(TableError, match="at least 20 measured networks, got 19"):
        KernelModel.fit(batch, latencies(batch, 0))


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("inf")])
def test_latencies_that_cannot_be(value: float) -> None:
    batch = networks(0, 30)
    y = latencies(batch, 0)
    y[3] = value
    with pytest.raises(TableError, match=r"the latency of network 3 is .* must be above 0"):
        KernelModel.fit(batch, y)


def test_one_latency_and_weight_for_each_network() -> None:
    batch = networks(0, 30)
    y = latencies(batch, 0)
    with pytest.raises(TableError, match="30 networks have 29 values of latency"):
        KernelModel.fit(batch, y[:-1])
    with pytest.raises(TableError, match="the weight of network 0 is 0"):
        KernelModel.fit(batch, y, np.arange(30.0))


def test_the_unit_of_weights_does_not_matter() -> None:
    batch = networks(0, 60)
    y, weights = latencies(batch, 0), np.random.default_rng(1).uniform(0.5, 2.0, 60)
    found = [KernelModel.fit(batch, y, scale * weights).predict(batch).value for scale in (1.0, 1024.0)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_corrections_grow_with_work(model: KernelModel) -> None:
    """All else equal, more work or traffic never makes the trees lower a price."""
    F = features(networks(9, 50))
    before = model.full.booster.predict(xgb.DMatrix(F), output_margin=True)
    for name in GROWING:
        more = F.copy()
        more[:, FEATURES.index(name)] += 1.0
        change = model.full.booster.predict(xgb.DMatrix(more), output_margin=True) - before
        assert change.min() >= -1e-5, name
        assert name in ("weights", "epilogue", "gates") or change.max() > 0, name


def test_more_work_never_has_a_lower_physical_price() -> None:
    batch = networks(0, 200)
    physical = PhysicalPrices.fit(batch, latencies(batch, 0), np.ones(200))
    assert (physical.table >= 0).all()
    assert physical.constant >= 0
    widths = [Kernel.conv((32, channels), (784, 784), 9) for channels in range(16, 160)]
    assert (np.diff(physical(KernelBatch.of([widths]))) >= 0).all()


def test_near_memory_is_found_from_latencies() -> None:
    """A device whose convolutions slow down where the input exceeds a size: the size comes out of whole networks."""
    batch = networks(7, 200)
    far = np.where(batch["read"] > NEAR[1], 2.0, 1.0)
    y = batch.sums(far * 5e-8 * batch["macs"]) + OVERHEAD
    physical = PhysicalPrices.fit(batch, y, np.ones(200))
    assert physical.near == NEAR[1]
    assert score(physical.totals(batch), y).mape < 0.02


def test_batches() -> None:
    batch = networks(8, 5)
    order = [3, 0, 3]
    taken = batch.take(order)
    expected = batch.sums(batch["macs"])[order]
    np.testing.assert_array_equal(taken.sums(taken["macs"]), expected)
    both = batch.joined(taken)
    np.testing.assert_array_equal(both.sums(both["macs"]), np.concatenate([batch.sums(batch["macs"]), expected]))
    assert terms(batch, NEAR[0]).shape == (len(batch.kinds), len(TERMS))
    with pytest.raises(ValueError, match="network 1 of 2 has no kernel"):
        KernelBatch.of([network(np.random.default_rng(0)), []])
    with pytest.raises(ValueError, match="kind='convolution' must be one of conv, "):
        Kernel(kind="convolution", read=1.0, written=1.0)
    with pytest.raises(ValueError, match=r"macs=-2304.0 of conv must not be negative"):
        Kernel.conv((8, 8), (4, -4), 9)


def test_shapes_of_kernels() -> None:
    depthwise = Kernel.conv((32, 32), (100, 25), 9, stride=2, groups=32)
    assert (depthwise.kind, depthwise.macs, depthwise.weights) == ("depthwise", 9 * 32 * 25, 9 * 32)
    grouped = Kernel.conv((32, 64), (100, 100), 9, groups=4)
    assert (grouped.kind, grouped.macs) == ("conv", 9 * 32 * 64 * 100 / 4)
    linear = Kernel.linear(128, 10, positions=3)
    assert (linear.macs, linear.read, linear.written) == (3840, 384, 30)
    assert replace(linear, epilogue=1) == linear.with_epilogue()
    found = classes(KernelBatch.of([[depthwise, grouped, linear, Kernel.conv((8, 8), (4, 4), 49)]]))
    assert [CLASSES[index] for index in found] == ["depthwise", "grouped", "linear", "conv_large"]


def profiled(batch: KernelBatch, seed: int, added: float = 0.002) -> FloatArray:
    """What a profile says: every kernel a little dearer, with noise, one in ten unknown."""
    rng = np.random.default_rng(seed)
    times = true_prices(batch) * np.exp(0.05 * rng.standard_normal(len(batch.owner))) + added
    times[rng.random(len(times)) < 0.1] = np.nan
    return times


def test_times_of_kernels_teach_more_than_sums_alone() -> None:
    batch, judges = networks(7, 60), networks(8, 200)
    y, measured = latencies(batch, 7), latencies(judges, 8)
    alone = KernelModel.fit(batch, y)
    taught = KernelModel.fit(batch, y, times=profiled(batch, 9))
    errors = [score(model.predict(judges).value, measured).mape for model in (alone, taught)]
    assert errors[1] < 0.75 * errors[0], errors
    truth = true_prices(judges)
    wrong = [np.median(np.abs(model.prices(judges) / truth - 1.0)) for model in (alone, taught)]
    assert wrong[1] < 0.6 * wrong[0], wrong


def test_what_a_profile_adds_to_every_kernel_is_taken_off() -> None:
    batch = networks(10, 120)
    y = batch.sums(true_prices(batch))
    found = as_measured(batch, true_prices(batch) + 0.003, y)
    np.testing.assert_allclose(found, true_prices(batch), rtol=0.02)
    unknown = profiled(batch, 11)
    assert np.array_equal(np.isnan(as_measured(batch, unknown, y)), np.isnan(unknown))


def test_a_saved_model_is_the_same(model: KernelModel) -> None:
    plain = json.loads(json.dumps(model.as_dict()))
    booster = xgb.Booster()
    booster.load_model(bytearray(model.full.booster.save_raw("ubj")))
    judges = networks(12, 20)
    again, before = KernelModel.from_dict(plain, booster).predict(judges), model.predict(judges)
    for name in ("value", "low", "high", "out_of_distribution"):
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))


def sized(rng: np.random.Generator, side: int) -> list[Kernel]:
    """Convolutions on one size of image, which tells the family."""
    pixels = (side * side, side * side)
    widths = rng.integers(2, 25, rng.integers(3, 9)) * 8
    return [Kernel.conv((int(a), int(b)), pixels, 9) for a, b in itertools.pairwise(widths)]


def test_intervals_hold_families_that_were_left_out() -> None:
    """What a family is slower by is learned with it; only folds of whole families know that others differ."""
    rng = np.random.default_rng(13)
    sides, strange = np.arange(12, 60, 5), np.arange(14, 60, 5)
    family, other = np.arange(240) % len(sides), np.arange(400) % len(strange)
    batch = KernelBatch.of([sized(rng, int(sides[number])) for number in family])
    judges = KernelBatch.of([sized(rng, int(strange[number])) for number in other])
    y = latencies(batch, 15) * np.exp(0.2 * rng.standard_normal(len(sides)))[family]
    measured = latencies(judges, 17) * np.exp(0.2 * rng.standard_normal(len(strange)))[other]
    shares = []
    for groups in (None, family):
        found = KernelModel.fit(batch, y, groups=groups).predict(judges)
        shares.append(np.mean((found.low <= measured) & (measured <= found.high)))
    assert shares[0] < 0.5, shares
    assert shares[1] > 0.75, shares


def test_a_product_of_many_positions_is_priced_as_a_convolution_of_one_pixel(model: KernelModel) -> None:
    conv = Kernel.conv((96, 384), (56**2, 56**2), 1)
    product, single = Kernel.linear(96, 384, positions=56**2), Kernel.linear(96, 384)
    batch = KernelBatch.of([[conv], [product], [single]])
    assert [CLASSES[number] for number in classes(batch)] == ["conv", "conv", "linear"]
    prices = model.prices(batch)
    assert prices[0] == prices[1] > prices[2]

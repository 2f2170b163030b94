from __future__ import annotations

import numpy as np
import pytest

from hwnas.latency import statistics
from hwnas.latency.estimation import ESTIMATORS, Logs, Shift, choose_estimator, estimate_group, leave_one_round_out
from hwnas.latency.estimation import levels as levels_of
from hwnas.latency.protocol import Protocol


def drifting(
    networks: int = 30, rounds: int = 12, drift: float = 0.3, noise: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    levels = rng.uniform(-1, 2, networks)
    effects = np.linspace(0, drift, rounds)
    return levels, levels[:, None] + effects + noise * rng.standard_normal((networks, rounds))


def test_two_way_fit_separates_networks_from_drift() -> None:
    levels, logs = drifting()
    fit = statistics.two_way_fit(logs, np.ones(len(levels), dtype=bool))
    error = (fit.network - levels) - np.median(fit.network - levels)
    assert np.max(np.abs(error)) < 0.02
    assert np.allclose(np.diff(fit.effect), 0.3 / 11, atol=0.015)
    assert fit.drift == pytest.approx(np.expm1(0.27), abs=0.03)


def test_two_way_fit_survives_missing_and_wild_cells() -> None:
    levels, logs = drifting()
    rng = np.random.default_rng(1)
    logs[rng.random(logs.shape) < 0.2] = np.nan
    logs[rng.random(logs.shape) < 0.05] += 2.0
    fit = statistics.two_way_fit(logs, np.ones(len(levels), dtype=bool))
    error = (fit.network - levels) - np.median(fit.network - levels)
    assert np.median(np.abs(error)) < 0.01
    assert np.max(np.abs(error)) < 0.06


def test_two_way_fit_takes_effects_from_the_reference_only() -> None:
    rng = np.random.default_rng(0)
    canaries = np.tile([0.0, 1.0], (6, 1)).T + 0.0
    own_noise = 0.2 * rng.standard_normal((1, 6))
    logs = np.concatenate([canaries, own_noise])
    fit = statistics.two_way_fit(logs, np.array([True, True, False]))
    assert np.allclose(fit.effect, 0.0)
    assert np.allclose(fit.residual[2], own_noise[0] - np.median(own_noise))


@pytest.mark.parametrize(
    ("half", "known", "grade"), [(0.015, True, "A"), (0.04, True, "B"), (0.06, True, "C"), (0.001, False, "C")]
)
def test_grades(half: float, known: bool, grade: str) -> None:
    assert statistics.grade_of(2.0, 2.0 * (1 - half), 2.0 * (1 + half), known) == grade


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((400, 12))
    draws = statistics.bootstrap_medians(values, rng, 300)
    low, high = statistics.interval_of(np.median(values, axis=1), draws, 12, 0.95)
    covered = float(np.mean((low <= 0) & (high >= 0)))
    assert 0.92 <= covered <= 0.995


def test_few_rounds_widen_the_interval() -> None:
    factors = [statistics.small_sample_factor(units, 0.95) for units in (3, 6, 12, 50)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] < 1.05


def test_percentiles_keep_the_tail() -> None:
    samples = np.concatenate([np.ones(95), np.full(5, 50.0)])
    assert statistics.percentiles_of(samples)["p99"] == 50.0
    assert statistics.median_deviation(samples) == 0.0


def _logs(p10: np.ndarray, p50: np.ndarray) -> Logs:
    canary = np.zeros(len(p50), dtype=bool)
    canary[:2] = True
    return Logs(p10, p50, canary)


def test_correction_is_chosen_when_rounds_are_missing_under_drift() -> None:
    _, p50 = drifting(40, 10, drift=0.6, noise=0.01)
    rng = np.random.default_rng(5)
    p50[2:][rng.random((38, 10)) < 0.4] = np.nan
    name, errors = choose_estimator([_logs(p50 - 0.1, p50)])
    assert name.endswith("-corrected")
    assert errors["p50-corrected"] < 0.5 * errors["p50-raw"]


def test_low_quantile_is_chosen_when_medians_are_noisy_and_it_is_not() -> None:
    levels, p10 = drifting(40, 8, drift=0.0, noise=0.002)
    rng = np.random.default_rng(6)
    p50 = levels[:, None] + 0.1 + 0.15 * rng.standard_normal(p10.shape)
    name, errors = choose_estimator([_logs(p10, p50)])
    assert name.startswith("p10")
    assert errors[name] < errors["p50-raw"]


def test_the_lowest_is_chosen_when_slow_phases_hit_single_networks_most_of_the_time() -> None:
    levels, p10 = drifting(60, 8, drift=0.0, noise=0.01)
    rng = np.random.default_rng(7)
    # each network is slowed on its own in most rounds, by up to 60 %
    slowed = np.where(rng.random(p10.shape) < 0.65, 0.6 * rng.random(p10.shape), 0.0)
    found = levels_of(_logs(p10 + slowed, p10 + slowed + 0.05))
    name, errors = choose_estimator([_logs(p10 + slowed, p10 + slowed + 0.05)])
    assert name == "p10-lowest"
    assert errors["p10-lowest"] < errors["p10-corrected"]

    def scatter(estimate: np.ndarray) -> float:
        return float(np.std(estimate - levels))

    assert scatter(found["p10-lowest"]) < 0.2 * scatter(found["p50-corrected"])


@pytest.mark.parametrize("slowed", [0.0, 0.2, 0.65])
def test_intervals_of_the_lowest_cover_about_as_often_as_they_say(slowed: float) -> None:
    rng = np.random.default_rng(8)

    def floors_of(networks: int) -> np.ndarray:
        shape = (networks, 12)
        phases = np.where(rng.random(shape) < slowed, 0.5 * rng.random(shape), 0.0)
        return np.asarray(phases + 0.02 * np.abs(rng.standard_normal(shape)))

    expected = float(floors_of(20_000).min(axis=1).mean())
    values = floors_of(400)
    half = statistics.lowest_half_width(values, rng, 400, 0.95)
    assert 0.92 <= np.mean(np.abs(values.min(axis=1) - expected) <= half) <= 0.99


def test_intervals_of_the_lowest_hold_the_median_that_verification_measures() -> None:
    rng = np.random.default_rng(0)
    covered: list[bool] = []
    for _ in range(8):
        levels = np.sort(rng.uniform(-1.0, 1.0, 60))

        def phases(columns: int) -> np.ndarray:
            shape = (60, columns)
            slowed = 0.45 * rng.random(shape) * (rng.random(shape) < 0.65)
            return np.asarray(slowed + 0.01 * np.abs(rng.standard_normal(shape)))

        truth = levels + np.median(phases(4000), axis=1)
        p10 = levels[:, None] + phases(12)
        estimate = estimate_group(Logs(p10, p10, np.zeros(60, dtype=bool)), rng, 200, 0.95)
        below, above = estimate.half_log["p10-lowest"]
        found = estimate.level["p10-lowest"]
        covered += list((found - below <= truth) & (truth <= found + above))
    assert 0.9 <= np.mean(covered) <= 0.99


def test_the_lowest_ignores_missing_rounds() -> None:
    values = np.array([[np.nan, 2.0, 1.0], [np.nan, np.nan, np.nan]])
    lowest = statistics.nanmin(values, axis=1)
    assert lowest[0] == 1.0
    assert np.isnan(lowest[1])


def test_simplest_estimator_is_kept_on_a_calm_machine() -> None:
    _, p50 = drifting(40, 8, drift=0.0, noise=0.01)
    assert choose_estimator([_logs(p50 - 0.05, p50)])[0] == "p50-raw"


def test_too_few_rounds_give_no_choice() -> None:
    _, p50 = drifting(5, 3)
    assert choose_estimator([_logs(p50, p50)]) == ("p50-raw", {})


def test_leave_one_round_out_reports_every_estimator() -> None:
    _, p50 = drifting(20, 5)
    assert set(leave_one_round_out(_logs(p50, p50))) == set(ESTIMATORS)


def test_shift_is_interpolated_between_canaries_and_clamped_beyond() -> None:
    reference = np.log([0.1, 2.0])
    shift = Shift.between(reference + np.array([0.30, 0.10]), np.array([0.01, 0.02]), reference)
    assert shift.significant
    offsets, errors = shift.at(np.log([0.05, 0.1 * np.e**0.3, 2.0 * np.e**0.1, 50.0]))
    assert np.allclose(offsets, [0.30, 0.30, 0.10, 0.10])
    assert np.allclose(errors, [0.01, 0.01, 0.02, 0.02])
    middle = float(shift.at(np.array([np.log(0.5)]))[0][0])
    assert 0.10 < middle < 0.30


def test_small_shift_is_not_significant_and_missing_canaries_are_left_out() -> None:
    reference = np.log([0.1, 2.0])
    assert not Shift.between(reference + 0.005, np.array([0.01, 0.01]), reference).significant
    one = Shift.between(np.array([np.nan, np.log(2.2)]), np.array([0.01, 0.01]), reference)
    assert len(one.shift) == 1
    assert not Shift.between(np.full(2, np.nan), np.ones(2), reference).significant


def test_protocol_survives_json_and_refuses_nonsense() -> None:
    protocol = Protocol(rounds=7, canary_period=3)
    assert Protocol.from_dict(protocol.as_dict()) == protocol
    with pytest.raises(ValueError, match="rounds=0"):
        Protocol(rounds=0)
    with pytest.raises(ValueError, match=r"confidence=1\.5"):
        Protocol(confidence=1.5)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from hwnas.artifacts.verification import check_gate, compare_outputs, gate_counts, verdict
from hwnas.errors import ArtifactError


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    statistic: str = "p50"


def serve(*intervals: Interval) -> Callable[[], Interval]:
    queue = list(intervals)
    return lambda: queue.pop(0)


KEPT, BROKEN, OPEN = Interval(2.0, 2.9), Interval(3.1, 3.4), Interval(2.9, 3.1)


@pytest.mark.parametrize(
    ("intervals", "kind", "tries"),
    [
        ((KEPT,), "kept", 1),
        ((Interval(2.0, 3.0),), "kept", 1),
        ((BROKEN,), "broken", 1),
        ((OPEN, KEPT), "kept", 2),
        ((OPEN, OPEN, BROKEN), "broken", 3),
        ((OPEN, OPEN, OPEN, KEPT), "kept", 4),
        ((OPEN, OPEN, OPEN, OPEN), "broken", 4),
        ((Interval(3.0, 3.2), Interval(3.0, 3.2), Interval(3.0, 3.2), Interval(3.0, 3.2)), "broken", 4),
    ],
)
def test_verdict_table(intervals: tuple[Interval, ...], kind: str, tries: int) -> None:
    outcome = verdict(serve(*intervals), 3.0, "p50")
    assert (outcome.kind, outcome.tries) == (kind, tries)
    assert outcome.decisive == intervals[tries - 1]


def test_the_number_of_attempts_can_be_set() -> None:
    assert verdict(serve(OPEN), 3.0, "p50", attempts=1).kind == "broken"


def test_a_verdict_needs_the_statistic_of_the_budget_and_a_sane_budget() -> None:
    with pytest.raises(ValueError, match="the budget is on p99"):
        verdict(serve(KEPT), 3.0, "p99")
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="budget_ms"):
            verdict(serve(KEPT), budget, "p50")


def test_comparison_takes_the_worst_image() -> None:
    reference = np.array([[3.0, 4.0], [30.0, 40.0]])
    found = reference.copy()
    found[0, 0] += 0.05
    entry = compare_outputs(reference, found, 1e-4)
    assert entry.relative_l2 == pytest.approx(0.01)
    assert entry.max_abs == pytest.approx(0.05)
    assert entry.argmax_agreement == 1.0
    assert entry.cosine < 1.0
    assert entry.images == 2


def test_comparison_refuses_other_shapes_and_numbers_that_are_none() -> None:
    with pytest.raises(ArtifactError, match="shape"):
        compare_outputs(np.zeros((2, 3)), np.zeros((2, 4)), None)
    with pytest.raises(ArtifactError, match="NaN"):
        compare_outputs(np.ones((2, 3)), np.full((2, 3), np.nan), None)


def test_all_zero_outputs_compare_as_equal() -> None:
    entry = compare_outputs(np.zeros((2, 3)), np.zeros((2, 3)), 1e-4)
    assert entry.relative_l2 == 0.0
    assert entry.cosine == 1.0


@pytest.mark.parametrize(
    ("images", "lost", "gained", "max_drop", "allowed", "passes"),
    [
        (50, 1, 0, 0.01, 1, True),
        (50, 2, 0, 0.01, 1, False),
        (50, 5, 4, 0.01, 1, True),
        (1000, 10, 0, 0.01, 10, True),
        (1000, 11, 0, 0.01, 10, False),
        (50, 0, 0, 0.0, 0, True),
        (50, 1, 0, 0.0, 0, False),
        (50, 0, 5, 0.0, 0, True),
    ],
)
def test_gate_counts_images(images: int, lost: int, gained: int, max_drop: float, allowed: int, passes: bool) -> None:
    reference, found = np.zeros(images, bool), np.zeros(images, bool)
    reference[: 20 + lost], found[:20] = True, True
    found[images - gained :] = True
    counts = gate_counts(reference, found, max_drop)
    assert (counts.lost, counts.gained, counts.allowed) == (lost, gained, allowed)
    assert counts.correct == 20 + gained
    if passes:
        check_gate(counts, "int8", max_drop)
    else:
        with pytest.raises(ArtifactError, match=f"lost {lost}, gained {gained}"):
            check_gate(counts, "int8", max_drop)

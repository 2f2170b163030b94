from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import Member, encodings_of, front, members_of
from hwnas.strategies.confirming import CONFIRMED, Confirmation, Standing, read_confirmed
from hwnas.strategies.problem import FloatArray, Problem
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem

EVERY = 9_000
FEW = 100


class Readings:
    """True accuracies, and readings of them on the first images of a fixed order: binomial, and the same at every call."""

    def __init__(self, space: ToySpace, seed: int = 0) -> None:
        self.true = AnalyticAccuracy(space, seed)
        self.asked: list[tuple[bytes, int]] = []
        self._right: dict[bytes, FloatArray] = {}

    def __call__(self, X: IntArray, images: int) -> FloatArray:
        self.asked += [(row.tobytes(), images) for row in X]
        return np.array([self.one(row, images) for row in X])

    def one(self, row: IntArray, images: int) -> float:
        key = row.tobytes()
        if key not in self._right:
            p = float(self.true(row[None])[0])
            right = np.random.default_rng([int(gene) for gene in row]).random(EVERY) < p
            self._right[key] = np.cumsum(right) / np.arange(1, EVERY + 1)
        return float(self._right[key][images - 1])


@pytest.fixture
def problem(toy: ToySpace) -> Problem:
    return macs_problem(toy)


@pytest.fixture
def readings(toy: ToySpace) -> Readings:
    return Readings(toy)


def standings_of(toy: ToySpace, problem: Problem, readings: Readings, count: int | None = None) -> list[Standing]:
    X = toy.enumerate()[::11][:count]
    accuracy = np.array([readings.one(row, FEW) for row in X])
    members = members_of(X, accuracy, problem.costs(X), 0, 0)
    return [Standing(member, FEW, 0.0) for member in members]


def confirmation(problem: Problem, readings: Readings, folder: Path, spare: int = 3) -> Confirmation:
    return Confirmation(problem, readings, folder, version=0, every=EVERY, spare=spare)


def keys(members: list[Member]) -> set[bytes]:
    return {member.key for member in members}


def test_the_front_is_that_of_all_images_and_few_are_read_to_the_end(
    toy: ToySpace, problem: Problem, readings: Readings, tmp_path: Path
) -> None:
    standings = standings_of(toy, problem, readings)
    confirmed = confirmation(problem, readings, tmp_path).run(standings)
    X = encodings_of([standing.member for standing in standings])
    at_length = members_of(X, np.array([readings.one(row, EVERY) for row in X]), problem.costs(X), 0, 0)
    wanted = keys(front(at_length, problem.views[0]))
    found = keys(front(confirmed, problem.views[0]))
    assert len(wanted & found) / len(wanted) >= 0.8
    assert len(confirmed) < len(standings) / 2
    lucky = keys(front([standing.member for standing in standings], problem.views[0]))
    assert len(wanted & lucky) < len(wanted & found)


def test_readings_grow_step_by_step(toy: ToySpace, problem: Problem, readings: Readings, tmp_path: Path) -> None:
    confirmation(problem, readings, tmp_path).run(standings_of(toy, problem, readings))
    counts = {images: sum(found == images for _, found in readings.asked) for _, images in readings.asked}
    assert sorted(counts) == [300, 900, 2700, 8100, EVERY]
    assert counts[300] > counts[EVERY]


def test_nothing_that_was_read_is_read_again(
    toy: ToySpace, problem: Problem, readings: Readings, tmp_path: Path
) -> None:
    standings = standings_of(toy, problem, readings)
    first = confirmation(problem, readings, tmp_path).run(standings)
    assert len(set(readings.asked)) == len(readings.asked)
    before = len(readings.asked)
    assert confirmation(problem, readings, tmp_path).run(standings) == first
    assert len(readings.asked) == before


def test_interrupted_at_any_reading_it_ends_in_the_same_front(
    toy: ToySpace, problem: Problem, readings: Readings, tmp_path: Path
) -> None:
    standings = standings_of(toy, problem, readings)
    undisturbed = confirmation(problem, readings, tmp_path / "a").run(standings)
    total, found = len(readings.asked), None
    for stop in range(0, total, max(1, total // 5)):

        def read(X: IntArray, images: int, left: list[int] = [stop]) -> FloatArray:  # noqa: B006 - counts down
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return readings(X, images)

        try:
            found = Confirmation(problem, read, tmp_path / "b", version=0, every=EVERY, spare=3).run(standings)
        except KeyboardInterrupt:
            continue
    found = confirmation(problem, readings, tmp_path / "b").run(standings)
    assert found == undisturbed


def test_the_confirmed_are_read_back_from_the_folder(
    toy: ToySpace, problem: Problem, readings: Readings, tmp_path: Path
) -> None:
    standings = standings_of(toy, problem, readings)
    members = [standing.member for standing in standings]
    assert read_confirmed(tmp_path, members, 0) == []
    confirmed = confirmation(problem, readings, tmp_path).run(standings)
    again = read_confirmed(tmp_path, members, 0)
    assert {member.key: member.accuracy for member in again} == {m.key: m.accuracy for m in confirmed}
    assert read_confirmed(tmp_path, members, 1) == []
    assert all(json.loads(line)["of"] == EVERY for line in (tmp_path / CONFIRMED).read_text().splitlines())


def test_a_doubtful_member_is_read_although_it_looks_worse(
    toy: ToySpace, problem: Problem, readings: Readings, tmp_path: Path
) -> None:
    standings = standings_of(toy, problem, readings, 40)
    best = front([standing.member for standing in standings], problem.views[0])
    worst = next(standing for standing in standings if standing.member not in best)
    doubtful = [Standing(s.member, s.images, 1.0 if s is worst else 0.0) for s in standings]
    confirmed = confirmation(problem, readings, tmp_path, spare=0).run(doubtful)
    assert worst.member.key in keys(confirmed) | {key for key, _ in readings.asked}


def test_the_most_accurate_are_read_where_a_front_would_be_too_small(
    toy: ToySpace, problem: Problem, readings: Readings, tmp_path: Path
) -> None:
    standings = standings_of(toy, problem, readings)
    few = confirmation(problem, readings, tmp_path / "a", spare=0).run(standings)
    more = confirmation(problem, readings, tmp_path / "b", spare=12).run(standings)
    assert keys(few) < keys(more)


def test_nothing_to_confirm_is_no_error(problem: Problem, readings: Readings, tmp_path: Path) -> None:
    assert confirmation(problem, readings, tmp_path).run([]) == []

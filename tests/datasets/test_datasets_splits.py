"""Splits: disjoint, covering, stratified, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.config import DataSection
from hwnas.datasets.data import load_data
from hwnas.datasets.sources import TEST, TRAIN, VALIDATION
from hwnas.datasets.splits import SPLITS, split_rows
from hwnas.errors import DataError


def labels_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts).astype(np.int64)


def untold(labels: np.ndarray) -> np.ndarray:
    return np.full(len(labels), TRAIN, dtype=np.int8)


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(4, 60), min_size=2, max_size=6),
    seed=st.integers(0, 5),
    fractions=st.tuples(st.floats(0.02, 0.4), st.floats(0.02, 0.4), st.floats(0.02, 0.7)),
)
def test_disjoint_covering_every_class_everywhere(
    counts: list[int], seed: int, fractions: tuple[float, float, float]
) -> None:
    labels = labels_of(counts)
    validation, gate, test = fractions
    section = DataSection(source="digits", validation=validation, gate=gate, test=test, seed=seed)
    rows = split_rows(labels, untold(labels), section)
    everything = np.concatenate([rows[name] for name in SPLITS])
    assert sorted(everything.tolist()) == list(range(len(labels)))
    for name in SPLITS:
        assert set(labels[rows[name]]) == set(range(len(counts))), name


def test_stratified_in_the_asked_proportions() -> None:
    labels = labels_of([1000, 200, 400])
    rows = split_rows(labels, untold(labels), DataSection(source="digits", validation=0.15, gate=0.05, test=0.2))
    for label, count in enumerate([1000, 200, 400]):
        found = {name: int((labels[rows[name]] == label).sum()) for name in SPLITS}
        assert found == {
            "train": round(0.64 * count),
            "validation": round(0.12 * count),
            "gate": round(0.04 * count),
            "test": round(0.2 * count),
        }


def test_same_seed_same_rows_other_seed_other_rows() -> None:
    labels = labels_of([50, 50])

    def rows(seed: int) -> list[list[int]]:
        found = split_rows(labels, untold(labels), DataSection(source="digits", seed=seed))
        return [found[name].tolist() for name in SPLITS]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_the_first_images_of_a_split_are_a_mixed_sample() -> None:
    labels = labels_of([300, 300, 300])
    rows = split_rows(labels, untold(labels), DataSection(source="digits"))
    for name in SPLITS:
        counts = np.bincount(labels[rows[name][:30]], minlength=3)
        assert counts.min() >= 2, name


def test_given_parts_are_kept() -> None:
    labels = labels_of([60, 60])
    parts = np.tile(np.array([TRAIN, TRAIN, TRAIN, VALIDATION, TEST, TEST], dtype=np.int8), 20)
    rows = split_rows(labels, parts, DataSection(source="digits"))
    assert sorted(rows["test"]) == np.flatnonzero(parts == TEST).tolist()
    assert sorted(rows["validation"]) == np.flatnonzero(parts == VALIDATION).tolist()
    assert sorted([*rows["train"], *rows["gate"]]) == np.flatnonzero(parts == TRAIN).tolist()


@pytest.mark.parametrize("limit", [4, 10, 33])
def test_max_train_limits_training_only_and_keeps_proportions(limit: int) -> None:
    labels = labels_of([300, 100])
    free = split_rows(labels, untold(labels), DataSection(source="digits"))
    bound = split_rows(labels, untold(labels), DataSection(source="digits", max_train=limit))
    assert len(bound["train"]) == limit
    assert set(bound["train"]) <= set(free["train"])
    for name in ("validation", "gate", "test"):
        assert bound[name].tolist() == free[name].tolist()
    assert abs(int((labels[bound["train"]] == 1).sum()) - limit / 4) <= 1


def test_two_images_a_class_are_not_enough() -> None:
    labels = labels_of([2, 2])
    with pytest.raises(DataError, match=r"the gate split has 0 images.*data\.gate"):
        split_rows(labels, untold(labels), DataSection(source="digits"))


def test_fractions_that_leave_nothing() -> None:
    labels = labels_of([50, 50])
    with pytest.raises(DataError, match=r"data\.validation=0\.6 and data\.gate=0\.5 leave nothing"):
        split_rows(labels, untold(labels), DataSection(source="digits", validation=0.6, gate=0.5))


def test_the_digest_names_images_and_splits() -> None:
    def digest(**settings: object) -> str:
        return load_data(DataSection.model_validate({"source": "digits", "image_size": 8, **settings})).digest

    assert digest() == digest()
    assert len({digest(), digest(seed=1), digest(image_size=16), digest(max_train=100)}) == 4

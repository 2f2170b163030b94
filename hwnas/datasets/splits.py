"""Which image belongs to which split: stratified by class, disjoint, the same for the same seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.config import DataSection
from hwnas.datasets.sources import TEST, TRAIN, VALIDATION
from hwnas.errors import DataError

IntArray = NDArray[np.int64]

SPLITS = ("train", "validation", "gate", "test")

_SMALLEST = {"train": 2, "validation": 2, "gate": 1, "test": 1}


def _shares(count: int, fractions: dict[str, float]) -> dict[str, int]:
    """Return how many of ``count`` images of one class go to each named split; the rest is for training.

    Every split gets at least one image while there are enough; training comes first, then the order of ``fractions``.
    """
    sizes = {name: max(1, round(fraction * count)) for name, fraction in fractions.items()}
    while sum(sizes.values()) >= count and max(sizes.values(), default=0) > 1:
        sizes[max(sizes, key=lambda name: sizes[name])] -= 1
    for name in reversed(list(sizes)):
        if sum(sizes.values()) >= count:
            sizes[name] = 0
    return sizes


def _stratified(
    rows: IntArray, labels: IntArray, fractions: dict[str, float], rng: np.random.Generator
) -> dict[str, IntArray]:
    """Deal ``rows`` class by class; the key ``rest`` holds what no fraction took."""
    dealt: dict[str, list[IntArray]] = {name: [] for name in (*fractions, "rest")}
    for label in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == label])
        start = 0
        for name, size in _shares(len(members), fractions).items():
            dealt[name].append(members[start : start + size])
            start += size
        dealt["rest"].append(members[start:])
    empty = np.zeros(0, dtype=np.int64)
    return {name: np.concatenate([empty, *parts]) for name, parts in dealt.items()}


def _limited(rows: IntArray, labels: IntArray, limit: int) -> IntArray:
    """Keep ``limit`` rows, the classes in the proportions they have (each at least once while there is room)."""
    order = np.argsort(labels[rows], kind="stable")
    rank = np.empty(len(rows), dtype=np.float64)
    for label in np.unique(labels[rows]):
        members = order[labels[rows][order] == label]
        rank[members] = np.arange(len(members)) / len(members)
    return rows[np.sort(np.argsort(rank, kind="stable")[:limit])]


def split_rows(labels: IntArray, parts: NDArray[np.int8], section: DataSection) -> dict[str, IntArray]:
    """Return the rows of each split in a seeded random order.

    A test set that came with the data stays the test set (a validation set alone serves as one); otherwise the fraction
    ``section.test`` of the images becomes it. ``section.validation`` and ``section.gate`` are fractions of what then
    remains, and training takes the rest, at most ``section.max_train`` images.

    Args:
        labels: Class of each image, shape ``[n]``.
        parts: The part each image was given for, shape ``[n]``.
        section: Fractions, limit and seed.

    Raises:
        DataError: A split would be empty or too small.
    """
    if section.validation + section.gate >= 1:
        raise DataError(
            f"data.validation={section.validation} and data.gate={section.gate} leave nothing to train on; "
            "their sum must be below 1."
        )
    rng = np.random.default_rng(section.seed)
    given = {part: np.flatnonzero(parts == part) for part in (TRAIN, VALIDATION, TEST)}
    if not len(given[TEST]):
        given = {TRAIN: given[TRAIN], VALIDATION: given[TEST], TEST: given[VALIDATION]}
    rest, test, validation = given[TRAIN], given[TEST], given[VALIDATION]
    if not len(test):
        # Dealt in one go, so that a small class keeps an image in every split; fractions are of all images here.
        left = 1 - section.test
        fractions = {"validation": section.validation * left, "test": section.test, "gate": section.gate * left}
    else:
        fractions = {"validation": section.validation, "gate": section.gate}
    if len(validation):
        del fractions["validation"]
    dealt = _stratified(rest, labels, fractions, rng)
    rows = {
        "train": dealt["rest"],
        "validation": dealt.get("validation", validation),
        "gate": dealt["gate"],
        "test": dealt.get("test", test),
    }
    rows = {name: rng.permutation(rows[name]) for name in SPLITS}
    if section.max_train is not None:
        rows["train"] = _limited(rows["train"], labels, section.max_train)
    _check_sizes(rows)
    return rows


def _check_sizes(rows: dict[str, IntArray]) -> None:
    for name, smallest in _SMALLEST.items():
        if len(rows[name]) < smallest:
            raise DataError(
                f"the {name} split has {len(rows[name])} images of {sum(map(len, rows.values()))}, at least {smallest} "
                "needed. Give more images or other fractions (data.validation, data.gate, data.test)."
            )

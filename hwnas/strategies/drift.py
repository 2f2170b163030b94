"""How accuracies move when the supernet adapts, so that what is not evaluated again can still be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwnas.strategies.archive import Member, accuracy_of
from hwnas.strategies.problem import FloatArray

UNKNOWN_STD = 0.02
"""Spread that is assumed of a step on which fewer than :data:`ENOUGH` networks were evaluated before and after it."""

ENOUGH = 4


class Drift:
    """Mean and standard deviation of the change of accuracy, from each version of the supernet to the next.

    Networks of one supernet move together: most of the change is common to all, and the rest is what one has to doubt
    about a network that was not evaluated again.
    """

    def __init__(self) -> None:
        self._steps: dict[int, list[float]] = {}

    def learn(self, before: Sequence[Member], accuracy: FloatArray, version: int) -> None:
        """Take the accuracies ``[n]`` at ``version`` of members that were evaluated earlier.

        Args:
            before: The members as they were.
            accuracy: What they read now.
            version: Version of the supernet they were read at.
        """
        expected = self.estimate(before, version - 1)[0]
        changes = self._steps.setdefault(version, [])
        changes.extend(float(new - old) for new, old in zip(accuracy, expected, strict=True))

    def _step(self, version: int) -> tuple[float, float]:
        changes = self._steps.get(version, [])
        mean = float(np.mean(changes)) if changes else 0.0
        return mean, float(np.std(changes, ddof=1)) if len(changes) >= ENOUGH else UNKNOWN_STD

    def estimate(self, members: Sequence[Member], version: int) -> tuple[FloatArray, FloatArray]:
        """Return the accuracy members would read at ``version``, and its standard deviation, each ``[n]``."""
        accuracy = accuracy_of(members)
        variance = np.zeros(len(members))
        ages = np.array([member.version for member in members], dtype=np.int64)
        for step in range(int(ages.min(initial=version)) + 1, version + 1):
            mean, std = self._step(step)
            accuracy = accuracy + np.where(ages < step, mean, 0.0)
            variance = variance + np.where(ages < step, std**2, 0.0)
        return accuracy, np.sqrt(variance)

    def present(self, members: Sequence[Member], version: int) -> list[Member]:
        """Return the members with the accuracies they are estimated to have at ``version``."""
        accuracy, _ = self.estimate(members, version)
        return [replace(member, accuracy=float(value)) for member, value in zip(members, accuracy, strict=True)]

    def state(self) -> dict[str, Any]:
        """Return plain data."""
        return {str(version): list(changes) for version, changes in self._steps.items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Drift:
        """Read what :meth:`state` gave."""
        drift = cls()
        drift._steps = {int(version): [float(change) for change in changes] for version, changes in state.items()}
        return drift

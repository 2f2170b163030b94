"""How long the rest of a training will take, from the steps done since it was started."""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.supernets.phases import Phase

TEACHER_SHARE = 1 / 3
"""A forward pass is about a third of a training step."""


class Pace:
    """Steps are weighed by the networks they train: a step of four takes about four times as long as one of one.

    Args:
        schedule: Each phase with its number of steps.
        done: Steps done before this start.
    """

    def __init__(self, schedule: Sequence[tuple[Phase, int]], done: int) -> None:
        self._schedule = tuple(schedule)
        self._before = self._work(done)
        self._total = self._work(sum(steps for _, steps in schedule))

    def _work(self, done: int) -> float:
        work = 0.0
        for phase, steps in self._schedule:
            work += min(done, steps) * (phase.subnets + (TEACHER_SHARE if phase.distil else 0))
            done = max(0, done - steps)
        return work

    def seconds_left(self, done: int, seconds: float) -> float:
        """Return the seconds left.

        Args:
            done: Steps done in all; more than before this start.
            seconds: Time spent since.
        """
        work = self._work(done)
        return seconds * (self._total - work) / (work - self._before)


def in_words(seconds: float) -> str:
    """Return a time left as a person would say it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""What a search found on few images, read again on more: successive halving by confidence bounds.

A search that reads accuracies on some hundred images keeps the networks that were lucky on them. In the end those that may be
on a front, were they better than read by :data:`DOUBT` standard errors, are read on :data:`GROWTH` times as many images, again
and again, until all images have decided. Only those that were read on all images are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwnas.files import Journal
from hwnas.progress import Advance
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import Member, accuracy_of, encodings_of, key_of, objectives_of
from hwnas.strategies.problem import FloatArray, Problem, View
from hwnas.strategies.sorting import non_dominated

CONFIRMED = "confirmed.jsonl"
GROWTH = 3
DOUBT = 2.0

Read = Callable[[IntArray, int], FloatArray]
"""``read(X [n, n_genes], images) -> accuracy [n]`` on the first ``images`` validation images."""


@dataclass(frozen=True)
class Standing:
    """What is known of a member: accuracy on ``images`` images, and what else one has to doubt about it."""

    member: Member
    images: int
    std: float


def read_confirmed(folder: Path, members: Iterable[Member], version: int) -> list[Member]:
    """Return the members that were read on all images at this version of the supernet, with that accuracy."""
    if not (folder / CONFIRMED).is_file():
        return []
    accuracy = {
        key_of(record["encoding"]): float(record["accuracy"])
        for record in Journal(folder / CONFIRMED)
        if record["images"] == record["of"] and record["version"] == version
    }
    found = [member for member in members if member.key in accuracy]
    return [replace(member, accuracy=accuracy[member.key], version=version) for member in found]


class Confirmation:
    """Reads contenders on more and more images; what was read is journalled and never read again.

    Args:
        problem: Views whose fronts count.
        read: Accuracies of the present supernet.
        folder: Holds ``confirmed.jsonl``.
        version: Version of the supernet.
        every: All validation images.
        spare: How many of the most accurate members of a view are contenders besides its front.
    """

    def __init__(self, problem: Problem, read: Read, folder: Path, *, version: int, every: int, spare: int) -> None:
        self._problem = problem
        self._read = read
        self._version = version
        self._every = every
        self._spare = spare
        self._journal = Journal(folder / CONFIRMED)
        self._known = {
            (key_of(record["encoding"]), int(record["images"])): float(record["accuracy"])
            for record in self._journal
            if record["version"] == version and record["of"] == every
        }

    def run(self, standings: Iterable[Standing], on_progress: Advance | None = None) -> list[Member]:
        """Read until nothing that is not read on all images may be on a front.

        Args:
            standings: What the search knows of its members.
            on_progress: Told of every reading; steps add up to 1 at most.

        Returns:
            The members that were read on all images.
        """
        now = {standing.member.key: standing for standing in standings}
        total = max(len(now), 1)
        while chosen := self._contenders(list(now.values())):
            for standing in chosen:
                images = min(self._every, GROWTH * standing.images)
                accuracy = self._accuracy(standing.member, images)
                member = replace(standing.member, accuracy=accuracy, version=self._version)
                now[member.key] = Standing(member, images, 0.0)
                if on_progress is not None:
                    on_progress((images == self._every) / total, f"{images} images")
        return [standing.member for standing in now.values() if standing.images == self._every]

    def _accuracy(self, member: Member, images: int) -> float:
        if (member.key, images) not in self._known:
            accuracy = float(self._read(encodings_of([member]), images)[0])
            self._journal.append(
                {
                    "encoding": list(member.encoding),
                    "version": self._version,
                    "images": images,
                    "of": self._every,
                    "accuracy": accuracy,
                }
            )
            self._known[member.key, images] = accuracy
        return self._known[member.key, images]

    def _doubts(self, standings: list[Standing]) -> FloatArray:
        """Return the standard error of each accuracy against what all images would say."""
        p = np.clip(accuracy_of([standing.member for standing in standings]), 0.0, 1.0)
        images = np.array([standing.images for standing in standings], dtype=np.float64)
        own = np.array([standing.std for standing in standings], dtype=np.float64)
        # near 0 and 1 the binomial error vanishes before the doubt does
        error = np.sqrt(np.maximum(p * (1.0 - p), 0.01) * np.maximum(1.0 / images - 1.0 / self._every, 0.0))
        return np.asarray(np.hypot(error, own), dtype=np.float64)

    def _contenders(self, standings: list[Standing]) -> list[Standing]:
        """Return those that may be on a front of a view and were not read on all images."""
        if not standings:
            return []
        doubts = DOUBT * self._doubts(standings)
        chosen: set[int] = set()
        for view in self._problem.views:
            chosen |= self._of_view(view, standings, doubts)
        return [standings[i] for i in sorted(chosen) if standings[i].images < self._every]

    def _of_view(self, view: View, standings: list[Standing], doubts: FloatArray) -> set[int]:
        F, G = objectives_of([standing.member for standing in standings], view)
        F[:, 0] -= doubts
        feasible = np.flatnonzero((G <= 0.0).all(axis=1))
        best = feasible[np.argsort(F[feasible, 0], kind="stable")[: self._spare]]
        return {int(i) for i in (*non_dominated(F, G), *best)}

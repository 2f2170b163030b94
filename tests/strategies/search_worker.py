"""A search with an adapting "supernet", run as a process of its own so that it can be killed at any moment."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from hwnas.config import SearchSection
from hwnas.files import digest, read_json, write_json
from hwnas.strategies.distribution import Sampler
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import FloatArray
from hwnas.strategies.runner import SearchResult, run_search
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem

SECTION = SearchSection(
    initial=10, oversample=2, archive=12, iterations=4, candidates=5, adapt_epochs=0.5, adapt_top=6,
    inner_population=20, inner_generations=5, seed=11,
)  # fmt: skip


class Weights:
    """Something that adaptation changes, that accuracy depends on, and that lives in checkpoints."""

    def __init__(self, folder: Path, pause_s: float = 0.0) -> None:
        self.folder = folder
        self.pause_s = pause_s
        self.value = "start"
        self.evaluated = 0
        self.space = ToySpace()
        self.base = AnalyticAccuracy(self.space)

    def evaluate(self, X: np.ndarray) -> FloatArray:
        time.sleep(self.pause_s)
        self.evaluated += len(X)
        shift = [int(digest([self.value, row.tolist()])[:6], 16) / 16**6 for row in X]
        return self.base(X) + 0.02 * np.array(shift)

    def adapt(self, sampler: Sampler, epochs: float) -> None:
        time.sleep(10 * self.pause_s)
        rng = np.random.default_rng(1)
        self.value = digest([self.value, epochs, [sampler.sample(rng).tolist() for _ in range(20)]])

    def save(self, version: int) -> None:
        write_json(self.folder / f"weights-{version}.json", self.value)

    def load(self, version: int) -> None:
        self.value = read_json(self.folder / f"weights-{version}.json")


def search(
    folder: Path, weights: Weights, deadline_s: float | None = None, section: SearchSection = SECTION
) -> SearchResult:
    problem = macs_problem(weights.space, budget=0.3)
    return run_search(
        NatV2(problem, section),
        problem,
        evaluate=weights.evaluate,
        adapt=weights.adapt,
        save_supernet=weights.save,
        load_supernet=weights.load,
        folder=folder,
        deadline_s=deadline_s,
    )


if __name__ == "__main__":
    where = Path(sys.argv[1])
    search(where, Weights(where, pause_s=float(sys.argv[2])))

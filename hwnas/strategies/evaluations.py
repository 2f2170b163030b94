"""Accuracies and measured costs of a search on disk: what was evaluated once is never evaluated again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwnas.errors import ConfigError
from hwnas.files import Journal
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import key_of, members_of
from hwnas.strategies.problem import CostFunction, Costs, FloatArray, Problem

ARCHIVE, MEASUREMENTS = "archive.jsonl", "measurements.jsonl"

Evaluate = Callable[[IntArray], FloatArray]
"""``X [n, n_genes] -> accuracy [n]`` with the supernet as it is now."""


class Evaluations:
    """Accuracies and measured costs on disk, keyed by encoding and supernet version; what is there is never asked again.

    Args:
        folder: Run folder.
        problem: Gives predicted costs.
        evaluate: Gives accuracies.
        measure: Gives measured costs instead of predicted ones, if any.
        chunk: Encodings given to ``evaluate`` at once; a kill loses at most that many evaluations.
    """

    def __init__(
        self, folder: Path, problem: Problem, evaluate: Evaluate, measure: CostFunction | None, chunk: int
    ) -> None:
        self.problem = problem
        self._evaluate = evaluate
        self._measure = measure
        self._chunk = chunk
        self._journal = Journal(folder / ARCHIVE)
        self._measured = Journal(folder / MEASUREMENTS) if measure is not None else None
        self._generation: dict[bytes, int] = {}
        for record in self._journal:
            self._generation.setdefault(key_of(record["encoding"]), int(record["generation"]))
        self._accuracy = {(key_of(r["encoding"]), int(r["version"])): float(r["accuracy"]) for r in self._journal}
        self._costs = {key_of(r["encoding"]): (r["values"], r["upper"]) for r in self._measured or ()}

    def run(
        self, X: IntArray, version: int, generation: int, stop: Callable[[], bool]
    ) -> tuple[FloatArray, Costs] | None:
        """Return accuracies ``[n]`` and costs of all of ``X``, or None where ``stop()`` became true before the end."""
        predicted = self.problem.costs(X)
        rows = [self._costs_of(X, predicted, i, stop) for i in range(len(X))]
        if any(row is None for row in rows):
            return None
        costs = predicted if self._measure is None else _stack([row for row in rows if row is not None])
        missing = [i for i, row in enumerate(X) if (row.tobytes(), version) not in self._accuracy]
        for start in range(0, len(missing), self._chunk):
            if stop():
                return None
            self._evaluate_rows(X, missing[start : start + self._chunk], costs, version, generation)
        return np.array([self._accuracy[row.tobytes(), version] for row in X], dtype=np.float64), costs

    def _costs_of(self, X: IntArray, predicted: Costs, i: int, stop: Callable[[], bool]) -> Costs | None:
        if self._measure is None or self._measured is None:
            return predicted.take([i])
        key = X[i].tobytes()
        if key not in self._costs:
            if stop():
                return None
            values, upper = self._measure(X[i : i + 1])
            record = {"encoding": X[i].tolist(), "values": np.ravel(values).tolist(), "upper": np.ravel(upper).tolist()}
            self.problem.assemble(values, upper)
            self._measured.append(record)
            self._costs[key] = (record["values"], record["upper"])
        values, upper = (np.array(part, dtype=np.float64)[None] for part in self._costs[key])
        return self.problem.assemble(values, upper)

    def _evaluate_rows(self, X: IntArray, rows: list[int], costs: Costs, version: int, generation: int) -> None:
        accuracy = np.asarray(self._evaluate(X[rows]), dtype=np.float64).ravel()
        if len(accuracy) != len(rows) or not np.isfinite(accuracy).all():
            raise ConfigError(
                f"search.metric must give one finite number per network, got {accuracy.tolist()} for {len(rows)}. "
                "Mend the metric, or choose top1."
            )
        for member in members_of(X[rows], accuracy, costs.take(rows), generation, version):
            found = self._generation.setdefault(member.key, generation)
            record = {
                **member.as_dict(),
                "generation": found,
                "id": self.problem.space.id_of(np.array(member.encoding, dtype=np.int64)),
            }
            self._journal.append({**record, "measured": self._measure is not None})
            self._accuracy[member.key, version] = member.accuracy


def _stack(rows: list[Costs]) -> Costs:
    return Costs(
        np.concatenate([row.F for row in rows]),
        np.concatenate([row.upper for row in rows]),
        np.concatenate([row.G for row in rows]),
    )

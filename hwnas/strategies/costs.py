"""Cost functions: counts of the layer graph, and latency models joined with them into a :class:`Problem`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hwnas.errors import ConfigError
from hwnas.spaces.base import IntArray, SearchSpace
from hwnas.strategies.problem import FloatArray, Limit, Problem

GRAPH_COSTS = {"macs": "MACs", "parameters": "parameters", "peak_activation_elements": "elements"}
"""Costs counted on the layer graph, and their units."""


class LatencyPredictor(Protocol):
    """What a latency model offers: ``predict(X)`` with attributes ``value`` and ``high``, each ``[n]``."""

    def predict(self, X: IntArray) -> Any:
        """Return the prediction of canonical encodings ``[n, n_genes]``."""


class GraphCounter:
    """Counts of layer graphs by encoding, remembered since a search asks for the same ones again.

    Args:
        space: Space of the encodings.
        names: Some of :data:`GRAPH_COSTS`.
    """

    def __init__(self, space: SearchSpace[Any], names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in GRAPH_COSTS]
        if unknown:
            raise ConfigError(f"unknown cost {unknown[0]!r}; known: {', '.join(GRAPH_COSTS)}.")
        self.space = space
        self.names = tuple(names)
        self._known: dict[bytes, tuple[float, ...]] = {}

    def __call__(self, X: IntArray) -> FloatArray:
        """Return the counts ``[n, n_names]`` of encodings ``[n, n_genes]``."""
        return np.array([self._row(row) for row in X], dtype=np.float64).reshape(len(X), len(self.names))

    def _row(self, row: IntArray) -> tuple[float, ...]:
        key = row.tobytes()
        if key not in self._known:
            graph = self.space.graph(self.space.decode(row))
            self._known[key] = tuple(float(getattr(graph, name)) for name in self.names)
        return self._known[key]


def build_problem(
    space: SearchSpace[Any],
    models: Mapping[str, LatencyPredictor],
    budgets: Mapping[str, float],
    *,
    extra: Sequence[str] = (),
    minimised: tuple[str, ...] | None = None,
    units: Mapping[str, str] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Problem:
    """Join latency models and graph counts into a problem.

    Args:
        space: Space that is searched.
        models: Target -> its latency model.
        budgets: Cost (a target or one of ``extra``) -> its limit.
        extra: Further costs counted on the graph, of :data:`GRAPH_COSTS`.
        minimised: Costs that are objectives; default all.
        units: Target -> unit of its metric where it is not ``ms``.
        provenance: Plain data that names the models (digests).

    Raises:
        ConfigError: A budget on a cost that is neither a target nor in ``extra``, or an unknown extra cost.
    """
    targets = tuple(models)
    counter = GraphCounter(space, extra)
    named = {**dict.fromkeys(targets, "ms"), **GRAPH_COSTS, **(units or {})}

    def predict(X: IntArray) -> tuple[FloatArray, FloatArray]:
        predictions = [models[target].predict(X) for target in targets]
        counts = [counter(X)] if extra else []
        value = np.column_stack([*(p.value for p in predictions), *counts])
        high = np.column_stack([*(p.high for p in predictions), *counts])
        return value, high

    return Problem(
        space=space,
        cost_names=(*targets, *extra),
        predict=predict,
        limits=tuple(Limit(cost, maximum, named.get(cost, "ms")) for cost, maximum in budgets.items()),
        targets=targets,
        minimised=minimised,
        provenance=provenance or {},
    )

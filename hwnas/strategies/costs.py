"""Cost functions: counts of the layer graph, and latency models joined with them into a :class:`Problem`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hwnas.errors import ConfigError
from hwnas.spaces.base import IntArray, SearchSpace
from hwnas.spaces.graph import ELEMENT_BYTES, LayerGraph
from hwnas.strategies.problem import FloatArray, Limit, Problem

COUNTS = {"macs": "MACs", "parameters": "parameters", "peak_memory_bytes": "bytes", "size_bytes": "bytes"}
"""Costs counted on the layer graph, and their units."""

OF_PRECISION = ("peak_memory_bytes", "size_bytes")
"""Those of :data:`COUNTS` that depend on a target: both on its precision, peak memory on its batch too."""

_COST = re.compile(r"(?P<name>[a-z_]+)(-(?P<precision>[a-z0-9]+)(-b(?P<batch>[1-9][0-9]*))?)?")


class LatencyPredictor(Protocol):
    """What a latency model offers: ``predict(X)`` with attributes ``value`` and ``high``, each ``[n]``."""

    def predict(self, X: IntArray) -> Any:
        """Return the prediction of canonical encodings ``[n, n_genes]``."""


@dataclass(frozen=True)
class GraphCost:
    """One cost counted on the layer graph, written ``NAME[-PRECISION[-bBATCH]]``: ``macs``, ``size_bytes-int8``.

    Attributes:
        name: One of :data:`COUNTS`.
        precision: Precision of weights and activations, for those of :data:`OF_PRECISION`.
        batch: Images per inference, for peak memory.
    """

    name: str
    precision: str = "fp32"
    batch: int = 1

    @classmethod
    def parse(cls, text: str) -> GraphCost:
        """Read what a cost is called.

        Raises:
            ConfigError: Nothing of that name can be counted.
        """
        match = _COST.fullmatch(text)
        name, precision = (match["name"], match["precision"] or "fp32") if match else ("", "fp32")
        if match is None or name not in COUNTS or precision not in ELEMENT_BYTES:
            raise ConfigError(f"unknown cost {text!r}; known: {', '.join(COUNTS)}.")
        return cls(name, precision, int(match["batch"] or 1))

    @property
    def unit(self) -> str:
        """Unit of the count."""
        return COUNTS[self.name]

    def of(self, graph: LayerGraph) -> float:
        """Return the count of one network."""
        if self.name == "peak_memory_bytes":
            return float(graph.peak_memory_bytes(self.precision, self.batch))
        if self.name == "size_bytes":
            return float(graph.size_bytes(self.precision))
        return float(getattr(graph, self.name))


class GraphCounter:
    """Counts of layer graphs by encoding, remembered since a search asks for the same ones again.

    Args:
        space: Space of the encodings.
        names: Costs as :class:`GraphCost` writes them.

    Raises:
        ConfigError: Nothing of such a name can be counted.
    """

    def __init__(self, space: SearchSpace[Any], names: Sequence[str]) -> None:
        self.space = space
        self.names = tuple(names)
        self._costs = [GraphCost.parse(name) for name in names]
        self._known: dict[bytes, tuple[float, ...]] = {}

    def __call__(self, X: IntArray) -> FloatArray:
        """Return the counts ``[n, n_names]`` of encodings ``[n, n_genes]``."""
        return np.array([self._row(row) for row in X], dtype=np.float64).reshape(len(X), len(self.names))

    def _row(self, row: IntArray) -> tuple[float, ...]:
        key = row.tobytes()
        if key not in self._known:
            graph = self.space.graph(self.space.decode(row))
            self._known[key] = tuple(cost.of(graph) for cost in self._costs)
        return self._known[key]


def build_problem(
    space: SearchSpace[Any],
    models: Mapping[str, LatencyPredictor],
    budgets: Mapping[str, float],
    *,
    extra: Sequence[str] = (),
    minimised: tuple[str, ...] | None = None,
    targets: Sequence[str] | None = None,
    seen_by: Mapping[str, tuple[str, ...]] | None = None,
    units: Mapping[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Problem:
    """Join latency models and graph counts into a problem.

    Args:
        space: Space that is searched.
        models: Target -> its latency model.
        budgets: Cost (a target's latency by the target's name, or one of ``extra``) -> its limit.
        extra: Further costs counted on the graph, as :class:`GraphCost` writes them.
        minimised: Costs that are objectives; default all.
        targets: Targets that get a view; default those with a model.
        seen_by: Costs of ``extra`` that belong to some targets only -> those targets.
        units: Target -> unit of its metric where it is not ``ms``.
        keys: Cost -> the key of the run file that its budget came from, for messages.
        provenance: Plain data that names the models (digests).

    Raises:
        ConfigError: A budget or objective on a cost that is neither in ``extra`` nor the latency of a target with a model,
            or an unknown extra cost.
    """
    names = (*models, *extra)
    wanted = targets if targets is not None else tuple(models)
    _require_models([*budgets, *(minimised or ())], [target for target in wanted if target not in models])
    counter = GraphCounter(space, extra)
    named = {**dict.fromkeys(models, "ms"), **{name: GraphCost.parse(name).unit for name in extra}, **(units or {})}

    def predict(X: IntArray) -> tuple[FloatArray, FloatArray]:
        predictions = [model.predict(X) for model in models.values()]
        counts = [counter(X)] if extra else []
        value = np.column_stack([*(p.value for p in predictions), *counts])
        high = np.column_stack([*(p.high for p in predictions), *counts])
        return value, high

    return Problem(
        space=space,
        cost_names=names,
        predict=predict,
        limits=tuple(
            Limit(cost, maximum, named.get(cost, "ms"), (keys or {}).get(cost, "")) for cost, maximum in budgets.items()
        ),
        targets=tuple(wanted),
        seen_by=dict(seen_by or {}),
        minimised=minimised,
        provenance=provenance or {},
    )


def _require_models(costs: Sequence[str], without: Sequence[str]) -> None:
    for cost in costs:
        if cost in without:
            raise ConfigError(
                f"the latency of {cost} is an objective or has a budget, but {cost} has no latency model. "
                f"Make one with: hwnas profile --target {cost}, or take its budget away."
            )

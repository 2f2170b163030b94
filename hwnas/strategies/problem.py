"""What is searched: a space, its costs, the limits on them, and one view of both per target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import ConfigError
from hwnas.spaces.base import IntArray, SearchSpace
from hwnas.strategies.feasibility import check_budgets

FloatArray = NDArray[np.float64]
CostFunction = Callable[[IntArray], tuple[FloatArray, FloatArray]]
"""``X [n, n_genes] -> (values [n, n_costs], upper ends of their intervals [n, n_costs])``; exact costs repeat the value."""


@dataclass(frozen=True)
class Limit:
    """A hard limit on one cost: the upper end of its interval may not exceed ``maximum``.

    Attributes:
        cost: Name of the limited cost.
        maximum: Largest allowed value, in ``unit``.
        unit: Unit of the cost, for messages.
        key: Key of the run file that it came from, for messages.
    """

    cost: str
    maximum: float
    unit: str = "ms"
    key: str = ""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.maximum) and self.maximum > 0):
            raise ConfigError(f"limit on {self.cost!r}: maximum={self.maximum!r} must be a finite number above 0.")

    def __str__(self) -> str:
        """Return the limit as messages name it."""
        return f"{self.maximum:g} {self.unit} on {self.cost}" + (f" ({self.key})" if self.key else "")


@dataclass(frozen=True)
class Costs:
    """Costs of ``n`` encodings.

    Attributes:
        F: Values to minimise, ``[n, n_costs]``.
        upper: Upper ends of the limited costs' intervals, ``[n, n_limits]``.
        G: ``upper / limit - 1``, ``[n, n_limits]``; at most 0 where the limit is kept.
    """

    F: FloatArray
    upper: FloatArray
    G: FloatArray

    def __len__(self) -> int:
        return len(self.F)

    def take(self, rows: Any) -> Costs:
        """Return the costs of the given rows (indices or mask)."""
        return Costs(self.F[rows], self.upper[rows], self.G[rows])


@dataclass(frozen=True)
class View:
    """The search as one target sees it: its own cost and limits beside those that all targets share.

    Attributes:
        name: Target, or ``all`` where no cost belongs to a target.
        costs: Columns of ``Costs.F`` that are minimised.
        limits: Columns of ``Costs.G`` that must be kept.
    """

    name: str
    costs: tuple[int, ...]
    limits: tuple[int, ...]

    def objectives(self, accuracy: FloatArray, F: FloatArray) -> FloatArray:
        """Return ``[n, 1 + n_view_costs]``: error (``1 - accuracy``), then this view's costs."""
        return np.column_stack([1.0 - accuracy, F[:, list(self.costs)]])

    def constraints(self, G: FloatArray) -> FloatArray:
        """Return this view's columns of ``G``, ``[n, n_view_limits]``."""
        return G[:, list(self.limits)]

    def feasible(self, G: FloatArray) -> NDArray[np.bool_]:
        """Return which rows keep every limit of this view, ``[n]``."""
        return np.asarray((self.constraints(G) <= 0.0).all(axis=1))


def sees(target: str, cost: str, targets: Sequence[str], seen_by: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a cost counts for a target: not the latency of another one, nor bytes of another precision."""
    if cost in targets:
        return cost == target
    return target in seen_by.get(cost, (target,))


@dataclass(frozen=True)
class Problem:
    """A search space with costs and limits; accuracy is the one thing it cannot tell.

    Attributes:
        space: What is searched.
        cost_names: Name of each cost that ``predict`` returns.
        predict: Vectorised costs, see :data:`CostFunction`.
        limits: Hard limits.
        targets: Every target gets its own :class:`View`. A cost that is named as a target (its latency) is seen by that
            target only; all other costs and their limits are shared.
        seen_by: Further costs that only some targets see (bytes at a precision) -> those targets.
        minimised: Costs that are objectives (default: all of ``cost_names``); the others are only limited or recorded.
        provenance: Plain data that names where costs come from (digests of latency models); part of the identity that
            a resumed search must have.
    """

    space: SearchSpace[Any]
    cost_names: tuple[str, ...]
    predict: CostFunction
    limits: tuple[Limit, ...] = ()
    targets: tuple[str, ...] = ()
    minimised: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    seen_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.cost_names)) != len(self.cost_names):
            raise ConfigError(f"cost names {self.cost_names} must differ from each other.")
        named = [*(limit.cost for limit in self.limits), *self.seen_by, *(self.minimised or ())]
        unknown = sorted(set(named) - set(self.cost_names))
        if unknown:
            raise ConfigError(f"limits or objectives name {unknown}; known costs: {', '.join(self.cost_names)}.")

    @property
    def views(self) -> tuple[View, ...]:
        """One view per target; a single view ``all`` where there are none."""
        objectives = self.cost_names if self.minimised is None else self.minimised
        return tuple(self._view(name, objectives) for name in self.targets or ("all",))

    def _view(self, name: str, objectives: tuple[str, ...]) -> View:
        own = {cost for cost in self.cost_names if sees(name, cost, self.targets, self.seen_by)}
        return View(
            name=name,
            costs=tuple(i for i, cost in enumerate(self.cost_names) if cost in objectives and cost in own),
            limits=tuple(i for i, limit in enumerate(self.limits) if limit.cost in own),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that two runs of one search must share."""
        return {
            "space": {"name": self.space.name, "settings": self.space.settings()},
            "costs": list(self.cost_names),
            "minimised": None if self.minimised is None else list(self.minimised),
            "targets": list(self.targets),
            "limits": [[limit.cost, limit.maximum, limit.unit] for limit in self.limits],
            "provenance": self.provenance,
            **({"seen_by": {cost: list(seen) for cost, seen in self.seen_by.items()}} if self.seen_by else {}),
        }

    def costs(self, X: IntArray) -> Costs:
        """Predict the costs of canonical encodings ``[n, n_genes]``."""
        if not len(X):
            none = np.empty((0, len(self.limits)))
            return Costs(np.empty((0, len(self.cost_names))), none, none)
        return self.assemble(*self.predict(np.asarray(X, dtype=np.int64)))

    def assemble(self, values: FloatArray, upper: FloatArray) -> Costs:
        """Return costs from values and upper ends, both ``[n, n_costs]`` (predicted or measured).

        Raises:
            ConfigError: Wrong shape, or a number that is not finite.
        """
        F = np.atleast_2d(np.asarray(values, dtype=np.float64))
        high = np.atleast_2d(np.asarray(upper, dtype=np.float64))
        expected = (len(F), len(self.cost_names))
        if F.shape != expected or high.shape != expected:
            raise ConfigError(
                f"costs must have shape {expected} for {self.cost_names}, not {F.shape} and {high.shape}."
            )
        if not (np.isfinite(F).all() and np.isfinite(high).all()):
            column = int(np.argwhere(~(np.isfinite(F) & np.isfinite(high)))[0, 1])
            raise ConfigError(f"cost {self.cost_names[column]!r} is not a finite number for some architecture.")
        columns = [self.cost_names.index(limit.cost) for limit in self.limits]
        maxima = np.array([limit.maximum for limit in self.limits])
        limited = high[:, columns]
        return Costs(F, limited, limited / maxima - 1.0)

    def smallest(self) -> IntArray:
        """Return the encoding of the cheapest architecture, ``[n_genes]``."""
        return self.space.encode(self.space.smallest)

    def largest(self) -> IntArray:
        """Return the encoding of the most expensive architecture, ``[n_genes]``."""
        return self.space.encode(self.space.largest)

    def check_budgets(self, samples: int = 256, seed: int = 0) -> None:
        """Raise if no architecture of the space keeps the limits of some view, alone or together.

        Args:
            samples: Random architectures that are tried beside the smallest.
            seed: Seed of those.

        Raises:
            BudgetError: Which limit nothing keeps, by how much, and the nearest one that can be kept.
        """
        check_budgets(self, samples, seed)

"""Every evaluated architecture once, and the constant-size active set a strategy works with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.errors import RunFolderError
from hwnas.spaces.base import IntArray
from hwnas.strategies.problem import Costs, FloatArray, View
from hwnas.strategies.sorting import IndexArray, non_dominated


@dataclass(frozen=True)
class Member:
    """One evaluated architecture.

    Attributes:
        encoding: Canonical encoding.
        accuracy: Accuracy on the validation split, at supernet version ``version``.
        costs: Cost values.
        upper: Upper ends of the limited costs.
        G: ``upper / limit - 1``.
        generation: Iteration in which it was found (0: initial).
        version: Version of the supernet that gave the accuracy (0: before any adaptation).
    """

    encoding: tuple[int, ...]
    accuracy: float
    costs: tuple[float, ...]
    upper: tuple[float, ...]
    G: tuple[float, ...]
    generation: int
    version: int

    @property
    def key(self) -> bytes:
        """Bytes of the canonical encoding: what makes two members the same."""
        return key_of(self.encoding)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data; :func:`read_member` reads it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def key_of(encoding: Iterable[int]) -> bytes:
    """Return the key of a canonical encoding."""
    return np.asarray(list(encoding), dtype=np.int64).tobytes()


def members_of(X: IntArray, accuracy: FloatArray, costs: Costs, generation: int, version: int) -> list[Member]:
    """Return one member per row."""
    return [
        Member(
            encoding=tuple(int(gene) for gene in X[i]),
            accuracy=float(accuracy[i]),
            costs=tuple(float(value) for value in costs.F[i]),
            upper=tuple(float(value) for value in costs.upper[i]),
            G=tuple(float(value) for value in costs.G[i]),
            generation=generation,
            version=version,
        )
        for i in range(len(X))
    ]


def stack_costs(members: Sequence[Member]) -> Costs:
    """Return the costs of members as arrays."""
    n = len(members)
    return Costs(
        np.array([m.costs for m in members], dtype=np.float64).reshape(n, -1 if n else 0),
        np.array([m.upper for m in members], dtype=np.float64).reshape(n, -1 if n and members[0].upper else 0),
        np.array([m.G for m in members], dtype=np.float64).reshape(n, -1 if n and members[0].G else 0),
    )


class Archive:
    """Members by canonical encoding, in the order found; some of them are active.

    A member that is evaluated again (after the supernet changed) replaces its former self. Arrays returned by methods
    follow the order of ``members`` or of ``active``.
    """

    def __init__(self) -> None:
        self._members: dict[bytes, Member] = {}
        self._active: list[bytes] = []

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, encoding: object) -> bool:
        return isinstance(encoding, np.ndarray) and key_of(encoding) in self._members

    @property
    def members(self) -> list[Member]:
        """Everything ever evaluated, each at its latest version."""
        return list(self._members.values())

    @property
    def keys(self) -> set[bytes]:
        """Keys of all members."""
        return set(self._members)

    @property
    def active(self) -> list[Member]:
        """The active set."""
        return [self._members[key] for key in self._active]

    def current(self, version: int) -> list[Member]:
        """Return the members whose accuracy belongs to supernet ``version``: only those can be compared."""
        return [member for member in self._members.values() if member.version == version]

    def stale(self, version: int) -> list[Member]:
        """Return the active members whose accuracy is older than ``version``."""
        return [member for member in self.active if member.version != version]

    def add(self, members: Sequence[Member], *, activate: bool = True) -> None:
        """Add or replace members; new ones become active unless told otherwise."""
        for member in members:
            if member.key not in self._members and activate:
                self._active.append(member.key)
            self._members[member.key] = member

    def keep(self, chosen: IndexArray) -> None:
        """Make the active members at these positions the whole active set.

        Raises:
            ValueError: A position is repeated.
        """
        if len(set(chosen.tolist())) != len(chosen):
            raise ValueError(f"positions to keep must differ from each other, got {chosen.tolist()}")
        self._active = [self._active[i] for i in sorted(chosen.tolist())]

    def state(self) -> dict[str, Any]:
        """Return plain data."""
        order = {key: index for index, key in enumerate(self._members)}
        return {
            "members": [member.as_dict() for member in self._members.values()],
            "active": [order[key] for key in self._active],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Archive:
        """Read what :meth:`state` gave.

        Raises:
            RunFolderError: The state lacks keys, or names members that are not there.
        """
        archive = cls()
        try:
            members = [read_member(entry) for entry in state["members"]]
            archive.add(members, activate=False)
            archive._active = [members[index].key for index in state["active"]]
        except (KeyError, IndexError, TypeError) as error:
            raise RunFolderError(f"the archive in the search state is damaged ({error!r}).") from error
        return archive


def read_member(entry: dict[str, Any]) -> Member:
    """Read one member from plain data; further keys are ignored."""
    return Member(
        encoding=tuple(int(gene) for gene in entry["encoding"]),
        accuracy=float(entry["accuracy"]),
        costs=tuple(float(value) for value in entry["costs"]),
        upper=tuple(float(value) for value in entry["upper"]),
        G=tuple(float(value) for value in entry["G"]),
        generation=int(entry["generation"]),
        version=int(entry["version"]),
    )


def accuracy_of(members: Sequence[Member]) -> FloatArray:
    """Return accuracies, ``[n]``."""
    return np.array([member.accuracy for member in members], dtype=np.float64)


def encodings_of(members: Sequence[Member]) -> IntArray:
    """Return encodings, ``[n, n_genes]``."""
    return np.array([member.encoding for member in members], dtype=np.int64)


def objectives_of(members: Sequence[Member], view: View) -> tuple[FloatArray, FloatArray]:
    """Return objectives and constraints of members as one view sees them."""
    costs = stack_costs(members)
    return view.objectives(accuracy_of(members), costs.F), view.constraints(costs.G)


def front(members: Sequence[Member], view: View) -> list[Member]:
    """Return the feasible members that none dominates in this view, most accurate first."""
    if not members:
        return []
    chosen = [members[i] for i in non_dominated(*objectives_of(members, view))]
    return sorted(chosen, key=lambda member: (-member.accuracy, member.costs, member.encoding))


def union_front(members: Sequence[Member], views: Sequence[View]) -> list[Member]:
    """Return the members that are on the front of at least one view, most accurate first."""
    union = {member.key: member for view in views for member in front(members, view)}
    return sorted(union.values(), key=lambda member: (-member.accuracy, member.costs, member.encoding))

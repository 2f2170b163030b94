"""The loop that archive-based strategies share: initial members, then candidates, adaptation, re-evaluation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np

from hwnas.config import SearchSection
from hwnas.errors import RunFolderError
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import Archive, Member, encodings_of, members_of, objectives_of
from hwnas.strategies.base import Strategy
from hwnas.strategies.drift import Drift
from hwnas.strategies.hypervolume import normalised_hypervolume, reference_point
from hwnas.strategies.problem import Costs, FloatArray, Problem, View
from hwnas.strategies.sampling import MARGIN, draw_for_views
from hwnas.strategies.sorting import non_dominated, survival
from hwnas.strategies.surrogate import score


class ArchiveStrategy(Strategy):
    """State machine over an archive; children say what is initial, what comes next and who survives.

    Args:
        problem: Space, costs and limits.
        section: Sizes and seed.
    """

    def __init__(self, problem: Problem, section: SearchSection) -> None:
        super().__init__(problem, section)
        self.rng = np.random.default_rng(section.seed)
        self.iteration = 0
        self.evaluations = 0
        self._asked: IntArray | None = None
        self._predicted: FloatArray | None = None
        self._doubt: FloatArray | None = None
        self._reference: dict[str, FloatArray] = {}
        self._drift = Drift()
        self._adaptation_due = False

    @abstractmethod
    def _initial(self) -> IntArray:
        """Return the first encodings to evaluate, ``[n, n_genes]``."""

    @abstractmethod
    def _candidates(self) -> tuple[IntArray, FloatArray | None, FloatArray | None]:
        """Return new encodings to evaluate, with predicted accuracy and its standard deviation where there are any."""

    def _fill_up(self, chosen: IntArray, margin: float = MARGIN) -> IntArray:
        """Make up for candidates that are missing by drawing new eligible ones; ``margin`` as in :func:`draw_for_views`."""
        missing = self.section.candidates - len(chosen)
        if missing <= 0:
            return chosen
        taken = self.archive.keys | {row.tobytes() for row in chosen}
        drawn = draw_for_views(self.problem, self.rng, missing, taken, turn=self.iteration, margin=margin)
        return np.vstack([chosen, drawn])

    def _survive(self) -> None:
        """Choose the active set after members were added (default: all stay)."""

    @property
    def progress(self) -> float:
        """Share of the search that is done, 0 to 1."""
        steps = self.iteration + (len(self.archive) > 0) - 0.5 * bool(self._due())
        return min(1.0, steps / (self.section.iterations + 1))

    @property
    def finished(self) -> bool:
        """Whether all iterations are over and every accuracy that matters belongs to the present supernet."""
        started = len(self.archive) > 0
        return started and self.iteration >= self.section.iterations and not self._due()

    def _due(self) -> list[Member]:
        """Return the active members that have to be evaluated again now, because the supernet adapted."""
        stale = self.archive.stale(self.version)
        if not stale or self.section.reevaluate == "all":
            return stale
        wanted = {member.key for view in self.problem.views for member in self._contenders(view)}
        if self.iteration >= self.section.iterations:
            wanted |= {member.key for view in self.problem.views for member in self._most_accurate(view)}
        return [member for member in stale if member.key in wanted]

    def _contenders(self, view: View) -> list[Member]:
        """Return the stale members that may still be on the front of a view.

        At first these are the front by estimated accuracy; then all that would not be dominated by what was evaluated
        again, were they better than estimated by one standard deviation.
        """
        members = self.archive.active
        accuracy, std = self._drift.estimate(members, self.version)
        F, G = objectives_of(members, view)
        F[:, 0] = 1.0 - accuracy
        fresh = np.array([member.version == self.version for member in members])
        if not fresh.any():
            front = non_dominated(F, G)
            return [members[i] for i in (front if len(front) else survival(F, G, 1))]
        F[:, 0] -= std
        return [members[i] for i in non_dominated(F, G) if not fresh[i]]

    def _most_accurate(self, view: View) -> list[Member]:
        """Return the feasible members of a view with the highest accuracy, as many as an iteration has candidates.

        Fine-tuning chooses among members read with the final weights. Where accuracy is the only objective the front alone
        would leave it one.
        """
        members = self.present(self.archive.active)
        F, G = objectives_of(members, view)
        feasible = np.flatnonzero((G <= 0.0).all(axis=1))
        return [members[i] for i in feasible[np.argsort(F[feasible, 0], kind="stable")[: self.section.candidates]]]

    def present(self, members: list[Member]) -> list[Member]:
        """Return members with the accuracies they are estimated to have with the present supernet."""
        return self._drift.present(members, self.version)

    def standing(self) -> list[tuple[Member, float]]:
        """Return the active members as :meth:`present` does, each with the error of its accuracy."""
        members = self.archive.active
        errors = self._drift.estimate(members, self.version)[1]
        return list(zip(self.present(members), errors.tolist(), strict=True))

    def ask(self) -> IntArray:
        """Return distinct canonical encodings whose accuracy at this version is wanted, ``[n, n_genes]``."""
        if self._asked is None:
            due = self._due()
            if due:
                self._asked = encodings_of(due)
            elif not len(self.archive):
                self._asked = self._initial()
            else:
                self._asked, self._predicted, self._doubt = self._candidates()
        return self._asked.copy()

    def tell(self, X: IntArray, accuracy: FloatArray, costs: Costs) -> None:
        """Take the accuracies and costs of exactly what was asked.

        Raises:
            ValueError: ``X`` is not what was asked, or an accuracy is not a finite number.
        """
        self._check_told(X, accuracy, costs)
        due, first = self._due(), not len(self.archive)
        generation = self.iteration if first else self.iteration + 1
        members = members_of(X, accuracy, costs, generation, self.version)
        self.evaluations += len(X)
        if due:
            self._drift.learn(due, accuracy, self.version)
            found = {member.key: member.generation for member in due}
            self.archive.add([replace(member, generation=found[member.key]) for member in members])
            self.history[-1].update(self._standing())
        else:
            self.archive.add(members)
            self._survive()
            if first:
                self._set_reference()
            else:
                self._advance(len(X))
            self.history.append({"iteration": self.iteration, **self._fit_record(accuracy), **self._standing()})
        self._asked = self._predicted = self._doubt = None

    def _advance(self, evaluated: int) -> None:
        # Nothing new is left to evaluate: a small space is exhausted, further iterations would be empty too.
        self.iteration = self.iteration + 1 if evaluated else max(self.section.iterations, self.iteration + 1)
        self._adaptation_due = self.section.adapt_epochs > 0 and evaluated > 0

    def _check_told(self, X: IntArray, accuracy: FloatArray, costs: Costs) -> None:
        if self._asked is None or not np.array_equal(X, self._asked):
            raise ValueError("tell() takes exactly the encodings that ask() returned, in their order")
        if len(accuracy) != len(X) or len(costs) != len(X):
            raise ValueError(f"{len(X)} encodings were asked, got {len(accuracy)} accuracies and {len(costs)} costs")
        if not np.isfinite(accuracy).all():
            bad = X[int(np.flatnonzero(~np.isfinite(accuracy))[0])]
            raise ValueError(f"the accuracy of {bad.tolist()} is not a finite number")

    def adapted(self) -> None:
        """Learn that the supernet's weights changed: active members are asked again before anything else."""
        super().adapted()
        self._adaptation_due = False
        self._asked = self._predicted = self._doubt = None

    def _set_reference(self) -> None:
        for view in self.problem.views:
            self._reference[view.name] = reference_point(*objectives_of(self.archive.active, view))

    def _fit_record(self, accuracy: FloatArray) -> dict[str, Any]:
        if self._predicted is None or self._doubt is None or not len(accuracy):
            return {"tau": None, "spearman": None, "rmse": None, "surrogate_std": None}
        fit = score(self._predicted, accuracy)
        return {**vars(fit), "surrogate_std": float(self._doubt.mean())}

    def _standing(self) -> dict[str, Any]:
        volumes: dict[str, float] = {}
        best: dict[str, float | None] = {}
        feasible: dict[str, int] = {}
        members = self.archive.current(self.version)
        for view in self.problem.views:
            F, G = objectives_of(members, view)
            keeps = (G <= 0.0).all(axis=1)
            volumes[view.name] = normalised_hypervolume(F, G, self._reference[view.name])
            best[view.name] = float(1.0 - F[keeps, 0].min()) if keeps.any() else None
            feasible[view.name] = int(keeps.sum())
        return {
            "version": self.version,
            "evaluations": self.evaluations,
            "architectures": len(self.archive),
            "hypervolume": float(np.mean(list(volumes.values()))),
            "hypervolumes": volumes,
            "best_accuracy": best,
            "feasible": feasible,
        }

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on, as plain JSON data."""
        arrays = {"asked": self._asked, "predicted": self._predicted, "doubt": self._doubt}
        return {
            "strategy": self.name,
            "rng": self.rng.bit_generator.state,
            "iteration": self.iteration,
            "evaluations": self.evaluations,
            "version": self.version,
            "adaptation_due": self._adaptation_due,
            "reference": {name: point.tolist() for name, point in self._reference.items()},
            "archive": self.archive.state(),
            "drift": self._drift.state(),
            "history": [dict(record) for record in self.history],
            **{name: None if value is None else value.tolist() for name, value in arrays.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave.

        Raises:
            RunFolderError: The state is damaged or of another strategy.
        """
        if state.get("strategy") != self.name:
            raise RunFolderError(f"the state is of strategy {state.get('strategy')!r}, not {self.name!r}.")
        try:
            self.rng.bit_generator.state = state["rng"]
            self.iteration = int(state["iteration"])
            self.evaluations = int(state["evaluations"])
            self.version = int(state["version"])
            self._adaptation_due = bool(state["adaptation_due"])
            self._reference = {name: np.array(point, dtype=np.float64) for name, point in state["reference"].items()}
            self.archive = Archive.from_state(state["archive"])
            self._drift = Drift.from_state(state["drift"])
            self.history = [dict(record) for record in state["history"]]
            asked = state["asked"]
            self._asked = (
                None if asked is None else np.array(asked, dtype=np.int64).reshape(-1, self.problem.space.n_genes)
            )
            self._predicted = _floats(state["predicted"])
            self._doubt = _floats(state["doubt"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunFolderError(f"the state of strategy {self.name} is damaged ({error!r}).") from error


def _floats(values: list[float] | None) -> FloatArray | None:
    return None if values is None else np.array(values, dtype=np.float64)

"""What a strategy is: it asks for accuracies, is told them, and can be written to disk at any moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from hwnas.config import SearchSection
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import Archive, Member
from hwnas.strategies.distribution import Sampler
from hwnas.strategies.problem import CostFunction, Costs, FloatArray, Limit, Problem, View

__all__ = ["CostFunction", "Costs", "FloatArray", "IntArray", "Limit", "Problem", "Sampler", "Strategy", "View"]


class Strategy(ABC):
    """Chooses what to evaluate next; knows integer vectors, costs and accuracies, nothing of networks.

    The runner repeats: ``ask`` -> evaluate -> ``tell`` -> (if a supernet adapts and :meth:`sampler` gives one) adapt,
    ``adapted`` -> ``state`` to disk. Two strategies made from the same problem and section, one of them by ``restore``
    from the other's state, go on in the same way to the same bits.

    Args:
        problem: Space, costs and limits.
        section: Sizes and seed.

    Attributes:
        archive: What was evaluated.
        history: One plain record per iteration.
        version: Version of the supernet the next accuracies belong to; grows by one with every adaptation.
    """

    name: ClassVar[str]

    def __init__(self, problem: Problem, section: SearchSection) -> None:
        self.problem = problem
        self.section = section
        self.archive = Archive()
        self.history: list[dict[str, Any]] = []
        self.version = 0

    @abstractmethod
    def ask(self) -> IntArray:
        """Return distinct canonical encodings ``[n, n_genes]`` whose accuracy at this version is wanted.

        Asking again before telling returns the same. An empty array means that nothing new is left.
        """

    @abstractmethod
    def tell(self, X: IntArray, accuracy: FloatArray, costs: Costs) -> None:
        """Take the accuracies ``[n]`` and costs of exactly what was asked.

        Raises:
            ValueError: ``X`` is not what was asked, or an accuracy is not a finite number.
        """

    def sampler(self) -> Sampler | None:
        """Return what the supernet should train on now, or None if it should not adapt."""
        return None

    def adapted(self) -> None:
        """Learn that the supernet's weights changed: earlier accuracies are stale from now on."""
        self.version += 1

    def standing(self) -> list[tuple[Member, float]]:
        """Return the active members with the accuracies they are estimated to have now, and the error of that estimate.

        The error is nought where a member was evaluated with the present supernet.
        """
        return [(member, 0.0) for member in self.archive.active]

    @property
    @abstractmethod
    def progress(self) -> float:
        """Share of the search that is done, 0 to 1."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is nothing more to ask."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything needed to go on, as plain JSON data."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave, possibly in another process.

        Raises:
            RunFolderError: The state is damaged.
        """

"""What a supernet is: one set of weights from which every architecture of a space is cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic

from torch import Tensor, nn

from hwnas.config import ExitWeights
from hwnas.spaces.base import ArchitectureT, SearchSpace


class Supernet(nn.Module, ABC, Generic[ArchitectureT]):
    """Weight-sharing network of a space.

    Attributes:
        name: Registered name.
        space: The space it serves.
    """

    name: str
    space: SearchSpace[ArchitectureT]

    @property
    @abstractmethod
    def active(self) -> ArchitectureT:
        """The architecture that :meth:`forward` runs."""

    @abstractmethod
    def set_active(self, architecture: ArchitectureT) -> None:
        """Choose the architecture that :meth:`forward` runs.

        Raises:
            SpaceError: The architecture is not of the space.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Run the active architecture: images ``[b, c, h, w]`` to logits ``[b, classes]``."""

    @abstractmethod
    def extract(self, architecture: ArchitectureT) -> nn.Module:
        """Return a static network with its own copy of the architecture's weights and an ``architecture`` attribute.

        Its batch-normalisation statistics are slices of the supernet's: recalibrate them before reading an accuracy.
        """

    def teacher(self, exit_ensemble: ExitWeights = "ascending") -> nn.Module:
        """Return a copy, as :meth:`extract` gives it, of the network that teaches the others.

        Args:
            exit_ensemble: How the logits of several exits are weighed; without exits it decides nothing.
        """
        return self.extract(self.space.largest)

    def exit_logits(self, x: Tensor) -> list[Tensor]:
        """Run the active architecture with every exit there is up to its own; returns their logits ``[b, classes]``."""
        return [self(x)]

    @abstractmethod
    def sort_channels(self, expand_ratio_stage: int = 0) -> None:
        """Move the most important channels to the front without changing the largest network's function.

        Args:
            expand_ratio_stage: How many reductions of the expansion were already trained; their networks stay as they are.
        """

    def save(self, folder: Path, extra: dict[str, Any] | None = None) -> None:
        """Write weights (``supernet-DIGEST.safetensors``) and description (``supernet.json``) into ``folder``, atomically.

        Args:
            folder: Created if absent.
            extra: Plain data kept in the description.

        Raises:
            StorageError: Writing failed; what was there before is intact.
        """
        from hwnas.supernets.storage import save_supernet

        save_supernet(self, folder, extra)

    def load(self, folder: Path) -> dict[str, Any]:
        """Read the weights that :meth:`save` wrote; returns its ``extra``.

        Raises:
            ModelFileError: The files are absent, damaged, or belong to another space (what differs is named).
        """
        from hwnas.supernets.storage import load_into

        return load_into(self, folder)


AnySupernet = Supernet[Any]
"""A supernet of whatever space."""

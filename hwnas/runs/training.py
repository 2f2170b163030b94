"""The stage that trains the supernet."""

from __future__ import annotations

from hwnas.runs.session import Run
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.training import TrainReport, train_supernet


def train_stage(run: Run) -> TrainReport:
    """Train the run's supernet, or go on where it stopped.

    Raises:
        SpaceError: The space does not fit the data.
        RunFolderError: The folder holds another training.
    """
    section = run.config.train
    return train_supernet(run.new_supernet(), run.data, section, run.folder.supernet, sampling=section.sampling)


def trained_supernet(run: Run) -> AnySupernet:
    """Return the supernet with the weights of the finished training."""
    supernet = run.new_supernet()
    supernet.load(run.folder.supernet)
    return supernet

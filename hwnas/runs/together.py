"""Training a run's supernet in all the processes that ``torchrun`` started."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from hwnas.config import RunConfig
from hwnas.runs.pipeline import Pipeline
from hwnas.runs.session import Run
from hwnas.runs.training import settled_training, train_stage
from hwnas.supernets import processes
from hwnas.supernets.checkpoints import unlike_folders
from hwnas.supernets.placing import training_device
from hwnas.supernets.training import TrainReport


def train_together(config: RunConfig, runs: Path) -> TrainReport:
    """Train, or go on where it stopped; without ``torchrun`` this process is the only one.

    The first process checks the run, claims and locks its folder and decodes the images; the others come after it.

    Raises:
        ConfigError: Something of the run file cannot be used.
        RunFolderError: The folder holds another run, or another command works on it.
    """
    with processes.process_group(training_device(config.train)), ExitStack() as held:
        with processes.first_before_others():
            pipeline = Pipeline(Run(config, runs))
            if processes.index() == 0:
                held.enter_context(pipeline.run.folder.lock())
            _ = pipeline.run.data
            settled = settled_training(pipeline.run)
        if not processes.agree(settled is not None):
            raise processes.said_once(unlike_folders(pipeline.run.path))
        if settled is not None:
            return settled
        if processes.index() == 0:
            return pipeline.trained()
        pipeline.run.use_threads()
        return train_stage(pipeline.run)

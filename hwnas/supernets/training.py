"""Supernet training by progressive shrinking: resumable at any time, to the same weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hwnas.config import TrainSection
from hwnas.datasets.data import ImageData
from hwnas.errors import ConfigError
from hwnas.files import read_json, write_json
from hwnas.progress import Advance, progress_bar
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets import probes, processes
from hwnas.supernets.adaptation import AdaptReport, adapt
from hwnas.supernets.checkpoints import unlike_folders
from hwnas.supernets.evaluation import check_fits
from hwnas.supernets.failures import explained
from hwnas.supernets.phases import phases_of
from hwnas.supernets.placing import device_name
from hwnas.supernets.trainer import MobileNetSupernet, Sampling, Trainer, training_steps

__all__ = ["AdaptReport", "Sampling", "TrainReport", "adapt", "phases_of", "train_supernet", "training_steps"]

REPORT = "training.json"


@dataclass(frozen=True)
class TrainReport:
    """What training came to.

    Attributes:
        complete: Every step of every phase was done.
        steps: Steps done.
        steps_total: Steps of the schedule.
        seconds: Time spent over all starts.
        phases: ``name`` and ``steps`` of each phase, and ``accuracies`` as below of networks of the phase (on at most 2,000
            images) as they were at its end.
        history: ``[steps done, mean loss]``.
        accuracies: Validation accuracy after recalibration: ``largest``, ``smallest``, ``random-0``, ...
        note: A sentence for the person, empty when there is nothing to say.
        device: Where training computed last: ``cpu``, or a GPU's name.
    """

    complete: bool
    steps: int
    steps_total: int
    seconds: float
    phases: list[dict[str, Any]]
    history: list[list[float]]
    accuracies: dict[str, float] = field(default_factory=dict)
    note: str = ""
    device: str = ""


def train_supernet(
    supernet: MobileNetSupernet,
    data: ImageData,
    section: TrainSection,
    folder: Path,
    *,
    progress: Advance | None = None,
    sampling: Sampling = "uniform",
) -> TrainReport:
    """Train a supernet, or go on where an earlier call was stopped.

    Where a process group is up (``torchrun``), all its processes call this with the same arguments: each computes its part of
    every batch, the weights are those of one process up to rounding, and the first one writes and evaluates.

    Checkpoints are kept in ``folder`` (every ``section.checkpoint_minutes`` and at the end of each phase) and lead to the
    same weights as an undisturbed run. At the end, or when ``section.time_budget_minutes`` over all calls are spent, the
    weights are saved there (``supernet.json``) and the report (``training.json``).

    Args:
        supernet: Its present weights are the start, unless ``folder`` holds a checkpoint.
        data: The images.
        section: Phases, epochs, rates, seeds.
        folder: Created if absent.
        progress: Told of every step; None shows a bar of its own. :func:`training_steps` gives the number of steps.
        sampling: How the networks of a step are drawn.

    Raises:
        SpaceError: The space does not fit the data.
        ConfigError: The space has no phases here, a phase or the device cannot be used, a step does not fit the memory, or
            the loss is not finite.
        DeviceError: Another process of the training is gone.
        RunFolderError: ``folder`` holds the training of another configuration.
        StorageError: Writing failed.
    """
    with processes.first_before_others():
        if not isinstance(supernet.space, MobileNetV3Space):
            raise ConfigError(
                f"progressive shrinking trains supernets of MobileNetV3 spaces, not of {supernet.space.name!r}. "
                "Train that supernet with its own code and save it into the run's supernet folder."
            )
        check_fits(supernet.space, data)
        trainer = Trainer(supernet, data, section, folder, sampling)
        resumed = trainer.restore()
    if not processes.agree(trainer.counters.done):
        raise processes.said_once(unlike_folders(folder))
    if processes.decided(resumed and trainer.counters.complete and (folder / REPORT).exists()):
        supernet.cpu()
        return TrainReport(**read_json(folder / REPORT))
    if progress is None and processes.index() == 0:
        with progress_bar("training the supernet", trainer.total, clock=False) as advance:
            _run(trainer, advance)
    else:
        _run(trainer, progress or _silent)
    report = _report(trainer) if processes.index() == 0 else None
    processes.decided(True)
    supernet.cpu()
    return report or TrainReport(**read_json(folder / REPORT))


def _silent(step: float, note: str) -> None:
    """Tell nothing: the bar is the first process's."""


def _run(trainer: Trainer, advance: Advance) -> None:
    advance(trainer.counters.done, "")
    with explained(trainer.section.batch_size):
        trainer.run(advance)


def _report(trainer: Trainer) -> TrainReport:
    trainer.supernet.eval()
    counters, section = trainer.counters, trainer.section
    note = ""
    if not counters.complete:
        note = (
            f"stopped by train.time_budget_minutes={section.time_budget_minutes:g} after {counters.done} of "
            f"{trainer.total} steps, in phase {trainer.phase.name!r}; later phases are not trained. "
            "Raise the budget and give the same command again to go on."
        )
    named = probes.of_space(trainer.space, section.seed)
    report = TrainReport(
        complete=counters.complete,
        steps=counters.done,
        steps_total=trainer.total,
        seconds=counters.seconds,
        phases=[
            {"name": phase.name, "steps": steps, "accuracies": counters.accuracies.get(str(index), {})}
            for index, (phase, steps) in enumerate(trainer.schedule)
        ],
        history=counters.history,
        accuracies=probes.accuracies(trainer.supernet, trainer.data, named, section.bn_images),
        note=note,
        device=device_name(trainer.device),
    )
    trainer.supernet.save(trainer.folder, {"steps": counters.done, "complete": counters.complete})
    write_json(trainer.folder / REPORT, asdict(report))
    return report

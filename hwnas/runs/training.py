"""The stage that trains the supernet, or takes a pretrained one."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from hwnas.files import read_json, write_json
from hwnas.runs.folder import SUPERNET
from hwnas.runs.session import Run
from hwnas.supernets import processes
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.training import REPORT, TrainReport, train_supernet
from hwnas.zoo.starting import Start, read_start, start_from


def train_stage(run: Run) -> TrainReport:
    """Train the run's supernet, or go on where it stopped; with ``train.pretrained``, from an entry of the zoo.

    Of several processes only the first one claims the folder.

    Raises:
        SpaceError: The space does not fit the data.
        RunFolderError: The folder holds another training.
        ModelFileError: The entry of the zoo is damaged.
    """
    section = run.config.train
    folder = run.path / SUPERNET if processes.index() else run.folder.supernet
    if section.pretrained is not None and not section.phases:
        with processes.first_before_others():
            return _loaded(run, folder)
    supernet, start = run.new_supernet(), None
    if section.pretrained is not None:
        with processes.first_before_others():
            start = _started(run, supernet, folder)
    report = train_supernet(supernet, run.data, section, folder, sampling=section.sampling)
    if start is None or report.note.startswith(start.origin):
        return report
    noted = dataclasses.replace(report, note=f"{start.origin} {report.note}".strip())
    if processes.index() == 0:
        write_json(folder / REPORT, dataclasses.asdict(noted))
    return noted


def _started(run: Run, supernet: AnySupernet, folder: Path) -> Start:
    """Give the supernet the weights that training starts from, or has come to; a checkpoint has the last word."""
    if run.entry is not None:
        return start_from(run.entry, supernet, run.data, folder)
    supernet.load(folder)
    return read_start(folder)


def _loaded(run: Run, folder: Path) -> TrainReport:
    """Take the weights of the zoo's entry as they are."""
    begin = time.monotonic()
    if (folder / REPORT).exists():
        return TrainReport(**read_json(folder / REPORT))
    start = read_start(folder) if run.entry is None else start_from(run.entry, run.new_supernet(), run.data, folder)
    report = TrainReport(
        complete=True,
        steps=0,
        steps_total=0,
        seconds=round(time.monotonic() - begin, 3),
        phases=[],
        history=[],
        accuracies=start.accuracies,
        note=start.note,
    )
    write_json(folder / REPORT, dataclasses.asdict(report))
    return report


def settled_training(run: Run) -> TrainReport | None:
    """Return the report of a training that a search builds on already, which is never trained further."""
    report = run.path / SUPERNET / REPORT
    searching = (run.path / "search_state.json").exists() and report.exists()
    return TrainReport(**read_json(report)) if searching else None


def trained_supernet(run: Run) -> AnySupernet:
    """Return the supernet with the weights of the finished training."""
    supernet = run.new_supernet()
    supernet.load(run.folder.supernet)
    return supernet

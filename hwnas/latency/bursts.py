"""The raw bursts of a profile, kept beside its table: arrays without objects, compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from hwnas.errors import TableError
from hwnas.files import atomic_open
from hwnas.latency.analysis import SessionResult
from hwnas.latency.measurement import Cell

BURSTS_FILE = "bursts.npz"


def save_bursts(path: Path, result: SessionResult) -> None:
    """Write every burst as arrays without objects.

    ``keys [k]``, then per burst ``key`` (index into keys), ``group``, ``round``, ``epoch``, ``attempts``, ``pressure``
    and ``switches`` (NaN where unknown), ``length``; ``samples`` holds all bursts end to end.
    """
    cells = result.cells
    keys = sorted({cell.key for cell in cells})
    index = {key: number for number, key in enumerate(keys)}
    nan = float("nan")
    arrays: dict[str, Any] = {
        "keys": np.array(keys, dtype=np.str_),
        "key": np.array([index[cell.key] for cell in cells], dtype=np.int32),
        "group": np.array([cell.group for cell in cells], dtype=np.int16),
        "round": np.array([cell.round for cell in cells], dtype=np.int16),
        "epoch": np.array([cell.epoch for cell in cells], dtype=np.int16),
        "attempts": np.array([cell.attempts for cell in cells], dtype=np.int8),
        "pressure": np.array([nan if cell.pressure is None else cell.pressure for cell in cells], dtype=np.float32),
        "switches": np.array([nan if cell.switches is None else cell.switches for cell in cells], dtype=np.float32),
        "length": np.array([len(cell.samples) for cell in cells], dtype=np.int32),
        "samples": np.concatenate([cell.samples for cell in cells]) if cells else np.zeros(0),
    }
    with atomic_open(path, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_bursts(path: Path) -> list[Cell]:
    """Read what :func:`save_bursts` wrote, in the same order.

    Raises:
        TableError: Absent or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        ends = np.cumsum(arrays["length"])
        return [_cell(arrays, index, int(end)) for index, end in enumerate(ends)]
    except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile) as error:
        raise TableError(f"{path} cannot be read as the bursts of a profile: {error}. Profile again.") from error


def _cell(arrays: dict[str, Any], index: int, end: int) -> Cell:
    pressure, switches = float(arrays["pressure"][index]), float(arrays["switches"][index])
    return Cell(
        key=str(arrays["keys"][arrays["key"][index]]),
        group=int(arrays["group"][index]),
        round=int(arrays["round"][index]),
        epoch=int(arrays["epoch"][index]),
        samples=arrays["samples"][end - int(arrays["length"][index]) : end],
        pressure=None if np.isnan(pressure) else pressure,
        switches=None if np.isnan(switches) else int(switches),
        attempts=int(arrays["attempts"][index]),
    )

"""Columns of latencies beside a list of networks: what HELP publishes of Once-for-All's networks.

Source: Lee et al., "HELP" (NeurIPS 2021), data/ofa: one latency per network and column (a device at a batch size); a network
is ``ks`` and ``e`` of every layer position, ``d`` of every stage and the resolution ``r``, all at width 1.0.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import ConfigError, SpaceError, TableError
from hwnas.files import sha256_file
from hwnas.latency.importing.given import UNITS, GivenFile, GivenRow, positive
from hwnas.latency.model import FEWEST_ROWS
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space

WIDTH = 1.0
"""Width multiplier of all networks in HELP's files."""

_BATCHES = (1, 32, 64, 256)
"""Batch sizes that HELP's columns end in."""

_SHORT = {"nasbench201": "nb201"}
"""Where the list of networks goes by another name than the columns."""

_KEYS = ("ks", "e", "d", "r")
_MEND = "It must be an .npz file of plain numbers, one array a column: numpy.savez(FILE, NAME=array)."
_IMPORTABLE = "Networks of one space can be imported: mobilenetv3 (Once-for-All's ks, e, d and r)."


def read_columns(
    path: Path,
    space: SearchSpace[Architecture],
    column: str | None,
    architectures: Path | None,
    unit: str,
    batch: int,
) -> GivenFile:
    """Read one column of an ``.npz`` file and the networks it belongs to.

    Networks that are not of the space as set are left out, and a note says how many.

    Args:
        path: The ``.npz`` file: one array ``[n]`` a column.
        space: The space of the networks.
        column: Name of the column.
        architectures: JSON file of the ``n`` networks; ``X_arch.json`` beside ``X_latency.npz`` unless given.
        unit: Unit of the column, of :data:`UNITS`.
        batch: Batch size of the target.

    Raises:
        ConfigError: The space is not that of the networks.
        TableError: A file cannot be used, or holds networks of a space that is not here.
    """
    names, stem = _names_of(path), path.stem.removesuffix("_latency")
    listed = architectures or path.with_name(f"{_SHORT.get(stem, stem)}_arch.json")
    networks = _read_networks(listed)
    if column not in names:
        asked = "say which column" if column is None else f"there is no column {column!r}"
        raise TableError(f"{path}: {asked}: --column, one of {', '.join(names) or '(the file has none)'}.")
    values = _read_column(path, column)
    _require_batch(path, column, batch)
    if not isinstance(space, MobileNetV3Space):
        raise ConfigError(f"{listed} holds networks of mobilenetv3, not of {space.name}. Give their space: --space")
    if len(networks) != len(values):
        raise TableError(
            f"{path}, column {column} has {len(values)} latencies, {listed} {len(networks)} networks. "
            "Give the networks of these latencies: --architectures"
        )
    rows: dict[str, GivenRow] = {}
    left_out: list[str] = []
    for number, (network, value) in enumerate(zip(networks, values.tolist(), strict=True), start=1):
        latency = UNITS[unit] * positive(value, "latency", f"{path}, column {column}, entry {number}", unit)
        try:
            encoding = space.encode(_architecture_of(network, f"{listed}, entry {number}", space))
        except SpaceError as error:
            left_out.append(str(error).rstrip("."))
            continue
        key = space.id_of(encoding)
        if key in rows:
            raise TableError(
                f"{listed}, entry {number}: the same network as entry {rows[key].line}. "
                "Keep one of both in the two files, with the median latency."
            )
        rows[key] = GivenRow(number, key, encoding, latency)
    told = f"{len(left_out)} of {len(networks)} networks are not of space {space.name} as set and were left out"
    if left_out:
        told += f"; the first: {left_out[0]}"
    if left_out and len(rows) < FEWEST_ROWS:
        raise TableError(f"{path}: {told}. Give the space they were measured in: --space")
    facts = {"column": column, "architectures": {"file": listed.name, "sha256": sha256_file(listed)}}
    return GivenFile(path.name, sha256_file(path), tuple(rows.values()), facts, (told,) if left_out else ())


def _names_of(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        TableError: It is no ``.npz`` file, or one of nn-Meter's graphs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist. {_MEND}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise TableError(f"{path} cannot be read ({error}). {_MEND}") from error
    if {"rows", "offsets", "ops"} <= set(names):
        raise TableError(foreign_graphs(path))
    return names


def _read_column(path: Path, column: str) -> FloatArray:
    """Return a column, ``[n]``; no pickled object is ever read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = stored[column]
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise TableError(f"{path}, column {column} cannot be read ({error}). {_MEND}") from error
    if found.ndim != 1 or found.dtype.kind not in "fiu":
        raise TableError(f"{path}: column {column} has shape {list(found.shape)} of {found.dtype}. {_MEND}")
    return np.asarray(found, dtype=np.float64)


def foreign_graphs(where: Path | str) -> str:
    """Return why the graphs of nn-Meter's data set become no table, and what can be done with them."""
    return (
        f"{where} holds layer graphs of nn-Meter's data set, networks of no space: a table holds networks of one. {_IMPORTABLE} "
        "How well the kernel model does on these graphs: benchmarks/kernel_model_accuracy.py FOLDER (its graphs.npz). "
        "A kernel model of your own device: hwnas profile --kernels"
    )


def _require_batch(path: Path, column: str, batch: int) -> None:
    """Raise where a column's name ends in another batch size than the target's."""
    own = column.rpartition("_")[2]
    if own in map(str, _BATCHES) and int(own) != batch:
        raise TableError(
            f"{path}: column {column} was measured at batch {own}, the target has batch {batch}. "
            f"Give the target of batch {own}: --target DEVICE/RUNTIME-PRECISION{'' if own == '1' else f'-b{own}'}"
        )


def _read_networks(path: Path) -> list[dict[str, Any]]:
    mend = "It must be a JSON list with one object a network (ks, e, d, r): --architectures"
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TableError(
            f"{path} does not exist, so that it is not known which networks were measured. {mend}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"{path} cannot be read as JSON ({error}). {mend}") from error
    if not isinstance(listed, list) or not listed:
        raise TableError(f"{path} holds no list of networks. {mend}")
    if isinstance(listed[0], str):
        raise TableError(f"{path} holds cells of NAS-Bench-201, a space that hwnas does not have. {_IMPORTABLE}")
    if isinstance(listed[0], list):
        raise TableError(f"{path} holds operations of FBNet, a space that hwnas does not have. {_IMPORTABLE}")
    return listed


def _architecture_of(network: Any, where: str, space: MobileNetV3Space) -> MobileNetV3Architecture:
    """Return a network of Once-for-All; layers beyond a stage's depth do not exist.

    Raises:
        TableError: It is no such network.
        SpaceError: It is not of the space.
    """
    try:
        kernels, expands, depths, resolution = (network[key] for key in _KEYS)
        most, rest = divmod(len(kernels), len(depths))
        if rest or len(expands) != len(kernels) or not all(0 < depth <= most for depth in depths):
            raise ValueError("ks and e must have as many entries for each stage, and d no more than that")
        if not all(type(value) is int for value in (*kernels, *depths, resolution)):
            raise TypeError("ks, d and r must be whole numbers")
        stages = [
            {
                "kernels": kernels[most * index : most * index + depth],
                "expands": expands[most * index : most * index + depth],
            }
            for index, depth in enumerate(depths)
        ]
        whole = {"resolution": resolution, "width": WIDTH, "stages": stages}
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise TableError(
            f"{where}: no network of Once-for-All ({error!r}). It must be "
            '{"ks": [...], "e": [...], "d": [...], "r": 224}: kernel and expansion of every layer position, depth of every '
            "stage, resolution."
        ) from error
    return space.from_dict(whole)

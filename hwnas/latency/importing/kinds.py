"""Which kind of file was given, and which reader takes it; what is of no use here is refused with what to do instead."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.errors import ConfigError, TableError
from hwnas.latency.importing.block_table import compose
from hwnas.latency.importing.columns import read_columns
from hwnas.latency.importing.given import UNITS, GivenFile
from hwnas.latency.importing.rows import read_given
from hwnas.spaces.base import Architecture, SearchSpace

Kind = Literal["rows", "columns", "blocks"]

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib")
_PROTOCOLS = bytes(range(2, 6))
_YAML = (".yaml", ".yml")
_CONVERT = (
    "Convert it where you trust it; of HELP's data/ofa: python -c \"import json, numpy, pathlib, torch; "
    "load = lambda path: torch.load(path, weights_only=True); "
    "numpy.savez('ofa_latency.npz', **{path.stem: numpy.asarray(load(path)) for path in pathlib.Path('latency').glob('*.pt')}); "
    "json.dump(load('ofa_archs.pt')['arch'], open('ofa_arch.json', 'w'))\" "
    "and import ofa_latency.npz."
)


@dataclass(frozen=True)
class Reading:
    """What a person said about how to read a file.

    Attributes:
        column: Column of a file that has several.
        architectures: File that names the networks of the columns, if it is not beside them under its usual name.
        networks: Most networks to take of a file, or how many to compose of a table of blocks.
        unit: Unit of the latencies.
        batch: Batch size of the target.
        seed: Seed of the choice of networks.
    """

    column: str | None = None
    architectures: Path | None = None
    networks: int | None = None
    unit: str = "ms"
    batch: int = 1
    seed: int = 0


def kind_of(path: Path) -> Kind:
    """Return the kind of a file by its first bytes and its suffix.

    Raises:
        TableError: It is a pickle, which could run anything when it is read, or of a kind that cannot be read.
    """
    if path.is_dir():
        return _kind_of_folder(path)
    head = b""
    if path.is_file():
        try:
            with path.open("rb") as stream:
                head = stream.read(6)
        except OSError as error:
            raise TableError(f"{path} cannot be read ({error.strerror or error}). Mend its permissions.") from error
    is_zip = head.startswith(b"PK")
    if (
        path.suffix.lower() in _PICKLES
        or (head[:1] == b"\x80" and head[1:2] in [bytes([protocol]) for protocol in _PROTOCOLS])
        or (is_zip and _holds_pickle(path))
    ):
        raise TableError(f"{path} is a pickle, which runs what it likes when it is read; none is ever read. {_CONVERT}")
    if is_zip or path.suffix.lower() == ".npz":
        return "columns"
    if head == b"\x93NUMPY":
        raise TableError(f"{path} is one array without names. Save the columns by name: numpy.savez(FILE, NAME=array).")
    return "blocks" if path.suffix.lower() in _YAML else "rows"


def _kind_of_folder(path: Path) -> Kind:
    try:
        suffixes = {entry.suffix.lower() for entry in path.iterdir()}
    except OSError as error:
        raise TableError(f"{path} cannot be read ({error.strerror}).") from error
    if suffixes & set(_YAML):
        return "blocks"
    if suffixes & set(_PICKLES):
        raise TableError(
            f"{path} holds pickles, which run what they like when they are read; none is ever read. {_CONVERT}"
        )
    raise TableError(
        f"{path} is a folder without YAML files. Give a file, or a folder of Once-for-All's lookup tables "
        "(RESOLUTION_lookup_table.yaml)."
    )


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).suffix in _PICKLES for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_file(path: Path, space: SearchSpace[Architecture], reading: Reading) -> GivenFile:
    """Read and check a file of any kind.

    Raises:
        ConfigError: An option does not fit the file.
        TableError: The file cannot be used.
    """
    if reading.unit not in UNITS:
        raise ConfigError(f"--unit {reading.unit} must be one of {', '.join(UNITS)}.")
    kind = kind_of(path)
    blocks, exits = (space.settings().get(name, plain) for name, plain in (("blocks", "base"), ("exits", "single")))
    if kind != "rows" and (blocks, exits) != ("base", "single"):
        raise ConfigError(
            f"{path} is of Once-for-All's networks; --space has blocks: {blocks}, exits: {exits}. Leave those settings out."
        )
    if kind == "blocks" and reading.batch != 1:
        raise ConfigError(
            f"{path} is of single images, the target of batches of {reading.batch}. Give a target of batch 1."
        )
    if kind != "columns" and (reading.column or reading.architectures):
        raise ConfigError(
            f"--column and --architectures are for .npz files of columns; {path} has none. Leave them out."
        )
    if kind == "blocks":
        return compose(path, space, reading.unit, reading.networks, reading.seed)
    if kind == "columns":
        given = read_columns(path, space, reading.column, reading.architectures, reading.unit, reading.batch)
        return given.at_most(reading.networks, reading.seed)
    if reading.unit != "ms":
        raise ConfigError(f"--unit {reading.unit}: latency_ms of {path} is in milliseconds. Leave --unit out.")
    return read_given(path, space).at_most(reading.networks, reading.seed)

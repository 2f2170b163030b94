"""A person's own measured networks, one JSON document a line, made a latency table: checked line by line, never guessed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas.devices.fingerprint import major_minor
from hwnas.errors import ConfigError, RunFolderError, SpaceError, TableError
from hwnas.files import digest, explain_os_errors
from hwnas.latency.model import FEWEST_ROWS
from hwnas.latency.rows import LatencyRow, Split
from hwnas.latency.statistics import FloatArray
from hwnas.latency.table import LatencyTable, TableHeader
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.targets import Fingerprint, Target

IMPORTED = "imported"
"""Key of an identity, and of a table's ``header.session``, that says hwnas did not measure it; also its rows' estimator."""

COARSEST = 0.05
"""A tick above this share of the median latency is refused unless a person accepts it."""

HALF_WIDTH = 0.05
"""Half-width, as a share of the latency, of the interval of a row that came without one."""

_NETWORK = ("encoding", "architecture")
_NUMBERS = ("latency_ms", "low_ms", "high_ms")
_SHAPE = '{"encoding": [...], "latency_ms": 12.34} or {"architecture": {...}, "latency_ms": 12.34}'
_OFF_TICK = 0.01
_SAME = 1e-4


@dataclass(frozen=True)
class GivenRow:
    """One line of a person's file.

    Attributes:
        line: Its number, from 1.
        key: ``SearchSpace.id_of`` of the encoding.
        encoding: The canonical encoding, ``[n_genes]``.
        value: Milliseconds.
        interval: Lower and upper end, if given.
    """

    line: int
    key: str
    encoding: IntArray
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class GivenFile:
    """A person's file of measured networks.

    Attributes:
        name: Its name without folders.
        sha256: Digest of its bytes.
        rows: Its rows in order.
    """

    name: str
    sha256: str
    rows: tuple[GivenRow, ...]

    @property
    def values(self) -> FloatArray:
        """Milliseconds, ``[n]``."""
        return np.array([row.value for row in self.rows], dtype=np.float64)


def read_given(path: Path, space: SearchSpace[Architecture]) -> GivenFile:
    """Read and check a file of measured networks.

    Raises:
        TableError: It cannot be read, or a line is not a measured network of the space; the line is named.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist. Give a file with one line a network: {_SHAPE}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read as text ({error}). Each line must be {_SHAPE}.") from error
    rows: dict[str, GivenRow] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _read_row(line, number, where, space)
        if row.key in rows:
            raise TableError(
                f"{where}: the network {row.encoding.tolist()} stands on line {rows[row.key].line} already. "
                "Keep one line of it, with the median of both."
            )
        rows[row.key] = row
    return GivenFile(path.name, hashlib.sha256(data).hexdigest(), tuple(rows.values()))


def _read_row(line: str, number: int, where: str, space: SearchSpace[Architecture]) -> GivenRow:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{where}: not JSON ({error}). Each line must be {_SHAPE}.") from error
    if not isinstance(raw, dict):
        raise TableError(f"{where}: expected a JSON object, got {type(raw).__name__}. Each line must be {_SHAPE}.")
    unknown = sorted(raw.keys() - {*_NETWORK, *_NUMBERS})
    if unknown:
        known = ", ".join((*_NETWORK, *_NUMBERS))
        raise TableError(f"{where}: unknown key {unknown[0]!r}; known: {known}. Remove or rename it.")
    if len(raw.keys() & set(_NETWORK)) != 1:
        found = "both" if "encoding" in raw else "neither"
        raise TableError(f"{where}: give either encoding or architecture, not {found}. Each line must be {_SHAPE}.")
    if "latency_ms" not in raw:
        raise TableError(f"{where}: latency_ms is missing. Each line must be {_SHAPE}.")
    if ("low_ms" in raw) != ("high_ms" in raw):
        raise TableError(f"{where}: an interval needs both low_ms and high_ms. Add the other, or leave both out.")
    numbers = {name: _positive(raw[name], name, where) for name in _NUMBERS if name in raw}
    value = numbers["latency_ms"]
    interval = (numbers["low_ms"], numbers["high_ms"]) if "low_ms" in numbers else None
    if interval is not None and not interval[0] <= value <= interval[1]:
        raise TableError(
            f"{where}: the interval from low_ms={interval[0]:g} to high_ms={interval[1]:g} does not hold "
            f"latency_ms={value:g}. Mend the three numbers, or leave the interval out."
        )
    encoding = _encoding_of(raw, where, space)
    return GivenRow(number, space.id_of(encoding), encoding, value, interval)


def _positive(value: Any, name: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise TableError(
            f"{where}: {name}={str(value)[:40]} must be a positive, finite number of milliseconds. "
            "Leave out networks that could not be measured."
        )
    return number


def _encoding_of(raw: dict[str, Any], where: str, space: SearchSpace[Architecture]) -> IntArray:
    """Return the canonical encoding of a line's network."""
    try:
        if "architecture" in raw:
            if not isinstance(raw["architecture"], dict):
                raise TypeError(f"expected a JSON object, got {type(raw['architecture']).__name__}")
            return space.encode(space.from_dict(raw["architecture"]))
        genes = raw["encoding"]
        if not isinstance(genes, list) or not all(type(gene) is int for gene in genes):
            raise TypeError("expected a list of whole numbers")
        encoding = np.array(genes, dtype=np.int64)
        space.check_bounds(encoding)
        return np.asarray(space.repair(encoding[None])[0], dtype=np.int64)
    except (SpaceError, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        name = "architecture" if "architecture" in raw else "encoding"
        what = str(error) if isinstance(error, (SpaceError, TypeError)) else repr(error)
        raise TableError(
            f"{where}: {name} is no network of space {space.name} as set ({what.rstrip('.')}). "
            "Mend the line, or give the space it was measured in: --space."
        ) from error


def coarse_tick(values: FloatArray) -> float:
    """Return the tick that all ``values [n]`` are whole multiples of, if it is above 5 % of their median; else 0.

    Of several such ticks, the largest. The smallest step between two values, or from 0, holds every tick a whole number of
    times, so that few candidates need be tried.
    """
    steps = np.diff(np.concatenate([[0.0], np.sort(values)]))
    median = float(np.median(values))
    step = float(np.min(steps[steps > _SAME * median], initial=values.max()))
    for parts in range(1, math.ceil(step / (COARSEST * median))):
        counts = np.round(values * parts / step)
        if counts.min() < 1:
            continue
        tick = float(np.sum(values * counts) / np.sum(counts**2))
        if tick > COARSEST * median and np.all(np.abs(values - counts * tick) <= _OFF_TICK * tick):
            return tick
    return 0.0


def fingerprint_of(target: Target, machine: str, runtime_version: str | None) -> Fingerprint:
    """Return the fingerprint of numbers that another program measured; it never equals that of a machine measured here.

    Raises:
        ConfigError: The machine is not named.
    """
    if not machine.strip():
        raise ConfigError(
            "importing needs --machine, for example --machine 'Pixel 3, Cortex-A76': "
            "a table that does not say on which machine it was measured is refused everywhere."
        )
    version = (runtime_version or "").strip() or "unknown"
    identity = {
        IMPORTED: True,
        "cpu_model": machine.strip(),
        "protocol": IMPORTED,
        "runtime": target.runtime,
        "runtime_version": major_minor(version),
        "precision": target.precision,
        "threads": target.threads,
        "batch": target.batch,
    }
    return Fingerprint(identity=identity, context={"runtime_version": version})


def is_imported(fingerprint: Fingerprint) -> bool:
    """Whether numbers of this fingerprint were imported, so that no machine can be compared with it."""
    return bool(fingerprint.identity.get(IMPORTED))


def choose_held_out(rows: Sequence[GivenRow], space: SearchSpace[Architecture], share: float, seed: int) -> set[str]:
    """Return the keys of the rows that only judge.

    The smallest and the largest network of the space are never among them. Each key has its place in one order drawn by the
    seed, whatever other rows there are: a file that grew keeps most of its judges.
    """
    extremes = {space.id_of(space.encode(network)) for network in (space.smallest, space.largest)}
    free = sorted((row.key for row in rows if row.key not in extremes), key=lambda key: digest([seed, key]))
    return set(free[: round(share * len(rows))])


def import_table(
    path: Path,
    target: Target,
    space: SearchSpace[Architecture],
    *,
    machine: str,
    runtime_version: str | None = None,
    held_out: float = 0.2,
    coarse: bool = False,
    seed: int = 0,
) -> LatencyTable:
    """Make the latency table of a file of measured networks. Nothing is written.

    A row's ``model_digest``, of files that are not here, is that of the file it came from.

    Args:
        path: The file.
        target: What the networks were measured on.
        space: The space of the networks.
        machine: The machine, in words.
        runtime_version: Version of the runtime, if known.
        held_out: Share of the networks that only judge the model.
        coarse: Whether to take latencies that a coarse clock read.
        seed: Seed of the choice of held-out networks.

    Raises:
        ConfigError: The machine is not named, the share is impossible, or networks of the space share no blocks.
        TableError: The file cannot be used.
    """
    fingerprint = fingerprint_of(target, machine, runtime_version)
    if not 0 <= held_out <= 0.5:
        raise ConfigError(f"--held-out {held_out:g} must lie between 0 and 0.5, for example 0.2.")
    if not space.compositional:
        raise ConfigError(
            f"networks of space {space.name} share no blocks; no model of it can be fitted on whole latencies alone. "
            f"Measure its kernels: hwnas profile --kernels --target {target}"
        )
    given = read_given(path, space)
    judges = choose_held_out(given.rows, space, held_out, seed)
    left = len(given.rows) - len(judges)
    if left < FEWEST_ROWS:
        raise TableError(
            f"{path}: {len(given.rows)} networks, {len(judges)} of them held out, leave {left} to fit on; at least "
            f"{FEWEST_ROWS} are needed. Measure more networks, or lower --held-out."
        )
    tick = coarse_tick(given.values)
    if tick and not coarse:
        median = float(np.median(given.values))
        raise TableError(
            f"{path}: all latencies are whole multiples of {tick:.4g} ms, which is {tick / median:.0%} of their median "
            f"({median:.4g} ms): the clock that read them, or the rounding, is too coarse to learn from. Measure longer runs "
            "(many inferences between two looks at the clock) and report their means with more digits, or accept it: --coarse."
        )
    version = str(fingerprint.context["runtime_version"])
    header = TableHeader(
        target=target,
        fingerprint=fingerprint,
        space=space.name,
        settings=space.settings(),
        space_digest=space.digest,
        protocol={IMPORTED: True},
        canaries={},
        versions={"hwnas": hwnas.__version__, target.runtime: version},
        session={IMPORTED: {"file": given.name, "sha256": given.sha256, "rows": len(given.rows)}},
    )
    splits: dict[bool, Split] = {True: "held_out", False: "train"}
    rows = [_table_row(row, splits[row.key in judges], fingerprint, given.sha256, tick) for row in given.rows]
    return LatencyTable(header, tuple(rows))


def _table_row(given: GivenRow, split: Split, fingerprint: Fingerprint, sha256: str, tick: float) -> LatencyRow:
    half = max(HALF_WIDTH * given.value, tick / 2.0)
    low, high = given.interval or (given.value - half, given.value + half)
    return LatencyRow(
        key=given.key,
        encoding=tuple(int(gene) for gene in given.encoding),
        split=split,
        identity=fingerprint.identity_digest,
        context=fingerprint.context_digest,
        model_digest=sha256,
        estimator=IMPORTED,
        value=given.value,
        low=low,
        high=high,
        raw_value=given.value,
        corrected_value=given.value,
        floor=given.value,
        mad=0.0,
        count=1,
        rounds=1,
        grade="C",
        disturbed=(IMPORTED, "coarse_clock") if tick else (IMPORTED,),
    )


def require_new(folder: Path) -> None:
    """Raise unless nothing lies where a folder is to be made.

    Raises:
        RunFolderError: Something does.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise RunFolderError(f"{folder} exists already and is never overwritten. Use another folder: --output.")


@contextlib.contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder``; rename it to that only when the block succeeds.

    Raises:
        RunFolderError: Something lies there already.
        StorageError: It cannot be made.
    """
    folder = folder.absolute()
    require_new(folder)
    with contextlib.ExitStack() as stack:
        with explain_os_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent))
            made = Path(work) / folder.name
            made.mkdir()
        yield made
        require_new(folder)
        with explain_os_errors(folder):
            if folder.is_dir():
                folder.rmdir()
            made.rename(folder)

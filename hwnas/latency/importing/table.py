"""The latency table of a file that another program made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas.devices.fingerprint import major_minor
from hwnas.errors import ConfigError, TableError
from hwnas.files import digest
from hwnas.latency.importing.clock import coarse_tick
from hwnas.latency.importing.given import GivenFile, GivenRow
from hwnas.latency.importing.kinds import Reading, read_file
from hwnas.latency.model import FEWEST_ROWS
from hwnas.latency.rows import LatencyRow, Split
from hwnas.latency.table import LatencyTable, TableHeader
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.targets import Fingerprint, Target

IMPORTED = "imported"
"""Key of an identity, and of a table's ``header.session``, that says hwnas did not measure it; also its rows' estimator."""

COMPOSED = "composed from block table"
"""What an identity and rows say whose latencies are sums of blocks that were measured alone."""

HALF_WIDTH = 0.05
"""Half-width, as a share of the latency, of the interval of a row that came without one."""


def fingerprint_of(target: Target, machine: str, runtime_version: str | None, origin: bool | str = True) -> Fingerprint:
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
        IMPORTED: origin,
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
    reading: Reading | None = None,
) -> LatencyTable:
    """Make the latency table of a file of networks. Nothing is written.

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
        reading: How to read the file.

    Raises:
        ConfigError: The machine is not named, the share is impossible, an option does not fit the file, or networks of the
            space share no blocks.
        TableError: The file cannot be used.
    """
    fingerprint_of(target, machine, runtime_version)  # a machine without a name is told before anything is read
    if not 0 <= held_out <= 0.5:
        raise ConfigError(f"--held-out {held_out:g} must lie between 0 and 0.5, for example 0.2.")
    if not space.compositional:
        raise ConfigError(
            f"networks of space {space.name} share no blocks; no model of it can be fitted on whole latencies alone. "
            f"Measure its kernels: hwnas profile --kernels --target {target}"
        )
    reading = replace(reading or Reading(), batch=target.batch, seed=seed)
    given = read_file(path, space, reading)
    fingerprint = fingerprint_of(target, machine, runtime_version, COMPOSED if given.composed else True)
    judges = choose_held_out(given.rows, space, held_out, seed)
    left = len(given.rows) - len(judges)
    if left < FEWEST_ROWS:
        raise TableError(
            f"{path}: {len(given.rows)} networks, {len(judges)} of them held out, leave {left} to fit on; at least "
            f"{FEWEST_ROWS} are needed. Measure more networks, or lower --held-out."
        )
    tick = coarse_tick(given.readings)
    if tick and not coarse:
        median = float(np.median(given.readings))
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
        session={IMPORTED: provenance_of(given, reading.unit)},
    )
    splits: dict[bool, Split] = {True: "held_out", False: "train"}
    rows = [_table_row(row, splits[row.key in judges], fingerprint, given, tick) for row in given.rows]
    return LatencyTable(header, tuple(rows))


def provenance_of(given: GivenFile, unit: str) -> dict[str, Any]:
    """Return what a table's header says about the file it was made of."""
    found: dict[str, Any] = {"file": given.name, "sha256": given.sha256, "rows": len(given.rows), **given.facts}
    if given.composed:
        found["origin"] = COMPOSED
    if unit != "ms":
        found["unit"] = unit
    return found | ({"notes": list(given.notes)} if given.notes else {})


def _table_row(row: GivenRow, split: Split, fingerprint: Fingerprint, given: GivenFile, tick: float) -> LatencyRow:
    half = max(HALF_WIDTH * row.value, tick / 2.0)
    low, high = row.interval or (row.value - half, row.value + half)
    return LatencyRow(
        key=row.key,
        encoding=tuple(int(gene) for gene in row.encoding),
        split=split,
        identity=fingerprint.identity_digest,
        context=fingerprint.context_digest,
        model_digest=given.sha256,
        estimator=COMPOSED if given.composed else IMPORTED,
        value=row.value,
        low=low,
        high=high,
        raw_value=row.value,
        corrected_value=row.value,
        floor=row.value,
        mad=0.0,
        count=1,
        rounds=1,
        grade="C",
        disturbed=(IMPORTED, *(["composed"] if given.composed else []), *(["coarse_clock"] if tick else [])),
        kernels=dict(row.blocks),
    )

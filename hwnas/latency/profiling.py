"""Profiling a target: plan, build, measure, ask for kernels, write the table. Killed at any point, it goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas.config import ProfileSection
from hwnas.devices.models import BurstSpec
from hwnas.devices.session import open_session
from hwnas.errors import MeasurementFailure
from hwnas.files import Journal
from hwnas.latency.analysis import SessionResult
from hwnas.latency.bursts import BURSTS_FILE, save_bursts
from hwnas.latency.measurement import OnProgress
from hwnas.latency.measuring import measure_session
from hwnas.latency.model import LatencyModel
from hwnas.latency.networks import Networks, fingerprint_here, rows_of
from hwnas.latency.profile_plan import ProfilePlan, obtain_plan
from hwnas.latency.protocol import Protocol
from hwnas.latency.resident import unit_of
from hwnas.latency.rows import Split
from hwnas.latency.table import LatencyTable, TableHeader
from hwnas.latency.transferred import names_of, save_sources
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.targets import Device, Fingerprint, Target, find_device

TABLE_FILE = "table.jsonl"
JOURNAL_FILE = "journal.jsonl"
WORK_FOLDER = "work"
MODEL_FOLDER = "model"
SOURCES = "sources"
"""Key of a table's ``header.session`` that says what its networks were chosen to transfer from."""


@dataclass(frozen=True)
class ProfileReport:
    """What a profile gave.

    Attributes:
        table: The table.
        table_path: Where it was written.
        plan: What was planned, with what was cut to keep a time budget.
        estimator: Estimator chosen by leave-one-round-out error.
        drift: Range of the machine's round effects as a ratio minus one.
        repeatability: Median relative difference of the estimates from even and odd rounds; NaN if not known.
        grades: Grade -> networks.
        failures: Networks that could not be measured.
        seconds: Wall-clock time of this call.
    """

    table: LatencyTable
    table_path: Path
    plan: ProfilePlan
    estimator: str
    drift: float
    repeatability: float
    grades: dict[str, int]
    failures: int
    seconds: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, as sentences."""
        notes = list(self.plan.notes)
        if self.failures:
            notes.append(f"{self.failures} networks could not be measured; the table says why")
        if self.drift > 0.1:
            notes.append(f"the machine drifted by {self.drift:.0%} during the session; the values are corrected for it")
        return tuple(notes)


def protocol_of(section: ProfileSection, burst: BurstSpec | None = None) -> Protocol:
    """Return the protocol a run file asks for."""
    protocol = Protocol(rounds=section.rounds, seed=section.seed)
    return protocol if burst is None else replace(protocol, burst=burst)


def profile_target(
    target: Target,
    space: SearchSpace[Architecture],
    section: ProfileSection,
    folder: Path,
    *,
    device: Device | None = None,
    protocol: Protocol | None = None,
    sources: Sequence[LatencyModel] = (),
    on_progress: OnProgress | None = None,
    save: bool = True,
) -> ProfileReport:
    """Make the latency table of a target for a space in ``folder``.

    The same call on the same folder resumes: the plan is frozen in ``plan.json``, every burst is in ``journal.jsonl``.
    Written at the end: ``table.jsonl`` and, before it, the raw bursts in ``bursts.npz`` and copies of the sources in ``model/sources/``.

    Args:
        target: What to measure.
        space: Whose networks to measure.
        section: How many networks and rounds, how long at most, which seed.
        folder: Where everything goes.
        device: The device; found by the target's device name unless given.
        protocol: Measuring protocol; made from the section unless given.
        sources: Models of other targets to transfer from: the networks are then chosen for that.
        on_progress: Called with steps that add up to 1.
        save: Whether to write the table; not where more networks are to be measured first.

    Raises:
        ConfigError: Unknown device, runtime or precision.
        MissingRuntimeError: The runtime is missing, here or there.
        DeviceError: The device or a canary fails.
        RunFolderError: The folder holds another profile.
        SpaceError: The space has too few architectures.
    """
    start = time.monotonic()
    networks = Networks(space, target, folder / WORK_FOLDER)
    with open_session(device or find_device(target.device)) as session:
        fingerprint = fingerprint_here(session, target)
        wanted = (protocol or protocol_of(section)).for_unit(unit_of(session))
        plan = _plan(session, networks, section, folder, fingerprint, wanted, sources)
        splits: dict[str, Split] = {}
        splits |= {networks.item(row).key: "train" for row in plan.train}
        splits |= {networks.item(row).key: "held_out" for row in plan.held_out}
        items = [networks.item(row) for row in [*plan.train, *plan.held_out]]
        inspect = networks.inspector(session, {item.key for item in items[: plan.n_kernels]})
        journal = Journal(folder / JOURNAL_FILE)
        result = measure_session(session, target, items, plan.protocol, journal, on_progress, inspect=inspect)
        header = _header(session, target, space, plan.protocol, fingerprint, result, sources)
    table = LatencyTable(header, tuple(rows_of(result, networks.encodings, splits, fingerprint)))
    save_bursts(folder / BURSTS_FILE, result)
    if sources:
        save_sources(sources, folder / MODEL_FOLDER)
    if save:
        table.save(folder / TABLE_FILE)
    shutil.rmtree(networks.folder, ignore_errors=True)
    return _report(table, folder / TABLE_FILE, plan, result, time.monotonic() - start)


def _plan(
    session: Any,
    networks: Networks,
    section: ProfileSection,
    folder: Path,
    fingerprint: Fingerprint,
    protocol: Protocol,
    sources: Sequence[LatencyModel],
) -> ProfilePlan:
    try:
        return obtain_plan(session, networks, section, folder, fingerprint, protocol, sources)
    except MeasurementFailure as failure:
        raise type(failure)(
            failure.kind, f"a network that the profile begins with does not run on {networks.target}: {failure.detail}"
        ) from failure


def _header(
    session: Any,
    target: Target,
    space: SearchSpace[Architecture],
    protocol: Protocol,
    fingerprint: Fingerprint,
    result: SessionResult,
    sources: Sequence[LatencyModel],
) -> TableHeader:
    return TableHeader(
        target=target,
        fingerprint=fingerprint,
        space=space.name,
        settings=space.settings(),
        space_digest=space.digest,
        protocol=protocol.as_dict(),
        canaries=result.canaries,
        unit=unit_of(session),
        versions={"hwnas": hwnas.__version__, target.runtime: session.hello().runtimes[target.runtime].version},
        session={
            "estimator": result.estimator,
            "errors": result.errors,
            "drift": result.drift,
            **({SOURCES: names_of(sources)} if sources else {}),
        },
    )


def _report(table: LatencyTable, path: Path, plan: ProfilePlan, result: SessionResult, seconds: float) -> ProfileReport:
    measured = table.measured()
    halves = np.array([row.halves for row in measured if len(row.halves) == 2])
    repeatability = float(np.median(np.abs(halves[:, 0] / halves[:, 1] - 1.0))) if len(halves) else float("nan")
    grades = {grade: sum(row.grade == grade for row in measured) for grade in ("A", "B", "C")}
    failures = len(table.failures)
    return ProfileReport(table, path, plan, result.estimator, result.drift, repeatability, grades, failures, seconds)

r"""Measuring many networks in one session, so that every number is comparable with every other.

What a number means. A shared host is up to tens of percent slower for minutes at a time, so two honest medians of one
network taken at different times differ by more than many a budget's slack. A latency here is therefore always *under a
reference condition*, and the canaries tell how far the machine is from it:

* profiling: every network is measured in every round; the value is its median under the session's median condition, and
  the canaries' values under that condition go into the table's header as the reference;
* later (networks added by a search, verification of an artifact): canaries are measured beside the network, and where
  they differ *significantly* (twice the standard error) from the reference, the network's number is divided by that
  ratio, interpolated between the small and the large canary, because slow phases stretch networks unequally. The
  uncertainty of the ratio widens the interval.

So model, search and verdict speak of one quantity, and a verdict is repeatable although the raw median is not. The raw
value is stored beside the corrected one, always.

What a kill costs. Every chunk of bursts is one journal record (:attr:`Protocol.canary_period` networks). The order of
work follows from the seed, so the same call on the same journal does exactly what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.errors import DeviceError, MeasurementFailure
from hwnas.files import Journal
from hwnas.latency.analysis import SessionResult, analyse
from hwnas.latency.canaries import CANARIES, build_canaries
from hwnas.latency.measurement import Cell, MeasureItem, Measurement, OnProgress
from hwnas.latency.protocol import Protocol
from hwnas.latency.resident import Resident, exclusive, limits_of, rest, unit_of, visit
from hwnas.latency.session_state import SessionState
from hwnas.latency.verdicts import measure_model
from hwnas.targets import Target

__all__ = ["Inspect", "measure_model", "measure_networks", "measure_session", "partition", "schedule"]

Inspect = Callable[[str, str], dict[str, Any] | None]
"""``inspect(key, handle)``: what else to learn of a loaded network."""


def partition(keys: Sequence[str], protocol: Protocol) -> list[list[str]]:
    """Return groups of at most ``max_resident`` networks, in an order drawn from the seed, of nearly equal size."""
    order = np.random.default_rng([protocol.seed, 1]).permutation(len(keys))
    count = -(-len(keys) // protocol.max_resident)
    return [[keys[index] for index in part] for part in np.array_split(order, max(count, 1))]


def schedule(groups: int, protocol: Protocol) -> list[tuple[int, list[int]]]:
    """Return ``(group, rounds)`` in order: one stretch for a single group, else several passes over all groups."""
    passes = 1 if groups == 1 else min(protocol.passes, protocol.rounds)
    stretches = np.array_split(np.arange(protocol.rounds), passes)
    return [(group, [int(number) for number in part]) for part in stretches for group in range(groups)]


def _check_canaries(cells: Sequence[Cell], target: Target) -> None:
    for cell in cells:
        if cell.key in CANARIES and cell.failure is not None:
            raise DeviceError(
                f"the reference network {cell.key} failed on {target} ({cell.failure[0]}: {cell.failure[1]}). "
                "Check the runtime with: hwnas devices."
            )


def _run_round(
    group: Resident, number: int, index: int, missing: list[str], step: float, on_progress: OnProgress
) -> None:
    protocol, state = group.protocol, group.state
    unit = (index, number, state.epoch)
    rng = np.random.default_rng([protocol.seed, 2, index, number])
    order = sorted(missing)
    rng.shuffle(order)
    for start in range(0, len(order), protocol.canary_period):
        keys = [key for key in order[start : start + protocol.canary_period] if key in group.handles]
        keys = [key for key in keys if key not in state.failures]
        visited = [*CANARIES, *keys]
        rng.shuffle(visited)
        cells = visit(group.session, group.handles, visited, unit, protocol)
        _check_canaries(cells, group.target)
        state.add(cells)
        for cell in cells:
            if cell.failure is not None and state.counts[cell.key] >= protocol.max_failures:
                state.fail(cell.key, *cell.failure)
        on_progress(step * len(keys), f"round {number + 1}, group {index + 1}")
    rest(group.session, protocol.pause_ms)


def _inspect(group: Resident, key: str, inspect: Inspect | None) -> None:
    if inspect is None or key in group.state.extras or key not in group.handles:
        return
    try:
        value = inspect(key, group.handles[key])
    except MeasurementFailure as failure:
        value = {"failure": [failure.kind, failure.detail]}
    if value is not None:
        group.state.note_extra(key, value)


def _ignore(step: float, note: str) -> None:
    """Show no progress."""


def measure_session(
    session: Any,
    target: Target,
    items: Sequence[MeasureItem],
    protocol: Protocol,
    journal: Journal,
    on_progress: OnProgress | None = None,
    reference: Mapping[str, float] | None = None,
    inspect: Inspect | None = None,
) -> SessionResult:
    """Measure networks in one session (see the module's docstring), resuming from the journal.

    Args:
        session: Open session of the device.
        target: What the networks run on.
        items: Networks with unique keys.
        protocol: How they are measured.
        journal: Where every chunk of bursts is kept; the same one resumes.
        on_progress: Called with steps that add up to 1.
        reference: Canary latencies of the table the results are to be compared with.
        inspect: Called once per network when it is loaded, ``inspect(key, handle)``; what it returns (JSON data, None
            for nothing) is journalled and comes back in ``extras``.

    Raises:
        DeviceError: A canary cannot be measured.
        RunFolderError: The journal belongs to other work.
        ValueError: Two items share a key.
    """
    keys = [item.key for item in items]
    if len(set(keys)) != len(keys) or set(keys) & set(CANARIES):
        raise ValueError("keys of the items to measure must be unique and no canary's")
    protocol = protocol.for_unit(unit_of(session))
    state = SessionState(journal, keys, protocol, target)
    by_key = {item.key: item for item in items}
    groups = partition(keys, protocol)
    step = 1.0 / max(len(keys) * protocol.rounds, 1)
    report = on_progress or _ignore
    with TemporaryDirectory(prefix="hwnas-canaries-") as folder, exclusive(session):
        canaries = build_canaries(registry.load("backend", target.runtime), target, Path(folder))
        for index, rounds in schedule(len(groups), protocol):
            missing = state.missing(groups[index], rounds)
            needed = [key for key in groups[index] if any(key in entry for entry in missing.values())]
            report(step * (len(groups[index]) * len(rounds) - sum(map(len, missing.values()))), "resumed")
            if needed:
                group = Resident(session, target, protocol, state)
                for name, files in canaries.items():
                    group.load_canary(name, files)
                for key in needed:
                    group.load(by_key[key])
                    _inspect(group, key, inspect)
                if group.warm_up((index, -1, state.epoch)):
                    state.note_cold(index)
                for number in rounds:
                    _run_round(group, number, index, missing[number], step, report)
                group.unload()
    return _result(session, state, keys, protocol, reference)


def _result(
    session: Any, state: SessionState, keys: Sequence[str], protocol: Protocol, reference: Mapping[str, float] | None
) -> SessionResult:
    unit = unit_of(session)
    good = [cell for cell in state.cells if cell.key not in state.failures]
    known = ("cold_start",) if state.cold else ()
    result = analyse(
        good, list(CANARIES), protocol, reference=reference, limits=limits_of(session), unit=unit, known=known
    )
    found = {measurement.key: measurement for measurement in result.measurements}
    ordered = []
    for key in keys:
        if key in found:
            loaded = state.loaded[key]
            ordered.append(replace(found[key], model_digest=loaded["digest"], load_ms=loaded["load_ms"]))
        else:
            kind, detail = state.failures.get(key, ("unstable", "no burst succeeded"))
            ordered.append(Measurement.failed(key, kind, detail, unit))
    return replace(result, measurements=tuple(ordered), extras=dict(state.extras))


def measure_networks(
    session: Any,
    target: Target,
    items: Sequence[MeasureItem],
    protocol: Protocol,
    journal: Journal,
    on_progress: OnProgress | None = None,
    reference: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """Return the measurements of :func:`measure_session`, in the order of ``items``; same arguments and errors."""
    return list(measure_session(session, target, items, protocol, journal, on_progress, reference).measurements)

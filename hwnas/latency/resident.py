"""The networks loaded together on a device, and bursts of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.errors import DeviceError, MeasurementFailure
from hwnas.files import digest, sha256_file
from hwnas.latency.analysis import contended
from hwnas.latency.measurement import Cell, MeasureItem
from hwnas.latency.protocol import COUNTED, Protocol, is_time
from hwnas.latency.session_state import SessionState
from hwnas.latency.statistics import clearly_positive
from hwnas.targets import Target

WARM_UP = BurstSpec(target_ms=10.0, min_runs=3, max_runs=200, discard=2)
"""The burst after loading, which is not recorded."""

MAX_WARM_UPS = 60
"""Bursts after loading at most, where the networks are cold."""

_STILL_FADING = 0.005
_FEW = 10
"""Networks below which no test can tell; half of them must then fade, and by more."""
_FEW_FADE = 0.02

Unit = tuple[int, int, int]
"""Group, round and epoch."""

_FINAL_KINDS = ("unsupported_op", "load_failed", "fallback", "wrong_output")


def exclusive(session: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the session's exclusive hold on the machine's measuring lock, if it has one."""
    hold = getattr(session, "exclusive", None)
    return hold() if hold is not None else contextlib.nullcontext()


def unit_of(session: Any) -> str:
    """Return the unit of the session's samples."""
    return str(getattr(session, "unit", "ms"))


def warm_up_spec(session: Any) -> BurstSpec:
    """Return the burst after loading, which is not recorded."""
    return WARM_UP if is_time(unit_of(session)) else COUNTED


def limits_of(session: Any) -> tuple[str, ...]:
    """Return what the device says it cannot do."""
    return tuple(session.hello().limits)


def rest(session: Any, pause_ms: float) -> None:
    """Leave the device alone for a while; a session whose device has a clock of its own passes the time there."""
    passes = getattr(session, "rest", None)
    if passes is not None:
        passes(pause_ms)
    else:
        time.sleep(pause_ms / 1000.0)


def files_digest(files: ModelFiles) -> str:
    """Return the sha256 that names the content of a model's files."""
    return digest([sha256_file(path) for path in files.all])


class Resident:
    """The networks loaded together, and the canaries beside them."""

    def __init__(self, session: Any, target: Target, protocol: Protocol, state: SessionState) -> None:
        self.session = session
        self.target = target
        self.protocol = protocol
        self.state = state
        self.handles: dict[str, str] = {}
        self.items: list[MeasureItem] = []

    def load(self, item: MeasureItem) -> None:
        """Load one network; a failure is recorded, not raised. A crash is tried once more."""
        key = item.key
        self.items.append(item)
        for attempt in range(2):
            try:
                files = item.obtain()
                model = self.session.load(files, self.target)
            except MeasurementFailure as failure:
                if attempt == 0 and failure.kind not in _FINAL_KINDS:
                    continue
                self.state.fail(key, failure.kind, failure.detail)
                return
            self.handles[key] = model.handle
            self.state.note_loaded(key, files_digest(files), model.load_ms, model.provider)
            return

    def load_canary(self, name: str, files: ModelFiles) -> None:
        """Load a canary.

        Raises:
            DeviceError: It cannot be loaded: nothing measured here would mean anything.
        """
        try:
            self.handles[name] = self.session.load(files, self.target).handle
        except MeasurementFailure as failure:
            raise DeviceError(
                f"{self.target} cannot load the reference network {name} ({failure}). "
                "Check the runtime with: hwnas devices."
            ) from failure

    def warm_up(self, unit: Unit) -> bool:
        """Warm the group up; see :func:`warm_up`."""
        return warm_up(self.session, self.handles, unit)

    def unload(self) -> None:
        """Free every model of the group."""
        for handle in self.handles.values():
            with contextlib.suppress(MeasurementFailure):
                self.session.unload(handle)
        self.handles.clear()
        for item in self.items:
            if item.release is not None:
                item.release()
        self.items.clear()


def warm_up(session: Any, handles: Mapping[str, str], unit: Unit) -> bool:
    """Run what is not recorded, again while the networks get faster. Returns whether their first runs were cold."""
    spec = warm_up_spec(session)
    before: list[dict[str, float]] = []
    for number in range(MAX_WARM_UPS):
        cells = [cell for cell in burst(session, handles, list(handles), unit, spec) if np.all(cell.samples > 0)]
        cells = [cell for cell in cells if len(cell.samples)]
        earlier = before[-2:][0] if before else {}
        if not _still_cold([_fading(cell, earlier.get(cell.key)) for cell in cells], bool(before)):
            return number > 0
        before.append({cell.key: float(np.median(cell.samples)) for cell in cells})
    return True


def burst(
    session: Any, handles: Mapping[str, str], keys: Sequence[str], unit: Unit, spec: BurstSpec, attempts: int = 1
) -> list[Cell]:
    """Run one burst of each network in this order; if the device gives up on the round, each network alone.

    Args:
        session: Open session of the device.
        handles: Key -> handle of the loaded networks.
        keys: Networks to run.
        unit: Group, round and epoch of the bursts.
        spec: How long a burst lasts.
        attempts: How often these bursts have been tried, this time included.
    """
    try:
        bursts = session.burst_round([handles[key] for key in keys], spec)
    except MeasurementFailure as failure:
        if len(keys) == 1:
            return [Cell(keys[0], *unit, np.zeros(0), attempts=attempts, failure=(failure.kind, failure.detail))]
        return [burst(session, handles, [key], unit, spec, attempts)[0] for key in keys]
    return [Cell.from_burst(entry, key, unit, attempts) for entry, key in zip(bursts, keys, strict=True)]


def _still_cold(fading: Sequence[float], going_on: bool) -> bool:
    """Whether networks get faster; to begin takes strong signs, for warm networks shall not pay, to go on weak ones."""
    if len(fading) < _FEW:
        middle = float(np.median(fading)) if len(fading) else 0.0
        return middle > (_FEW_FADE if going_on else 2.0 * _FEW_FADE)
    return clearly_positive(fading, _STILL_FADING, 0.95 if going_on else 0.999)


def _fading(cell: Cell, earlier: float | None) -> float:
    """Return by how much (log ratio) a burst was faster than an earlier one; without one, its second half than its first."""
    half = max(len(cell.samples) // 2, 1)
    first, second = (float(np.median(part)) for part in (cell.samples[:half], cell.samples[-half:]))
    return float(np.log(first / second if earlier is None else earlier / float(np.median(cell.samples))))


def visit(session: Any, handles: Mapping[str, str], keys: Sequence[str], unit: Unit, protocol: Protocol) -> list[Cell]:
    """Measure a chunk of networks: one burst each, contended ones again while that is worth it."""
    cells = burst(session, handles, keys, unit, protocol.burst)
    for attempt in range(protocol.retries):
        again = [index for index, cell in enumerate(cells) if cell.failure is None and contended(cell, protocol)]
        if not again or len(again) > max(1.0, protocol.chronic_share * len(cells)):
            break
        repeated = burst(session, handles, [keys[index] for index in again], unit, protocol.burst, attempt + 2)
        for index, cell in zip(again, repeated, strict=True):
            better = cell.failure is None and disturbance(cell) < disturbance(cells[index])
            cells[index] = cell if better else replace(cells[index], attempts=attempt + 2)
    return cells


def disturbance(cell: Cell) -> tuple[float, float]:
    """Order bursts by how much other work disturbed them (never by how fast they were)."""
    return (cell.pressure or 0.0, (cell.switches or 0) / max(len(cell.samples), 1))

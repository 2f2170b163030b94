"""Measuring on until a model's intervals are narrow enough: first what covers the space, then the networks known least."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwnas.config import ProfileSection
from hwnas.devices.session import open_session
from hwnas.files import read_json, write_json
from hwnas.latency.measurement import OnProgress
from hwnas.latency.model import LatencyModel
from hwnas.latency.networks import measure_encodings
from hwnas.latency.predictor import LatencyPredictor
from hwnas.latency.rows import encodings_of
from hwnas.latency.sampling import draw
from hwnas.latency.statistics import FloatArray
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.targets import Device

FIRST = 60
"""Networks measured before the intervals are looked at."""
STEP = 30
"""Networks measured between two looks."""
_POOL = 2000
STEPS_FILE = "steps.json"
"""What was chosen to be measured, step by step; in the folder of the journals."""
_AT_RANDOM = 1 / 3
"""Share of a step that is drawn at random: the widest intervals alone may all lie in one corner of the space."""

Clock = Callable[[], float]


def half_widths(model: LatencyPredictor, X: IntArray) -> FloatArray:
    """Return half the width of each network's interval as a share of its predicted latency, ``[n]``."""
    found = model.predict(X)
    return np.asarray((found.high - found.low) / (2.0 * found.value), dtype=np.float64)


def _pool(table: LatencyTable, space: SearchSpace[Architecture], seed: int) -> IntArray:
    rng = np.random.default_rng([seed, 5, len(table.rows)])
    return draw(space, rng, _POOL, list(encodings_of(table.rows)), at_most=True)


def _least_known(pool: IntArray, widths: FloatArray, count: int) -> IntArray:
    """Return ``count`` networks of the pool, which is in random order: some as they come, the others by width."""
    drawn = round(_AT_RANDOM * count)
    widest = drawn + np.argsort(-widths[drawn:], kind="stable")[: count - drawn]
    return np.asarray(pool[np.concatenate([np.arange(drawn), widest])], dtype=np.int64)


def narrow(
    table: LatencyTable,
    space: SearchSpace[Architecture],
    section: ProfileSection,
    folder: Path,
    device: Device,
    *,
    seconds_left: float = float("inf"),
    step_seconds: float = 0.0,
    on_progress: Callable[[int], OnProgress] | None = None,
    clock: Clock = time.monotonic,
) -> tuple[LatencyTable, str]:
    """Measure more networks until the median half-width over the space is at most ``section.interval``.

    It ends, too, with ``section.networks`` networks to fit on, or when the next step would take longer than is left. Called
    again on the same folder and first table, it takes every step that was chosen before, and then goes on.

    Args:
        table: The table so far.
        space: Its space.
        section: ``interval``, ``networks``, ``seed`` and ``coverage``.
        folder: Where journals go.
        device: The table's device.
        seconds_left: Longest time to measure.
        step_seconds: What a step is likely to take; what one took counts if it is more.
        on_progress: Networks of a step -> what is called with steps that add up to 1.
        clock: Seconds.

    Returns:
        The table with the rows added, and how it ended, as a sentence.

    Raises:
        TableError: The table is too small or of another space.
        DeviceError: A canary cannot be measured.
    """
    assert section.interval is not None

    def measure(X: IntArray) -> LatencyTable:
        advance = on_progress(len(X)) if on_progress is not None else None
        with open_session(device) as session:
            rows = measure_encodings(session, table, space, X, folder, split="train", on_progress=advance)
        return table.with_rows(rows)

    start, path = clock(), folder / STEPS_FILE
    steps: list[list[list[int]]] = read_json(path) if path.exists() else []
    for step in steps:
        table = measure(np.array(step, dtype=np.int64))
    while True:
        model = LatencyModel.fit(table, space, seed=section.seed, coverage=section.coverage)
        pool, measured = _pool(table, space, section.seed), len(table.measured("train"))
        asked = f"{100 * section.interval:.2g} % was asked for"
        if not len(pool):
            return table, f"every network of the space was measured, {measured} to fit on; {asked}"
        widths = half_widths(model, pool)
        state = f"the intervals' median half-width is {100 * float(np.median(widths)):.2g} % with {measured} networks"
        if float(np.median(widths)) <= section.interval:
            return table, f"{state}; {asked}"
        count = min(STEP, section.networks - measured, len(pool))
        if count <= 0:
            return table, f"{state}, as many as profile.networks allows; {asked}"
        begun = clock()
        if begun - start + step_seconds > seconds_left:
            return table, f"{state} when the time was over; {asked}"
        chosen = _least_known(pool, widths, count)
        steps.append(chosen.tolist())
        write_json(path, steps)
        table = measure(chosen)
        step_seconds = max(step_seconds, clock() - begun)
        if len(table.measured("train")) == measured:
            return table, f"{state}, and no more could be measured; {asked}"

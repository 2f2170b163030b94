"""What moved the machine during a session, told from the order of its bursts.

Every burst's median is compared with the level of its network; what is left says how slow the machine was at that moment.
Three things are told apart, by what they leave:

- ``throttling``: slower towards the end of nearly every spell of load, and fast again after the pause behind it. Pauses are
  ``Protocol.pause_ms`` between rounds, and the loading of another group; without one it is called drift;
- ``two_speeds``: the bursts fall into two clusters, and the machine goes to and fro between them;
- ``drift``: the machine moved in any other way, a step, a ramp or a slow phase.

They exclude each other. A coarse clock is told from the samples alone; a cold start by the warm-up
(:meth:`hwnas.latency.resident.Resident.warm_up`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.latency.clocks import middle_of, tick_of
from hwnas.latency.measurement import Cell
from hwnas.latency.protocol import Protocol
from hwnas.latency.statistics import MAD_SCALE, MEDIAN_ERROR, FloatArray, median_deviation
from hwnas.spaces.base import IntArray

DRIFT_LIMIT = 0.10
"""How far the machine must move to be called drifting, as a ratio minus one."""

_LEAST_RISE = 0.03
_LEAST_GAP = 0.04
_CLUSTERED = 4.5
_RARE_MODE = 0.1
_BETWEEN = 0.05
_CONSISTENT = 0.75
_FEWEST_CELLS = 20
_FEWEST_CHANGES = 3
_WINDOW = 8
_SMOOTHED = 5
_SWEEPS = 30
_SHORTEST = 1e-6
_LONG_PAUSE_MS = 20.0
_NOISE_RANGE = 3.29
"""Distance of the 5th from the 95th percentile of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class _Track:
    """Bursts of one group in the order of measuring.

    Attributes:
        slow: Log ratio of each burst to its network's level, ``[bursts]``; levels are fitted with the machine's effects.
        from_fast: The same to what the network needs when the machine is fast: nearly the lowest of its bursts.
        unit: Number of its round.
        spell: Number of the uninterrupted load it belongs to.
    """

    slow: FloatArray
    from_fast: FloatArray
    unit: IntArray
    spell: IntArray


def _tracks(cells: Sequence[Cell], pause_ms: float) -> dict[int, list[tuple[Cell, int]]]:
    """Return group -> its bursts with the number of their spell."""
    tracks: dict[int, list[tuple[Cell, int]]] = {}
    before: Cell | None = None
    spell = -1
    for cell in cells:
        loaded = before is None or (cell.group, cell.epoch) != (before.group, before.epoch)
        paused = before is not None and cell.unit != before.unit and pause_ms >= _LONG_PAUSE_MS
        spell += loaded or paused
        tracks.setdefault(cell.group, []).append((cell, spell))
        before = cell
    return tracks


def _windows(unit: IntArray, size: int) -> IntArray:
    """Return the number of the window of each burst: about ``size`` neighbours of one round."""
    windows = np.zeros(len(unit), dtype=np.int64)
    count = 0
    for number in np.unique(unit):
        own = np.flatnonzero(unit == number)
        for part in np.array_split(own, max(len(own) // size, 1)):
            windows[part] = count
            count += 1
    return windows


def _levels(logs: FloatArray, network: IntArray, window: IntArray) -> FloatArray:
    """Return the level of each network: least squares of ``logs = level + effect of the window``, by turns."""
    sizes, lengths = np.bincount(network), np.bincount(window)
    level = np.zeros(len(sizes))
    for _ in range(_SWEEPS):
        effect = np.bincount(window, logs - level[network]) / lengths
        effect -= np.mean(effect)
        level = np.bincount(network, logs - effect[window]) / sizes
    return np.asarray(level)


def _track(entries: Sequence[tuple[Cell, int]], keys: Collection[str], tick: float) -> _Track:
    entries = [entry for entry in entries if entry[0].key in keys and np.any(entry[0].samples > 0)]
    units = {unit: number for number, unit in enumerate(dict.fromkeys(cell.unit for cell, _ in entries))}
    names = {key: number for number, key in enumerate(dict.fromkeys(cell.key for cell, _ in entries))}
    network = np.array([names[cell.key] for cell, _ in entries], dtype=np.int64)
    unit = np.array([units[cell.unit] for cell, _ in entries], dtype=np.int64)
    spell = np.array([spell for _, spell in entries], dtype=np.int64)
    logs = np.log([max(middle_of(cell.samples, tick), tick, _SHORTEST) for cell, _ in entries])
    fast = np.array([np.percentile(logs[network == number], 10.0, method="lower") for number in range(len(names))])
    level = _levels(logs, network, _windows(unit, _WINDOW // 2))
    return _Track(logs - level[network], logs - fast[network], unit, spell)


def _clearly(values: Sequence[float], least: float) -> bool:
    """Whether the median of values is at least ``least``, and three times its standard error."""
    found = np.asarray(values, dtype=np.float64)
    if not len(found):
        return False
    error = MEDIAN_ERROR * MAD_SCALE * median_deviation(found) / np.sqrt(len(found))
    return bool(np.median(found) >= max(least, 3.0 * error))


def _throttled(tracks: Sequence[_Track]) -> bool:
    rises: list[float] = []
    falls: list[float] = []
    for track in tracks:
        end = None
        for spell in np.unique(track.spell):
            own = track.slow[track.spell == spell]
            few = min(-(-len(own) // 3), _WINDOW)
            start = float(np.median(own[:few]))
            falls += [] if end is None else [end - start]
            end = float(np.median(own[-few:]))
            rises.append(end - start)
    if len(falls) < 2:
        return False
    steady = [float(np.mean(np.array(moves) >= _LEAST_RISE)) >= _CONSISTENT for moves in (rises, falls)]
    return all(steady) and _clearly(rises, _LEAST_RISE) and _clearly(falls, _LEAST_RISE)


def _split(values: FloatArray) -> float:
    """Return the boundary that leaves the least variance in two parts (Otsu 1979)."""
    ordered = np.sort(values)
    count = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    below, above = sums[:-1] / count, (sums[-1] - sums[:-1]) / (len(ordered) - count)
    best = int(np.argmax(count * (len(ordered) - count) * (above - below) ** 2))
    return float((ordered[best] + ordered[best + 1]) / 2.0)


def _has_two_speeds(track: _Track) -> bool:
    slow = track.from_fast
    if len(slow) < _FEWEST_CELLS:
        return False
    late = slow > _split(slow)
    if not _RARE_MODE <= np.mean(late) <= 1.0 - _RARE_MODE:
        return False
    parts = [slow[late], slow[~late]]
    gap = float(np.median(parts[0]) - np.median(parts[1]))
    spread = MAD_SCALE * float(np.sqrt(np.mean([median_deviation(part) ** 2 for part in parts])))
    between = np.abs(slow - np.mean([np.median(part) for part in parts])) < gap / 6.0
    if gap < max(_LEAST_GAP, _CLUSTERED * spread) or np.mean(between) > _BETWEEN:
        return False
    views = np.lib.stride_tricks.sliding_window_view(late, _SMOOTHED)
    steady = np.median(views, axis=1)
    return int(np.count_nonzero(np.diff(steady))) >= _FEWEST_CHANGES and (
        # a network that was never fast takes the slow level for its fast one; the fitted levels do not
        _unlike_a_step(track.slow > _split(track.slow)) >= _RARE_MODE / 2.0
    )


def _unlike_a_step(late: NDArray[np.bool_]) -> float:
    """Return the share of bursts that the best single change, fast before and slow after or the reverse, leaves wrong."""
    before = np.concatenate([[0], np.cumsum(late)])
    wrong = before + (len(late) - np.arange(len(late) + 1)) - (before[-1] - before)
    return float(min(wrong.min(), len(late) - wrong.max())) / len(late)


def _movement(track: _Track) -> float:
    """Return by how much the machine moved, as a ratio minus one, less what noise alone would show."""
    effects: list[float] = []
    noise: list[FloatArray] = []
    sizes: list[int] = []
    windows = _windows(track.unit, _WINDOW)
    for number in range(int(windows.max(initial=-1)) + 1):
        part = track.slow[windows == number]
        effects.append(float(np.median(part)))
        noise.append(part - effects[-1])
        sizes.append(len(part))
    if len(effects) < 2:
        return 0.0
    low, high = np.percentile(effects, [5.0, 95.0])
    error = MEDIAN_ERROR * MAD_SCALE * median_deviation(np.concatenate(noise)) / np.sqrt(np.mean(sizes))
    return float(np.expm1(np.sqrt(max((high - low) ** 2 - (_NOISE_RANGE * error) ** 2, 0.0))))


def find_faults(
    cells: Sequence[Cell], protocol: Protocol, reference: Sequence[Collection[str]] | None = None
) -> tuple[str, ...]:
    """Return what moved the machine: one of ``throttling``, ``two_speeds``, ``drift``, or nothing.

    Args:
        cells: Bursts without failure, in the order of measuring.
        protocol: Protocol they were measured by.
        reference: Networks that may tell of the machine, for each group in ascending order; all of them unless given.
    """
    groups = sorted(_tracks(cells, protocol.pause_ms).items())
    keys = reference or [{cell.key for cell, _ in entries} for _, entries in groups]
    tick = tick_of(np.concatenate([cell.samples for cell in cells])) if cells else 0.0
    tracks = [_track(entries, own, tick) for (_, entries), own in zip(groups, keys, strict=True)]
    if _throttled(tracks):
        return ("throttling",)
    if any(_has_two_speeds(track) for track in tracks):
        return ("two_speeds",)
    return ("drift",) if any(_movement(track) > DRIFT_LIMIT for track in tracks) else ()

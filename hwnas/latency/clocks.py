"""Coarse clocks: how far a clock's tick lets a latency be read."""

from __future__ import annotations

import numpy as np

from hwnas.latency.statistics import MAD_SCALE, FloatArray, median_deviation

COARSE = 0.01
"""Tick of a clock, as a share of what it measures, from which on it is coarse."""

_FINE = 0.001
_FEWEST_TICKS = 20
_FAR = 5.0
_ALL_EQUAL = 0.95


def tick_of(samples: FloatArray) -> float:
    """Return the tick of the clock that read these samples, in their unit; 0 where it cannot be told.

    All samples of a coarse clock are multiples of its tick, and many are equal.
    """
    values = np.unique(samples)
    if len(samples) < _FEWEST_TICKS or len(values) < 2 or len(values) > len(samples) / 2:
        return 0.0
    tick = float(np.min(np.diff(values)))
    multiples = np.round(values / tick)
    tick = float(np.sum(values * multiples) / np.sum(multiples**2))
    fits = np.abs(values - multiples * tick) <= 0.05 * tick
    return tick if np.mean(fits) >= 0.99 else 0.0


def middle_of(samples: FloatArray, tick: float) -> float:
    """Return the median of samples that a clock of this tick read.

    A tick that matters is shared out: the median's own tick counts as spread evenly over its width. Where it is coarse, even
    that jumps; but a run that begins anywhere between two ticks is read right on the average, so it is the mean of all
    samples but those far from the median.
    """
    median = float(np.median(samples))
    if tick <= _FINE * median:
        return median
    if tick <= COARSE * median:
        below = float(np.mean(samples < median - tick / 2.0))
        equal = float(np.mean(np.abs(samples - median) < tick / 2.0))
        return median + tick * ((0.5 - below) / equal - 0.5) if equal > 0 else median
    near = np.abs(samples - median) <= _FAR * MAD_SCALE * median_deviation(samples) + 1.5 * tick
    return float(np.mean(samples[near]))


def unread_by(tick: float, samples: FloatArray, rounds: int) -> float:
    """Return what a clock of this tick leaves open about a network measured in so many rounds, in the samples' unit.

    A round's mean moves in steps of the tick over its runs; samples that all read the same say no more than one of them.
    """
    same = float(np.mean(samples == np.median(samples))) > _ALL_EQUAL
    return tick / 2.0 / (1.0 if same else len(samples) / rounds)

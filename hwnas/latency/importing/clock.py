"""Whether the clock that read latencies, or their rounding, was too coarse to learn from."""

from __future__ import annotations

import math

import numpy as np

from hwnas.latency.statistics import FloatArray

COARSEST = 0.05
"""A tick above this share of the median latency is refused unless a person accepts it."""

_OFF_TICK = 0.01
_SAME = 1e-4


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

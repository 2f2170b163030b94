"""Which cores the worker may use, and pinning to some of them."""

from __future__ import annotations

import os
from typing import List, Optional

from hwnas_profilers.protocol import Failure


def _allowed_cores() -> Optional[List[int]]:
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))


ALLOWED = _allowed_cores()
"""Cores this process was started with, before any pinning; None where the system has no affinity."""


def choose_cores(threads: int) -> Optional[List[int]]:
    """Return the cores that ``threads`` threads are pinned to: the last allowed ones.

    The first core serves most interrupts, so it is taken last.

    Raises:
        Failure: ``fallback``, when fewer cores than threads are allowed.
    """
    count = len(ALLOWED) if ALLOWED is not None else (os.cpu_count() or 1)
    if threads > count:
        raise Failure("fallback", f"{threads} threads were asked for, but only {count} cores are allowed here")
    return None if ALLOWED is None else ALLOWED[-threads:]


def pin(threads: int) -> Optional[List[int]]:
    """Pin this process, with every thread it has and will start, to as many cores as ``threads``.

    Thread pools outlive the model they were started for, so all existing threads move along.

    Returns:
        The cores, or None where the system cannot pin.
    """
    cores = choose_cores(threads)
    _move(cores)
    return cores


def unpin() -> None:
    """Give this process all the cores it was started with."""
    _move(ALLOWED)


def _move(cores: Optional[List[int]]) -> None:
    if cores is not None:
        for thread in _own_threads():
            try:
                os.sched_setaffinity(thread, cores)
            except ProcessLookupError:
                continue  # it ended meanwhile


def _own_threads() -> List[int]:
    """Return the thread numbers of this process; 0, the calling thread, where the system does not list them."""
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return [0]

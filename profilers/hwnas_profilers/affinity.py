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
    """Pin the calling thread, and those it will start, to as many cores as it has threads.

    Returns:
        The cores, or None where the system cannot pin.
    """
    cores = choose_cores(threads)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    return cores

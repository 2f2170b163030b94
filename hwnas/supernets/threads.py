"""How many threads torch works with."""

from __future__ import annotations

import os
from typing import Any

import torch

from hwnas.spaces.base import SearchSpace
from hwnas.supernets.processes import local_processes

SMALL_MACS = 2_000_000_000
"""Below this many multiply-accumulates in one training batch a second thread costs more than it brings."""


def use_threads(space: SearchSpace[Any], batch_size: int, threads: int | None = None) -> int:
    """Set the number of threads torch works with, and return it.

    Args:
        space: Its largest network decides whether more than one thread pays.
        batch_size: Images in a training batch.
        threads: What the run file asks for, if it does.
    """
    batch_macs = space.graph(space.largest).macs * batch_size
    cores = max(1, (os.cpu_count() or 1) // local_processes())
    count = threads or (1 if batch_macs < SMALL_MACS else cores)
    torch.set_num_threads(count)
    return count

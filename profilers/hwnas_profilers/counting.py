"""What a run is measured in: time, or executed instructions where an emulator counts them.

An emulator that counts keeps the number of instructions executed so far, eight bytes in the machine's byte order, in a file
that the environment names; to read it costs the measured process a few thousand instructions.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from typing import Union

COUNTER_VARIABLE = "HWNAS_INSTRUCTION_COUNTER"
_COUNT_BYTES = 8


class WallClock:
    """Time; ``read`` gives nanoseconds and is the system's own function, for it stands in the timed region."""

    unit = "ms"
    per_unit = 1e6
    read = staticmethod(time.perf_counter_ns)


class InstructionCounter:
    """Instructions executed by this process.

    Args:
        path: File that the emulator counts in.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too short for a count.
    """

    unit = "instructions"
    per_unit = 1.0

    def __init__(self, path: str) -> None:
        with open(path, "rb") as stream:
            self._count = mmap.mmap(stream.fileno(), _COUNT_BYTES, access=mmap.ACCESS_READ)

    def read(self) -> int:
        """Return the instructions so far."""
        return int.from_bytes(self._count[:_COUNT_BYTES], sys.byteorder)


def _find() -> Union[WallClock, InstructionCounter]:
    path = os.environ.get(COUNTER_VARIABLE)
    return InstructionCounter(path) if path else WallClock()


CLOCK = _find()
"""What this process is measured by."""
COUNTS = CLOCK.unit != WallClock.unit
"""Whether it is something else than time: nothing that other processes do disturbs it."""

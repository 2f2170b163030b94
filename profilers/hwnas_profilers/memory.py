"""Resident memory of the worker, from ``/proc`` where there is one."""

from __future__ import annotations

import ctypes
from typing import Optional


def _status_bytes(key: str) -> Optional[int]:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return None


def _return_freed() -> None:
    """Give freed heap back to the system: memory that stays resident would hide as much of the next growth."""
    try:
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    except (OSError, TypeError, AttributeError):
        pass  # not glibc


class PeakMemory:
    """Growth of the peak resident memory since the object was made."""

    def __init__(self) -> None:
        _return_freed()
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
                stream.write("5")  # sets the recorded peak back to what is resident now
        except OSError:
            pass
        self._before = _status_bytes("VmRSS")

    def growth_bytes(self) -> Optional[int]:
        """Return the peak since then minus what was resident then; None where the system does not tell."""
        peak = _status_bytes("VmHWM")
        if peak is None or self._before is None:
            return None
        return max(peak - self._before, 0)

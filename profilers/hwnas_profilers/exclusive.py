"""File locks that die with their process: one per machine for timing, one per worker's folder."""

from __future__ import annotations

import os
import tempfile
from typing import Optional

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE_NAME = "hwnas-timing.lock"


def lock_file(path: str) -> Optional[int]:
    """Take the lock of a file, made if need be; returns the descriptor to keep open, None if another process has it.

    Where there are no file locks, the lock is always free.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class MachineLock:
    """A lock file in the system's temporary folder, so that two profiles never time at once."""

    def __init__(self) -> None:
        self.path = os.path.join(tempfile.gettempdir(), FILE_NAME)
        self._descriptor: Optional[int] = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; True if this process has it now."""
        if self._descriptor is None:
            self._descriptor = lock_file(self.path)
            self._sign()
        return self._descriptor is not None

    def _sign(self) -> None:
        """Write this process's number into the file, for the message of who waits; another user's file stays as it is."""
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"%d\n" % os.getpid())
        except OSError:
            pass

    def holder(self) -> str:
        """Return the process number written by whoever has the lock; empty if not known."""
        try:
            with open(self.path, encoding="ascii") as stream:
                return stream.read(32).strip()
        except OSError:
            return ""

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

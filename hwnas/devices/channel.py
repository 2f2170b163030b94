"""One running worker: its process, frames to and from it, and the end of what it said on standard error."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from hwnas.devices.transport import Launch
from hwnas.errors import DeviceError
from hwnas.processes import kill_group
from hwnas_profilers import protocol
from hwnas_profilers.protocol import Frame, ProtocolError

STDERR_KEPT_BYTES = 8 * 1024
STDERR_LIMIT_BYTES = 64 * 1024 * 1024
WAITING_FRAMES = 256


class WorkerDiedError(Exception):
    """The worker ended, hung or wrote garbage; ``kind`` is that of a measurement failure."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Channel:
    """A worker process in a process group of its own; nothing here waits without a deadline.

    Args:
        launch: How to start it.

    Raises:
        DeviceError: The program cannot be started at all.
    """

    def __init__(self, launch: Launch) -> None:
        try:
            self._process = subprocess.Popen(
                launch.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **launch.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(
                f"the worker cannot be started with {launch.argv[0]!r}: {error.strerror or error}."
            ) from error
        self._frames: queue.Queue[Frame | ProtocolError | None] = queue.Queue(WAITING_FRAMES)
        self._outgoing: queue.Queue[tuple[bytes, threading.Event] | None] = queue.Queue()
        self._stderr = bytearray()
        self._stderr_bytes = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=work, name=f"hwnas-{work.__name__}", daemon=True)
            for work in (self._read_frames, self._read_stderr, self._write_frames)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def process_id(self) -> int:
        """Process number of the local end."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _read_frames(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        banner = protocol.BANNER_LIMIT
        found: Frame | ProtocolError | None = None
        while True:
            try:
                found = protocol.read_frame(stream, banner)  # type: ignore[arg-type]
            except ProtocolError as error:
                found = error
            except (OSError, ValueError):
                found = None
            self._put(found)
            if not isinstance(found, Frame):
                return
            banner = 0

    def _put(self, found: Frame | ProtocolError | None) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._frames.put(found, timeout=0.5)
                return

    def _read_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._stderr_bytes += len(chunk)
                self._stderr += chunk
                del self._stderr[:-STDERR_KEPT_BYTES]
                if self._stderr_bytes > STDERR_LIMIT_BYTES:
                    kill_group(self._process)
                    return

    def _write_frames(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        while (item := self._outgoing.get()) is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.write(item[0])
                stream.flush()
                item[1].set()

    def send(self, header: dict[str, Any], payloads: Sequence[bytes], deadline_s: float) -> None:
        """Write one frame.

        Raises:
            WorkerDiedError: It ended, or did not read within the deadline.
        """
        written = threading.Event()
        self._outgoing.put((protocol.encode_frame(header, payloads), written))
        until = time.monotonic() + deadline_s
        while not written.wait(0.05):
            if self._process.poll() is not None:
                raise self._death()
            if time.monotonic() > until:
                raise WorkerDiedError(
                    "timeout", f"the worker did not take a request within {deadline_s:g} s{self.said()}"
                )

    def receive(self, deadline_s: float) -> Frame:
        """Return the next frame.

        Raises:
            WorkerDiedError: It ended, sent garbage, or nothing within the deadline.
        """
        try:
            found = self._frames.get(timeout=deadline_s)
        except queue.Empty:
            raise WorkerDiedError(
                "timeout", f"the worker did not answer within {deadline_s:g} s{self.said()}"
            ) from None
        if isinstance(found, Frame):
            return found
        if isinstance(found, ProtocolError):
            raise WorkerDiedError("crashed", f"the worker's output is not frames: {found}{self.said()}")
        raise self._death()

    def _death(self) -> WorkerDiedError:
        """Say how the process ended, as far as the system tells."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2.0)
        self._threads[1].join(timeout=1.0)
        if self._stderr_bytes > STDERR_LIMIT_BYTES:
            return WorkerDiedError(
                "crashed", f"the worker flooded standard error with {self._stderr_bytes} bytes{self.said()}"
            )
        status = self._process.returncode
        how = f"exit status {status}"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                how = f"signal {signal.Signals(-status).name}"
            if status == -9:
                how += ", which the system also sends when memory runs out"
        return WorkerDiedError("crashed", f"the worker ended ({how}){self.said()}")

    def said(self) -> str:
        """Return the end of standard error as the end of a sentence; empty if it said nothing."""
        lines = [line.strip() for line in bytes(self._stderr).decode("utf-8", "replace").splitlines() if line.strip()]
        return f"; it said: {' | '.join(lines[-4:])[-800:]}" if lines else ""

    def close(self, grace_s: float = 0.0) -> None:
        """End the worker and every process it started; wait ``grace_s`` for it to leave by itself."""
        if self._closed:
            return
        self._closed = True
        self._outgoing.put(None)
        if grace_s > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace_s)
        kill_group(self._process)
        for thread, stream in zip(
            self._threads, (self._process.stdout, self._process.stderr, self._process.stdin), strict=True
        ):
            thread.join(timeout=1.0)
            if stream is not None and not thread.is_alive():  # closing under a blocked reader would wait for it
                with contextlib.suppress(OSError):
                    stream.close()

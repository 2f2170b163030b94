"""A worker that is started again when it dies: requests, replies and the machine's timing lock."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hwnas.devices.channel import Channel, WorkerDiedError
from hwnas.devices.replies import failure_of
from hwnas.devices.transport import Launch, prepare
from hwnas.errors import DeviceError, MeasurementFailure
from hwnas.targets import Device
from hwnas_profilers import protocol
from hwnas_profilers.protocol import Frame

RESTARTS = 3
LOCK_POLL_S = 0.2
_LOG = logging.getLogger("hwnas")


class Connection:
    """Requests to the worker of one device.

    When the worker dies, the request in flight fails and the next one starts a new worker. :attr:`generation` counts
    the workers, so that what was loaded into an earlier one is known to be gone.

    Args:
        device: What to reach.
        deadline_s: Longest silence of the worker, seconds, before it counts as hung.

    Raises:
        DeviceError: The device cannot be reached or does not run the agent.
    """

    def __init__(self, device: Device, deadline_s: float) -> None:
        self.device = device
        self.deadline_s = deadline_s
        self.generation = 0
        self.restarts = 0
        self.worker_pid = 0
        self.channel: Channel | None = None
        self.launch: Launch = prepare(device, deadline_s)
        self._numbers = itertools.count(1)
        self._holds = 0
        self._lock_wait_s = deadline_s
        self._closed = False
        self._start()

    def _start(self) -> None:
        """Start a worker and greet it.

        Raises:
            DeviceError: It does not answer, or with something that is not this agent.
        """
        self.channel = Channel(self.launch)
        self.generation += 1
        try:
            header = self.exchange({"cmd": "hello"}, (), self.deadline_s).header
            self._refuse_stranger(header)
            self.worker_pid = int(header["pid"])
            if self._holds:
                self._acquire(self._lock_wait_s)
        except (WorkerDiedError, MeasurementFailure, KeyError, ValueError) as error:
            self.bury()
            detail = getattr(error, "detail", repr(error))
            raise DeviceError(
                f"the agent on device {self.device.name} did not answer: {detail}. "
                f"It was started with: {' '.join(self.launch.argv)}"
            ) from error
        except DeviceError:
            self.bury()
            raise

    def _refuse_stranger(self, header: dict[str, Any]) -> None:
        if header.get("protocol") != protocol.VERSION:
            raise DeviceError(
                f"device {self.device.name} runs an agent of protocol {header.get('protocol')}, here is {protocol.VERSION}. "
                "Install the same version of hwnas in both places."
            )
        wanted = self.launch.agent_sha256
        if wanted is not None and header.get("agent_sha256") != wanted:
            raise DeviceError(
                f"the agent file on device {self.device.name} is damaged (sha256 {header.get('agent_sha256')}, "
                f"expected {wanted}). Delete ~/.cache/hwnas there and give the same command again."
            )

    def bury(self) -> None:
        """End the worker, whatever it does; the next request starts another."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def refresh(self) -> bool:
        """Start a worker anew where it would now be started in another way; returns whether that is so.

        A converter's environment that was made meanwhile holds its runtime too, which a worker sees only from its start.
        """
        launch = prepare(self.device, self.deadline_s)
        if launch.argv == self.launch.argv:
            return False
        self.launch = launch
        self.bury()
        return True

    def ensure_alive(self) -> None:
        """Start a worker if there is none; a device may need a moment to come back."""
        if self.channel is not None and not self.channel.alive:
            self.bury()
        for attempt in range(RESTARTS):
            if self.channel is not None:
                return
            if self._closed:
                raise DeviceError(f"the session with device {self.device.name} is closed.")
            self.restarts += 1
            try:
                self._start()
            except DeviceError:
                if attempt == RESTARTS - 1:
                    raise
                time.sleep(0.5 * 2**attempt)

    def exchange(
        self,
        header: dict[str, Any],
        payloads: Sequence[bytes],
        deadline_s: float,
        on_frame: Callable[[Frame], None] | None = None,
    ) -> Frame:
        """Send one request and return its reply; other frames before it go to ``on_frame``.

        Raises:
            WorkerDiedError: The worker ended, hung or wrote garbage.
            MeasurementFailure: The worker answered with a failure.
        """
        assert self.channel is not None
        number = next(self._numbers)
        self.channel.send({**header, "id": number}, payloads, deadline_s)
        while True:
            frame = self.channel.receive(deadline_s)
            if frame.header.get("type") == "reply" and frame.header.get("id") == number:
                break
            try:
                if on_frame is None:
                    raise ValueError("no such frame is due")
                on_frame(frame)
            except (LookupError, TypeError, ValueError) as error:
                raise WorkerDiedError(
                    "crashed", f"the worker sent an unexpected frame {str(frame.header)[:200]}"
                ) from error
        failure = failure_of(frame.header)
        if failure is not None:
            raise MeasurementFailure(*failure)
        return frame

    def request(self, header: dict[str, Any], payloads: Sequence[bytes] = (), deadline_s: float | None = None) -> Frame:
        """Exchange, turning a dead worker into a failure that is recorded."""
        self.ensure_alive()
        try:
            return self.exchange(header, payloads, deadline_s or self.deadline_s)
        except WorkerDiedError as error:
            self.bury()
            raise MeasurementFailure(error.kind, error.detail) from error

    @contextlib.contextmanager
    def exclusive(self, wait_s: float) -> Iterator[None]:
        """Hold the device's timing lock; see :meth:`hwnas.devices.session.Session.exclusive`."""
        if self.device.transport == "simulated":
            yield
            return
        self.ensure_alive()
        if not self._holds:
            self._lock_wait_s = wait_s
            self._acquire(wait_s)
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if not self._holds and self.channel is not None and self.channel.alive:
                with contextlib.suppress(MeasurementFailure):
                    self.request({"cmd": "unlock"})

    def _acquire(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        told = False
        while True:
            try:
                reply = self.exchange({"cmd": "lock"}, (), self.deadline_s).header
            except WorkerDiedError as error:
                self.bury()
                raise DeviceError(
                    f"device {self.device.name} did not answer while asked for its lock: {error}"
                ) from error
            if reply["taken"]:
                return
            if time.monotonic() > until:
                raise DeviceError(
                    f"another profile (process {reply['holder'] or 'unknown'}) has been timing on device {self.device.name} for "
                    f"{wait_s:g} s. Wait for it, or stop it, and give the same command again."
                )
            if not told:
                _LOG.warning(
                    "device %s: waiting for another profile (process %s) to end, for at most %g minutes",
                    *(self.device.name, reply["holder"] or "unknown", wait_s / 60.0),
                )
                told = True
            time.sleep(LOCK_POLL_S)

    def close(self) -> None:
        """Ask the worker to leave, and end it if it does not."""
        if self.channel is not None:
            with contextlib.suppress(WorkerDiedError, MeasurementFailure):
                self.exchange({"cmd": "bye"}, (), min(self.deadline_s, 5.0))
                self.channel.close(grace_s=2.0)
        self.bury()
        self._closed = True

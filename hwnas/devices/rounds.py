"""One round of bursts that goes on after a worker died in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from hwnas.devices.channel import WorkerDiedError
from hwnas.devices.connection import Connection
from hwnas.devices.models import Burst, BurstSpec
from hwnas.devices.replies import burst_of
from hwnas.errors import MeasurementFailure
from hwnas_profilers.protocol import Frame

Failures = dict[str, tuple[str, str]]


class BurstRound:
    """Bursts of loaded models in a given order.

    The whole round is one request. Before each burst the worker says whose turn it is and sends the result after it, so
    what was measured before a crash is kept, and only the model that was at work fails.

    Args:
        connection: To the device.
        handles: Models in order; one may stand there more than once.
        spec: How long each burst lasts.
    """

    def __init__(self, connection: Connection, handles: Sequence[str], spec: BurstSpec) -> None:
        self._connection = connection
        self._handles = tuple(handles)
        self._spec = spec
        self._results: dict[int, Burst] = {}

    def run(self, make_resident: Callable[[Sequence[str]], Failures]) -> list[Burst]:
        """Return one burst per handle, in order.

        Args:
            make_resident: Loads what the worker does not have; returns the handles it cannot load, with the failure.

        Raises:
            DeviceError: The device cannot be reached any more.
        """
        while waiting := self._waiting():
            failures = make_resident([self._handles[index] for index in waiting])
            for index in waiting:
                if self._handles[index] in failures:
                    self._fail(index, failures[self._handles[index]])
            if waiting := self._waiting():
                self._request(waiting)
        return [self._results[index] for index in range(len(self._handles))]

    def _waiting(self) -> list[int]:
        return [index for index in range(len(self._handles)) if index not in self._results]

    def _fail(self, index: int, failure: tuple[str, str]) -> None:
        self._results[index] = Burst(self._handles[index], np.zeros(0), failure=failure)

    def _request(self, waiting: Sequence[int]) -> None:
        """Ask for the rest of the round; if the worker dies, settle the burst that was at work."""
        at_work = waiting[0]

        def note(frame: Frame) -> None:
            nonlocal at_work
            at_work = waiting[int(frame.header["index"])]
            if frame.header["type"] == "burst":
                self._results[at_work] = burst_of(self._handles[at_work], frame)

        request = {"cmd": "burst", "handles": [self._handles[index] for index in waiting], "spec": asdict(self._spec)}
        try:
            self._connection.exchange(request, (), self._connection.deadline_s + self._spec.target_ms / 1e3, note)
        except (WorkerDiedError, MeasurementFailure) as error:
            self._connection.bury()
            left = self._waiting()
            if at_work in left:
                self._fail(at_work, (error.kind, error.detail))
            elif left:  # it died between two bursts
                self._fail(left[0], (error.kind, error.detail))

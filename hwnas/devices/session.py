"""The client end of the agent: a session that survives crashes, hangs and floods of what it measures."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.devices.channel import Channel, WorkerDiedError
from hwnas.devices.models import Burst, BurstSpec, KernelTime, LoadedModel, ModelFiles, WorkerInfo
from hwnas.devices.replies import burst_of, failure_of, kernels_of, loaded_model, worker_info
from hwnas.devices.transport import Launch, prepare
from hwnas.errors import DeviceError, MeasurementFailure, MissingRuntimeError
from hwnas.files import sha256_file
from hwnas.targets import Device, Target
from hwnas_profilers import protocol
from hwnas_profilers.protocol import Frame, ProtocolError

RESTARTS = 3
UPLOAD_BYTES_PER_S = 250_000
LOCK_POLL_S = 0.2


@dataclass
class _Resident:
    """A model the session knows; ``generation`` is that of the worker it is loaded in, 0 if in none."""

    handle: str
    files: ModelFiles
    digests: tuple[str, ...]
    target: Target
    options: dict[str, Any]
    generation: int = 0
    loaded: LoadedModel | None = field(default=None)


class Session:
    """A device with its worker running; made by :func:`open_session`, closed by ``with`` or :meth:`close`.

    When the worker dies, the request in flight fails, the next one starts a new worker, and models are loaded into it
    again when they are used.

    Args:
        device: What to reach.
        deadline_s: Longest silence of the worker, seconds, before it counts as hung.
    """

    def __init__(self, device: Device, *, deadline_s: float = 120.0) -> None:
        self.device = device
        self.deadline_s = deadline_s
        self.restarts = 0
        self._models: dict[str, _Resident] = {}
        self._numbers = itertools.count(1)
        self._requests = itertools.count(1)
        self._generation = 0
        self._exclusive = 0
        self._lock_wait_s = deadline_s
        self._channel: Channel | None = None
        self._infos: dict[bool, WorkerInfo] = {}
        self._launch: Launch = prepare(device, deadline_s)
        self.worker_pid = 0
        self._start()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # the worker

    def _start(self) -> None:
        """Start a worker and greet it.

        Raises:
            DeviceError: It does not answer, or with something that is not this agent.
        """
        self._channel = Channel(self._launch)
        self._generation += 1
        try:
            header = self._exchange({"cmd": "hello"}, (), self.deadline_s).header
            self._refuse_stranger(header)
            self.worker_pid = int(header["pid"])
            if self._exclusive:
                self._acquire(self._lock_wait_s)
        except (WorkerDiedError, MeasurementFailure, KeyError, ValueError) as error:
            self._bury()
            detail = getattr(error, "detail", repr(error))
            raise DeviceError(
                f"the agent on device {self.device.name} did not answer: {detail}. "
                f"It was started with: {' '.join(self._launch.argv)}"
            ) from error
        except DeviceError:
            self._bury()
            raise

    def _refuse_stranger(self, header: dict[str, Any]) -> None:
        if header.get("protocol") != protocol.VERSION:
            raise DeviceError(
                f"device {self.device.name} runs an agent of protocol {header.get('protocol')}, here is {protocol.VERSION}. "
                "Install the same version of hwnas in both places."
            )
        wanted = self._launch.agent_sha256
        if wanted is not None and header.get("agent_sha256") != wanted:
            raise DeviceError(
                f"the agent file on device {self.device.name} is damaged (sha256 {header.get('agent_sha256')}, "
                f"expected {wanted}). Delete ~/.cache/hwnas there and give the same command again."
            )

    def _bury(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _ensure_alive(self) -> None:
        """Start a worker if there is none; a device may need a moment to come back."""
        for attempt in range(RESTARTS):
            if self._channel is not None:
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

    @property
    def _closed(self) -> bool:
        return self._generation < 0

    def _exchange(
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
        assert self._channel is not None
        number = next(self._requests)
        self._channel.send({**header, "id": number}, payloads, deadline_s)
        while True:
            frame = self._channel.receive(deadline_s)
            if frame.header.get("type") == "reply" and frame.header.get("id") == number:
                break
            if on_frame is None:
                raise WorkerDiedError("crashed", f"the worker sent an unexpected frame {str(frame.header)[:200]}")
            on_frame(frame)
        failure = failure_of(frame.header)
        if failure is not None:
            raise MeasurementFailure(*failure)
        return frame

    def _request(
        self, header: dict[str, Any], payloads: Sequence[bytes] = (), deadline_s: float | None = None
    ) -> Frame:
        """Exchange, turning a dead worker into a failure that is recorded."""
        self._ensure_alive()
        try:
            return self._exchange(header, payloads, deadline_s or self.deadline_s)
        except WorkerDiedError as error:
            self._bury()
            raise MeasurementFailure(error.kind, error.detail) from error

    def hello(self, *, probe: bool = False) -> WorkerInfo:
        """Return what machine this is and which runtimes it has.

        Args:
            probe: Import every runtime on the device to learn its providers and whether it really works; some take
                seconds.
        """
        if probe not in self._infos:
            self._infos[probe] = worker_info(self._request({"cmd": "hello", "probe": probe}).header)
        return self._infos[probe]

    # models

    def load(self, files: ModelFiles, target: Target, *, options: Mapping[str, Any] | None = None) -> LoadedModel:
        """Upload a model if the device does not have it, open it, and check that it runs on what was asked.

        Args:
            files: The model; they must stay in place until :meth:`unload`, for a worker that has to start again.
            target: Runtime, precision, threads and batch.
            options: Options of the runtime by name, for example ``{"provider": "CUDAExecutionProvider"}``.

        Raises:
            MissingRuntimeError: The device does not have the runtime.
            MeasurementFailure: It did not work; ``fallback`` if it would run on something else.
            DeviceError: The device cannot be reached any more, or a file is missing.
        """
        self._require_runtime(target.runtime)
        missing = [path for path in files.all if not path.is_file()]
        if missing:
            raise DeviceError(f"model file {missing[0]} does not exist.")
        model = _Resident(
            handle=f"m{next(self._numbers)}",
            files=files,
            digests=tuple(sha256_file(path) for path in files.all),
            target=target,
            options=dict(options or {}),
        )
        loaded = self._load(model)
        self._models[model.handle] = model
        return loaded

    def _require_runtime(self, name: str) -> None:
        runtimes = self.hello().runtimes
        if name not in runtimes:
            raise DeviceError(
                f"device {self.device.name} has no runtime {name!r}; its agent knows: {', '.join(sorted(runtimes))}."
            )
        if not runtimes[name].available:
            raise MissingRuntimeError(f"{name} (on device {self.device.name})", runtimes[name].install)

    def _load(self, model: _Resident) -> LoadedModel:
        self._upload(model)
        target = model.target
        files = [{"name": path.name, "sha256": sha} for path, sha in zip(model.files.all, model.digests, strict=True)]
        reply = self._request(
            {
                "cmd": "load",
                "handle": model.handle,
                "runtime": target.runtime,
                "precision": target.precision,
                "threads": target.threads,
                "batch": target.batch,
                "files": files,
                "options": model.options,
            }
        )
        model.generation = self._generation
        model.loaded = loaded_model(model.handle, reply.header)
        return model.loaded

    def _upload(self, model: _Resident) -> None:
        """Send the files the worker does not have; a worker on this machine copies them itself."""
        where = dict(zip(model.digests, model.files.all, strict=True))
        question: dict[str, Any] = {"cmd": "missing", "digests": list(where)}
        if self._launch.shares_files:
            question["paths"] = {sha: str(path.absolute()) for sha, path in where.items()}
        for sha in self._request(question).header["missing"]:
            try:
                data = where[sha].read_bytes()
            except OSError as error:
                raise MeasurementFailure(
                    "load_failed", f"{where[sha].name} cannot be read again ({error.strerror})"
                ) from error
            self._request({"cmd": "put"}, [data], self.deadline_s + len(data) / UPLOAD_BYTES_PER_S)

    def _known(self, handle: str) -> _Resident:
        if handle not in self._models:
            raise DeviceError(f"no model {handle!r} is loaded in this session; load it first.")
        return self._models[handle]

    def _make_resident(self, handle: str) -> None:
        """Load a model again if the worker it was loaded in is gone."""
        self._ensure_alive()
        model = self._known(handle)
        if model.generation != self._generation:
            self._load(model)

    def run(self, handle: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once on given inputs and return the named outputs.

        Raises:
            MeasurementFailure: It did not work; ``wrong_output`` if the inputs do not fit the model.
        """
        self._make_resident(handle)
        described, payloads = protocol.pack_arrays(dict(inputs))
        reply = self._request({"cmd": "run", "handle": handle, "arrays": described}, payloads)
        try:
            return protocol.unpack_arrays(reply.header["arrays"], reply.payloads)
        except ProtocolError as error:
            raise MeasurementFailure("wrong_output", str(error)) from error

    def kernels(self, handle: str, *, runs: int = 20) -> list[KernelTime]:
        """Return what the runtime ran as one unit, in execution order, with median times over ``runs`` runs."""
        self._make_resident(handle)
        return kernels_of(self._request({"cmd": "kernels", "handle": handle, "runs": runs}).header)

    def unload(self, handle: str) -> None:
        """Free a model; one that is not loaded is no error."""
        model = self._models.pop(handle, None)
        if model is not None and self._channel is not None and model.generation == self._generation:
            self._request({"cmd": "unload", "handle": handle})

    # bursts

    def burst_round(self, handles: Sequence[str], spec: BurstSpec | None = None) -> list[Burst]:
        """Run one burst of each model in the order given, timed on the device.

        A model that crashes, hangs or floods gets :attr:`Burst.failure`; the worker is started again and the rest of
        the round goes on.

        Args:
            handles: Loaded models; one may stand there more than once.
            spec: How long each burst lasts.

        Raises:
            DeviceError: The device cannot be reached any more, or a handle is not known.
        """
        for handle in handles:
            self._known(handle)
        results: dict[int, Burst] = {}
        waiting = list(range(len(handles)))
        while waiting:
            for handle, failure in self._make_all_resident([handles[index] for index in waiting]).items():
                for index in waiting:
                    if handles[index] == handle:
                        results[index] = Burst(handle, np.zeros(0), failure=failure)
            waiting = [index for index in waiting if index not in results]
            if waiting:
                self._burst_once(handles, waiting, spec or BurstSpec(), results)
            waiting = [index for index in waiting if index not in results]
        return [results[index] for index in range(len(handles))]

    def _make_all_resident(self, handles: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Load what is not loaded; returns those that cannot be, with the failure.

        Loading one may crash the worker and so lose the others: each pass settles at least one of them.
        """
        failed: dict[str, tuple[str, str]] = {}
        while True:
            self._ensure_alive()
            stale = [
                name for name in handles if name not in failed and self._known(name).generation != self._generation
            ]
            if not stale:
                return failed
            try:
                self._make_resident(stale[0])
            except MeasurementFailure as failure:
                failed[stale[0]] = (failure.kind, failure.detail)

    def _burst_once(
        self, handles: Sequence[str], waiting: Sequence[int], spec: BurstSpec, results: dict[int, Burst]
    ) -> None:
        """Send the rest of a round as one request; if the worker dies, settle the burst that was at work."""
        at_work = [waiting[0]]

        def note(frame: Frame) -> None:
            index = waiting[int(frame.header["index"])]
            at_work[0] = index
            if frame.header.get("type") == "burst":
                results[index] = burst_of(handles[index], frame)

        request = {"cmd": "burst", "handles": [handles[index] for index in waiting], "spec": asdict(spec)}
        try:
            self._exchange(request, (), self.deadline_s + spec.target_ms / 1e3, note)
        except (WorkerDiedError, MeasurementFailure) as error:
            self._bury()
            index = at_work[0]
            if index in results:  # it died between two bursts
                index = next((other for other in waiting if other not in results), index)
            results.setdefault(index, Burst(handles[index], np.zeros(0), failure=(error.kind, error.detail)))

    # the machine

    @contextlib.contextmanager
    def exclusive(self, *, wait_s: float = 3600.0) -> Iterator[None]:
        """Hold the device's timing lock, so that no other session of any process times there meanwhile.

        The lock lives on the device and dies with the worker; a worker started again takes it again. A simulated device
        needs none.

        Args:
            wait_s: How long to wait for another profile to end, seconds.

        Raises:
            DeviceError: Another profile held it all that time.
        """
        if self.device.transport == "simulated":
            yield
            return
        self._ensure_alive()
        if not self._exclusive:
            self._lock_wait_s = wait_s
            self._acquire(wait_s)
        self._exclusive += 1
        try:
            yield
        finally:
            self._exclusive -= 1
            if not self._exclusive and self._channel is not None:
                with contextlib.suppress(MeasurementFailure):
                    self._request({"cmd": "unlock"})

    def _acquire(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while True:
            try:
                reply = self._exchange({"cmd": "lock"}, (), self.deadline_s).header
            except WorkerDiedError as error:
                self._bury()
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
            time.sleep(LOCK_POLL_S)

    def close(self) -> None:
        """End the worker; what it kept on the device is removed."""
        if self._channel is not None:
            with contextlib.suppress(WorkerDiedError, MeasurementFailure):
                self._exchange({"cmd": "bye"}, (), min(self.deadline_s, 10.0))
                self._channel.close(grace_s=2.0)
        self._bury()
        self._models.clear()
        self._generation = -1


def open_session(device: Device, *, deadline_s: float = 120.0) -> Session:
    """Start the agent on a device and greet it.

    Args:
        device: What to reach; see :class:`hwnas.targets.Device`.
        deadline_s: Longest silence, seconds, before the worker counts as hung.

    Raises:
        DeviceError: The device cannot be reached or does not run the agent.
    """
    return Session(device, deadline_s=deadline_s)

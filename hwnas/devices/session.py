"""The client end of the agent: a session that survives crashes, hangs and floods of what it measures."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from hwnas.devices.connection import Connection
from hwnas.devices.models import Burst, BurstSpec, Energy, KernelTime, LoadedModel, ModelFiles, WorkerInfo
from hwnas.devices.replies import kernels_of, loaded_model, worker_info
from hwnas.devices.rounds import BurstRound
from hwnas.errors import DeviceError, MeasurementFailure, MissingRuntimeError
from hwnas.files import sha256_file
from hwnas.targets import Device, Target
from hwnas_profilers import protocol
from hwnas_profilers.protocol import ProtocolError

UPLOAD_BYTES_PER_S = 250_000


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
        self._connection = Connection(device, deadline_s)
        self._models: dict[str, _Resident] = {}
        self._numbers = itertools.count(1)
        self._infos: dict[bool, WorkerInfo] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def worker_pid(self) -> int:
        """Process number of the worker on the device."""
        return self._connection.worker_pid

    @property
    def restarts(self) -> int:
        """How often the worker had to be started again."""
        return self._connection.restarts

    @property
    def unit(self) -> str:
        """What the runs of a burst are measured in: ``ms``, or ``instructions``."""
        return self.hello().unit

    def hello(self, *, probe: bool = False) -> WorkerInfo:
        """Return what machine this is and which runtimes it has.

        Args:
            probe: Import every runtime on the device to learn its providers and whether it really works; some take
                seconds.
        """
        if probe not in self._infos:
            self._infos[probe] = worker_info(self._connection.request({"cmd": "hello", "probe": probe}).header)
        return self._infos[probe]

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
        if not runtimes[name].available and self._connection.launch.shares_files and self._connection.refresh():
            self._infos.clear()
            runtimes = self.hello().runtimes
        if not runtimes[name].available:
            raise MissingRuntimeError(f"{name} (on device {self.device.name})", runtimes[name].install)

    def _load(self, model: _Resident) -> LoadedModel:
        self._upload(model)
        target = model.target
        files = [{"name": path.name, "sha256": sha} for path, sha in zip(model.files.all, model.digests, strict=True)]
        reply = self._connection.request(
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
        model.generation = self._connection.generation
        model.loaded = loaded_model(model.handle, reply.header)
        return model.loaded

    def _upload(self, model: _Resident) -> None:
        """Send the files the worker does not have; a worker on this machine copies them itself."""
        where = dict(zip(model.digests, model.files.all, strict=True))
        question: dict[str, Any] = {"cmd": "missing", "digests": list(where)}
        if self._connection.launch.shares_files:
            question["paths"] = {sha: str(path.absolute()) for sha, path in where.items()}
        for sha in self._connection.request(question).header["missing"]:
            try:
                data = where[sha].read_bytes()
            except OSError as error:
                raise MeasurementFailure(
                    "load_failed", f"{where[sha].name} cannot be read again ({error.strerror})"
                ) from error
            self._connection.request(
                {"cmd": "put"}, [data], self._connection.deadline_s + len(data) / UPLOAD_BYTES_PER_S
            )

    def _known(self, handle: str) -> _Resident:
        if handle not in self._models:
            raise DeviceError(f"no model {handle!r} is loaded in this session; load it first.")
        return self._models[handle]

    def _make_resident(self, handle: str) -> None:
        """Load a model again if the worker it was loaded in is gone."""
        self._connection.ensure_alive()
        model = self._known(handle)
        if model.generation != self._connection.generation:
            self._load(model)

    def run(self, handle: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once on given inputs and return the named outputs.

        Raises:
            MeasurementFailure: It did not work; ``wrong_output`` if the inputs do not fit the model.
        """
        self._make_resident(handle)
        described, payloads = protocol.pack_arrays(dict(inputs))
        reply = self._connection.request({"cmd": "run", "handle": handle, "arrays": described}, payloads)
        try:
            return protocol.unpack_arrays(reply.header["arrays"], reply.payloads)
        except ProtocolError as error:
            raise MeasurementFailure("wrong_output", str(error)) from error

    def kernels(self, handle: str, *, runs: int = 20) -> list[KernelTime]:
        """Return what the runtime ran as one unit, in execution order, with median times over ``runs`` runs."""
        self._make_resident(handle)
        return kernels_of(self._connection.request({"cmd": "kernels", "handle": handle, "runs": runs}).header)

    def energy(self, handle: str, *, seconds: float = 1.0) -> Energy | None:
        """Return the energy of one inference, averaged over some seconds; None where the device has no sensor."""
        self._make_resident(handle)
        deadline_s = self._connection.deadline_s + seconds
        request = {"cmd": "energy", "handle": handle, "seconds": seconds}
        header = self._connection.request(request, deadline_s=deadline_s).header
        if not header["sensor"]:
            return None
        return Energy(str(header["sensor"]), float(header["energy_mj"]), int(header["runs"]))

    def unload(self, handle: str) -> None:
        """Free a model; one that is not loaded is no error."""
        model = self._models.pop(handle, None)
        if (
            model is not None
            and self._connection.channel is not None
            and model.generation == self._connection.generation
        ):
            self._connection.request({"cmd": "unload", "handle": handle})

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
        return BurstRound(self._connection, handles, spec or BurstSpec()).run(self._make_all_resident)

    def _make_all_resident(self, handles: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Load what is not loaded; returns those that cannot be, with the failure.

        Loading one may crash the worker and so lose the others: each pass settles at least one of them.
        """
        failed: dict[str, tuple[str, str]] = {}
        while True:
            self._connection.ensure_alive()
            stale = [
                name
                for name in handles
                if name not in failed and self._known(name).generation != self._connection.generation
            ]
            if not stale:
                return failed
            try:
                self._make_resident(stale[0])
            except MeasurementFailure as failure:
                failed[stale[0]] = (failure.kind, failure.detail)

    def exclusive(self, *, wait_s: float = 3600.0) -> contextlib.AbstractContextManager[None]:
        """Hold the device's timing lock, so that no other session of any process times there meanwhile.

        The lock lives on the device and dies with the worker; a worker started again takes it again. A simulated device
        needs none.

        Args:
            wait_s: How long to wait for another profile to end, seconds.

        Raises:
            DeviceError: Another profile held it all that time.
        """
        return self._connection.exclusive(wait_s)

    def close(self) -> None:
        """End the worker; what it kept on the device is removed."""
        self._connection.close()
        self._models.clear()


def open_session(device: Device, *, deadline_s: float = 120.0) -> Session:
    """Start the agent on a device and greet it.

    Args:
        device: What to reach; see :class:`hwnas.targets.Device`.
        deadline_s: Longest silence, seconds, before the worker counts as hung.

    Raises:
        DeviceError: The device cannot be reached or does not run the agent.
    """
    return Session(device, deadline_s=deadline_s)

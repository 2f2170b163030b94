"""The worker: answers one request after another until its input ends.

Requests and replies are frames (:mod:`hwnas_profilers.protocol`). Every request names its ``cmd`` and an ``id`` that the
reply repeats. An error reply carries ``failure: [kind, detail]``; the worker goes on. A burst round answers with one
``progress`` frame before and one ``burst`` frame after each burst, so that the client knows which model was at work
when a worker dies.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, Sequence, Set, Tuple

import numpy as np

from hwnas_profilers import affinity, fingerprint, protocol
from hwnas_profilers.checks import agent_digest, check_batch, check_finite, classify, described
from hwnas_profilers.counting import CLOCK, COUNTS
from hwnas_profilers.energy import energy_of, find_sensor
from hwnas_profilers.exclusive import MachineLock
from hwnas_profilers.memory import PeakMemory
from hwnas_profilers.protocol import Failure, Frame
from hwnas_profilers.runtimes import find_runtimes
from hwnas_profilers.runtimes.base import LoadSpec, Model, Runtime, example_inputs
from hwnas_profilers.storage import Storage
from hwnas_profilers.timing import BurstSpec

Reply = Tuple[Dict[str, Any], List[bytes]]


class Worker:
    """Holds the loaded models and answers requests.

    Args:
        source: Where frames come from.
        sink: Where frames go to.
        only: Names of the runtimes to offer; all if empty.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO, only: Sequence[str] = ()) -> None:
        self._source = source
        self._sink = sink
        self._simulated = tuple(only) == ("simulated",)
        self._runtimes: Dict[str, Runtime] = find_runtimes(only)
        self._models: Dict[str, Model] = {}
        self._settings: Dict[str, Tuple[Runtime, int]] = {}
        self._started: Set[str] = set()
        self._storage = Storage()
        self._lock = MachineLock()
        self._commands: Dict[str, Callable[[Frame], Reply]] = {
            "hello": self._hello,
            "missing": self._missing,
            "put": self._put,
            "load": self._load,
            "run": self._run,
            "burst": self._burst_round,
            "kernels": self._kernels,
            "energy": self._energy,
            "unload": self._unload,
            "lock": self._take_lock,
            "unlock": self._give_lock,
        }

    def serve(self) -> None:
        """Answer requests until ``bye`` or the end of the input."""
        try:
            while True:
                frame = protocol.read_frame(self._source)
                if frame is None:
                    return
                self._answer(frame)
                if frame.header.get("cmd") == "bye":
                    return
        finally:
            self._storage.close()
            self._lock.release()

    def _send(self, header: Dict[str, Any], payloads: Sequence[bytes] = ()) -> None:
        self._sink.write(protocol.encode_frame(header, payloads))
        self._sink.flush()

    def _answer(self, frame: Frame) -> None:
        name = str(frame.header.get("cmd"))
        reply: Dict[str, Any] = {}
        payloads: List[bytes] = []
        try:
            if name in self._commands:
                reply, payloads = self._commands[name](frame)
            elif name != "bye":
                raise Failure(
                    "crashed", f"this agent does not know the command {name!r}; its protocol is {protocol.VERSION}"
                )
        except Exception as error:
            traceback.print_exc()
            reply = {"failure": list(classify(error, "load_failed" if name == "load" else "crashed"))}
        self._send(dict(reply, type="reply", id=frame.header.get("id")), payloads)

    def _hello(self, frame: Frame) -> Reply:
        runtimes = {}
        for name, runtime in self._runtimes.items():
            entry = {"available": runtime.available(), "version": "", "install": runtime.install, "providers": []}
            if entry["available"]:
                entry["version"] = runtime.version()
                entry["identity"], entry["context"] = runtime.hardware()
                if frame.header.get("probe"):
                    self._probe(runtime, entry)
            runtimes[name] = entry
        return {
            "protocol": protocol.VERSION,
            "pid": os.getpid(),
            "agent_sha256": agent_digest(),
            "unit": CLOCK.unit,
            "identity": fingerprint.identity(self._simulated),
            "context": {} if self._simulated else fingerprint.context(),
            "limits": [] if self._simulated else fingerprint.limits(),
            "runtimes": runtimes,
        }, []

    @staticmethod
    def _probe(runtime: Runtime, entry: Dict[str, Any]) -> None:
        """Import the package for real and ask for its providers."""
        try:
            entry["providers"] = list(runtime.providers())
        except Exception as error:
            entry["available"] = False
            entry["install"] = f"{runtime.install}  (installed, but: {type(error).__name__}: {error})"

    def _missing(self, frame: Frame) -> Reply:
        wanted = [str(digest) for digest in frame.header["digests"]]
        paths = frame.header.get("paths", {})
        for digest in self._storage.missing(wanted):
            if digest in paths:
                self._storage.take(digest, paths[digest])
        return {"missing": self._storage.missing(wanted)}, []

    def _put(self, frame: Frame) -> Reply:
        for payload in frame.payloads:
            self._storage.put(hashlib.sha256(payload).hexdigest(), payload)
        return {}, []

    def _model(self, frame: Frame) -> Tuple[str, Model]:
        handle = str(frame.header["handle"])
        if handle not in self._models:
            raise Failure("load_failed", f"no model {handle} is loaded in this worker")
        return handle, self._models[handle]

    @staticmethod
    def _pin(runtime: Runtime, threads: int) -> None:
        """Pin to as many cores as the model has threads, unless its runtime does so itself."""
        affinity.choose_cores(threads)
        if runtime.pins_itself:
            affinity.unpin()
        else:
            affinity.pin(threads)

    def _pin_for(self, handle: str) -> None:
        self._pin(*self._settings[handle])

    def _open(self, handle: str, path: Path, runtime: Runtime, spec: LoadSpec) -> Dict[str, Any]:
        """Start the runtime, pin, open, check; returns what the client is told."""
        if runtime.name not in self._started:
            affinity.unpin()
            runtime.start()
            self._started.add(runtime.name)
        self._pin(runtime, spec.threads)
        memory = PeakMemory()
        start = time.perf_counter_ns()
        model = runtime.load(path, spec)
        load_ms = (time.perf_counter_ns() - start) / 1e6
        peak = memory.growth_bytes()
        check_batch(model, spec.batch)
        model.verify()
        first_run_ms = check_finite(model, example_inputs(model.inputs))
        self._models[handle] = model
        self._settings[handle] = (runtime, spec.threads)
        return {
            "runtime": runtime.name,
            "runtime_version": runtime.version(),
            "provider": model.provider,
            "device": model.device,
            "precision": model.precision,
            "inputs": described(model.inputs),
            "outputs": described(model.outputs),
            "load_ms": load_ms,
            "first_run_ms": first_run_ms,
            "peak_memory_bytes": peak,
            "notes": list(model.notes),
        }

    def _load(self, frame: Frame) -> Reply:
        header = frame.header
        handle, name = str(header["handle"]), str(header["runtime"])
        if name not in self._runtimes:
            raise Failure("load_failed", f"this agent has no runtime {name!r}; it has {', '.join(self._runtimes)}")
        runtime = self._runtimes[name]
        if not runtime.available():
            raise Failure("load_failed", f"{name} is not installed on the device; install it with: {runtime.install}")
        spec = LoadSpec(
            str(header["precision"]), int(header["threads"]), int(header["batch"]), dict(header.get("options") or {})
        )
        path = self._storage.lay_out(handle, header["files"])
        try:
            return self._open(handle, path, runtime, spec), []
        except BaseException:
            self._storage.remove(handle)
            raise

    def _run(self, frame: Frame) -> Reply:
        handle, model = self._model(frame)
        self._pin_for(handle)
        arrays = protocol.unpack_arrays(frame.header["arrays"], frame.payloads)
        wanted = {tensor.name: tensor for tensor in model.inputs}
        if set(arrays) != set(wanted):
            raise Failure("wrong_output", f"inputs {sorted(arrays)} came, the model has {sorted(wanted)}")
        for name, tensor in wanted.items():
            if arrays[name].shape != tensor.shape:
                raise Failure("wrong_output", f"input {name} came as {arrays[name].shape}, it must be {tensor.shape}")
        listed, payloads = protocol.pack_arrays(model.run(arrays))
        return {"arrays": listed}, payloads

    def _burst(self, index: int, handle: str, spec: BurstSpec) -> None:
        """Time one burst and send it; a failure of the model is sent like a result."""
        self._send({"type": "progress", "index": index, "handle": handle})
        header: Dict[str, Any] = {"type": "burst", "index": index, "handle": handle}
        try:
            if handle not in self._models:
                raise Failure("load_failed", f"no model {handle} is loaded in this worker")
            self._pin_for(handle)
            model = self._models[handle]
            model.prepare()
            result = model.burst(spec)
        except Exception as error:
            traceback.print_exc()
            self._send(dict(header, failure=list(classify(error, "crashed"))))
            return
        header.update(
            started_s=result.started_s,
            involuntary_switches=result.involuntary_switches,
            pressure_share=result.pressure_share,
        )
        self._send(header, [np.asarray(result.samples, dtype="<f8").tobytes()])

    def _burst_round(self, frame: Frame) -> Reply:
        spec = BurstSpec(**frame.header["spec"])
        for index, handle in enumerate(frame.header["handles"]):
            self._burst(index, str(handle), spec)
        return {}, []

    def _kernels(self, frame: Frame) -> Reply:
        handle, model = self._model(frame)
        if COUNTS:
            raise Failure("unsupported_op", f"no runtime tells the {CLOCK.unit} of its kernels")
        self._pin_for(handle)
        kernels = model.kernels(int(frame.header["runs"]))
        return {"kernels": [dataclasses.asdict(kernel) for kernel in kernels]}, []

    def _energy(self, frame: Frame) -> Reply:
        """Measure the energy of one inference; without a sensor the reply names none."""
        handle, model = self._model(frame)
        sensor = None if self._simulated or COUNTS else find_sensor(model.device)
        if sensor is None:
            return {"sensor": ""}, []
        self._pin_for(handle)
        model.prepare()
        energy_mj, runs = energy_of(model.step, sensor, float(frame.header["seconds"]))
        return {"sensor": sensor.name, "energy_mj": energy_mj, "runs": runs}, []

    def _unload(self, frame: Frame) -> Reply:
        handle = str(frame.header["handle"])
        model = self._models.pop(handle, None)
        self._settings.pop(handle, None)
        if model is not None:
            model.close()
        self._storage.remove(handle)
        del model
        gc.collect()
        return {}, []

    def _take_lock(self, frame: Frame) -> Reply:
        taken = COUNTS or self._lock.try_acquire()
        return {"taken": taken, "holder": "" if taken else self._lock.holder(), "path": self._lock.path}, []

    def _give_lock(self, frame: Frame) -> Reply:
        self._lock.release()
        return {}, []

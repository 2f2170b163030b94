"""A runtime that computes nothing: its latency follows from a description of the network, its clock is virtual.

A model file is ``NAME.sim.json``::

    {"macs": 5e7, "bytes": 2e6, "inputs": [{"name", "shape", "dtype"}], "outputs": [...],
     "layers": [{"name", "op", "inputs", "output", "shape", "macs", "weights", "groups"}], "faults": {...}}

From the ``layers`` the device makes kernels and knows what they take (:mod:`hwnas_profilers.simulated_truth`); without
them the time follows from the totals ``macs`` and ``bytes``. ``faults``, or the options of a load, plant what goes wrong or
disturbs (:mod:`hwnas_profilers.simulated_faults`). A file that says ``"idle": true`` is a pause: a burst of it lets the
burst's time pass without load. Opening a model takes :data:`LOAD_MS` without load, too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor
from hwnas_profilers.simulated_faults import DEVICE, DisturbedRuns, check_faults
from hwnas_profilers.simulated_truth import OVERHEAD_MS, describe_kernels
from hwnas_profilers.timing import BurstResult, BurstSpec

VERSION = "2.0"
LOAD_MS = 5.0
"""Virtual time to open a model, milliseconds."""


def base_latency_ms(described: Dict[str, Any], spec: LoadSpec) -> float:
    """Return the undisturbed latency of a described network, milliseconds."""
    kernels = describe_kernels(described, spec.precision, spec.threads, spec.batch)
    return OVERHEAD_MS + sum(kernel.ms for kernel in kernels)


def _tensors(listed: Sequence[Dict[str, Any]], batch: int) -> Tuple[Tensor, ...]:
    tensors = []
    for entry in listed:
        shape = [int(size) for size in entry["shape"]]
        shape[0] = batch
        tensors.append(Tensor(str(entry["name"]), tuple(shape), str(entry.get("dtype", "float32"))))
    return tuple(tensors)


class SimulatedModel(Model):
    """A description that answers like a model."""

    provider = "simulated"
    device = "simulated"

    def __init__(self, path: Path, spec: LoadSpec) -> None:
        data = path.read_bytes()
        try:
            described = dict(json.loads(data))
            self._kernels = describe_kernels(described, spec.precision, spec.threads, spec.batch)
            base_ms = base_latency_ms(described, spec)
            self.inputs = _tensors(described.get("inputs", []), spec.batch)
            self.outputs = _tensors(described.get("outputs", []), spec.batch)
            faults = dict(described.get("faults", {}), **spec.options)
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(
                "load_failed", f"{path.name} is not a description of a simulated network ({error!r})"
            ) from error
        self._idle = bool(described.get("idle", False))
        self._seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
        self._runs = DisturbedRuns(base_ms, check_faults(faults), self._seed)
        self._runs.misbehave("load")
        self._runs.rest(LOAD_MS / 1e3)
        self.precision = str(faults.get("precision", spec.precision))
        if self.precision != spec.precision:
            raise Failure("fallback", f"{spec.precision} was asked for, the simulation runs in {self.precision}")

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return values drawn from the file's and the inputs' content."""
        self._runs.misbehave("run")
        content = hashlib.sha256(b"".join(inputs[name].tobytes() for name in sorted(inputs))).digest()
        generator = np.random.default_rng([self._seed, int.from_bytes(content[:8], "big")])
        outputs = {}
        for tensor in self.outputs:
            values = generator.standard_normal(tensor.shape).astype(tensor.dtype)
            wrong = self._runs.faults.get("wrong_output")
            outputs[tensor.name] = np.full_like(values, np.nan) if wrong else values
        return outputs

    def prepare(self) -> None:
        """Nothing needs binding."""

    def step(self) -> object:
        """Let virtual time pass under load."""
        DEVICE.work(self._runs.base_ms / 1e3)
        return None

    def burst(self, spec: BurstSpec) -> BurstResult:
        """Draw one burst, or let its time pass if this is a pause."""
        if self._idle:
            started_s = DEVICE.now_s
            self._runs.rest(spec.target_ms / 1e3)
            return BurstResult(np.array([spec.target_ms]), started_s, 0, 0.0)
        self._runs.misbehave("burst")
        samples, started_s = self._runs.burst(spec)
        return BurstResult(samples, started_s, 0, 0.0)

    def kernels(self, runs: int) -> List[Kernel]:
        """Return what the device made of the layers, or the whole network as one kernel."""
        return [Kernel(kernel.name, kernel.op, kernel.ms, (kernel.output,), kernel.fused) for kernel in self._kernels]


class Simulated(Runtime):
    """The simulated runtime: for tests, demonstrations and dry runs."""

    name = "simulated"

    def version(self) -> str:
        """Return the version of the simulation's rules."""
        return VERSION

    def providers(self) -> Tuple[str, ...]:
        """Return ``simulated``."""
        return ("simulated",)

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open a ``*.sim.json`` file."""
        return SimulatedModel(path, spec)


RUNTIME = Simulated()

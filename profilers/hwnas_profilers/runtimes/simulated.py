"""A runtime that computes nothing: its latency follows from a description of the network, its clock is virtual.

A model file is ``NAME.sim.json``::

    {"macs": 5e7, "bytes": 2e6, "inputs": [{"name", "shape", "dtype"}], "outputs": [...],
     "kernels": [{"name", "op", "ms", "outputs"}], "faults": {...}}

``kernels`` are optional; without them the time follows from ``macs`` and ``bytes`` (a roofline of one small core).
``faults``, or the options of a load (which win), plant what goes wrong or disturbs:

- ``crash``, ``hang``, ``flood``, ``error``: ``"load"``, ``"run"`` or ``"burst"``, where it happens;
- ``precision``: the precision it falls back to; ``wrong_output``: true gives NaN;
- ``seed``, ``sigma``: log-normal noise; ``drift_per_s``: relative slow-down per virtual second;
- ``step``: ``{"at_s": 5, "factor": 1.2}``; ``spikes``: ``{"probability": 0.01, "ms": 4}``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor
from hwnas_profilers.timing import BurstResult, BurstSpec

VERSION = "1.0"
OVERHEAD_MS = 0.02
MACS_PER_MS = {"fp32": 2.0e7, "fp16": 3.2e7, "bf16": 3.2e7, "int8": 6.0e7}
BYTES_PER_MS = 8.0e6
_CLOCK = {"now_s": 0.0}


def _flood() -> None:
    """Write garbage to standard output and to every pipe or socket there is, without end."""
    garbage = b"\xde\xad garbage that is no frame " * 512
    targets = [1]
    for number in range(3, 64):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            targets.append(number)
    while targets:
        for number in list(targets):
            try:
                os.write(number, garbage)
            except OSError:
                targets.remove(number)
    os._exit(70)


def base_latency_ms(described: Dict[str, Any], spec: LoadSpec) -> float:
    """Return the undisturbed latency of a described network, milliseconds."""
    kernels = described.get("kernels") or []
    if kernels:
        work = sum(float(kernel["ms"]) for kernel in kernels)
        work *= MACS_PER_MS["fp32"] / MACS_PER_MS[spec.precision]
    else:
        work = float(described.get("macs", 0)) / MACS_PER_MS[spec.precision]
        work += float(described.get("bytes", 0)) / BYTES_PER_MS
    return OVERHEAD_MS + work * spec.batch / math.pow(spec.threads, 0.8)


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
            self._described = dict(json.loads(data))
            self._ms = base_latency_ms(self._described, spec)
            self.inputs = _tensors(self._described.get("inputs", []), spec.batch)
            self.outputs = _tensors(self._described.get("outputs", []), spec.batch)
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(
                "load_failed", f"{path.name} is not a description of a simulated network ({error!r})"
            ) from error
        self._faults: Dict[str, Any] = dict(self._described.get("faults", {}), **spec.options)
        self._seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
        self._bursts = 0
        self._misbehave("load")
        self.precision = str(self._faults.get("precision", spec.precision))
        if self.precision != spec.precision:
            raise Failure("fallback", f"{spec.precision} was asked for, the simulation runs in {self.precision}")

    def _misbehave(self, where: str) -> None:
        faults = self._faults
        if faults.get("crash") == where:
            sys.stderr.write("simulated: this process crashes now\n")
            sys.stderr.flush()
            os._exit(139)
        if faults.get("error") == where:
            raise Failure("unsupported_op", f"simulated failure while: {where}")
        if faults.get("flood") == where:
            _flood()
        while faults.get("hang") == where:
            time.sleep(3600)

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return values drawn from the file's and the inputs' content."""
        self._misbehave("run")
        content = hashlib.sha256(b"".join(inputs[name].tobytes() for name in sorted(inputs))).digest()
        generator = np.random.default_rng([self._seed, int.from_bytes(content[:8], "big")])
        outputs = {}
        for tensor in self.outputs:
            values = generator.standard_normal(tensor.shape).astype(tensor.dtype)
            outputs[tensor.name] = np.full_like(values, np.nan) if self._faults.get("wrong_output") else values
        return outputs

    def prepare(self) -> None:
        """Nothing needs binding."""

    def step(self) -> object:
        """Let virtual time pass."""
        _CLOCK["now_s"] += self._ms / 1e3
        return None

    def _sample_ms(self, generator: np.random.Generator) -> float:
        faults = self._faults
        now_s = _CLOCK["now_s"]
        value = self._ms * math.exp(float(faults.get("sigma", 0.01)) * float(generator.standard_normal()))
        value *= 1.0 + float(faults.get("drift_per_s", 0.0)) * now_s
        step = faults.get("step")
        if step and now_s >= float(step["at_s"]):
            value *= float(step["factor"])
        spikes = faults.get("spikes")
        if spikes and generator.random() < float(spikes["probability"]):
            value += float(spikes["ms"])
        _CLOCK["now_s"] += value / 1e3
        return value

    def burst(self, spec: BurstSpec) -> BurstResult:
        """Draw one burst; the noise depends on the file, the seed and how many bursts came before, not on other models."""
        self._misbehave("burst")
        generator = np.random.default_rng([self._seed, int(self._faults.get("seed", 0)), self._bursts])
        self._bursts += 1
        for _ in range(spec.discard):
            self.step()
        started_s = _CLOCK["now_s"]
        samples: List[float] = []
        while len(samples) < spec.max_runs:
            samples.append(self._sample_ms(generator))
            if len(samples) >= spec.min_runs and (_CLOCK["now_s"] - started_s) * 1e3 >= spec.target_ms:
                break
        return BurstResult(np.asarray(samples, dtype=np.float64), started_s, 0, 0.0)

    def kernels(self, runs: int) -> List[Kernel]:
        """Return the described kernels, or the whole network as one."""
        listed = self._described.get("kernels") or [
            {"name": "network", "op": "Network", "ms": self._ms, "outputs": [tensor.name for tensor in self.outputs]}
        ]
        return [
            Kernel(
                str(kernel["name"]),
                str(kernel["op"]),
                float(kernel["ms"]),
                tuple(kernel.get("outputs", (kernel["name"],))),
                tuple(kernel.get("fused", ())),
            )
            for kernel in listed
        ]


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

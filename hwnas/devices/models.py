"""What travels between the host and a device: model files, loaded models, bursts, kernel times."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ModelFiles:
    """The file or files of one model on the host.

    Attributes:
        main: The file the runtime opens, for example ``model.onnx`` or ``model.xml``.
        extra: Files beside it that it refers to by name, for example ``model.bin``.
    """

    main: Path
    extra: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Main file first."""
        return (self.main, *self.extra)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.all)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a loaded model: name, shape (batch first) and numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LoadedModel:
    """A model resident on a device.

    Attributes:
        handle: Name by which the session knows it.
        runtime: Runtime name.
        runtime_version: Full version of the runtime.
        provider: What the runtime says it really runs on, for example ``CPUExecutionProvider``.
        device: The runtime's device name, for example ``CPU``.
        precision: Precision it really executes in.
        inputs: Inputs in order.
        outputs: Outputs in order.
        load_ms: Time to open and compile it, milliseconds.
        peak_memory_bytes: Growth of the worker's peak resident memory while loading; None where unknown.
        first_run_ms: Time of the first inference, milliseconds.
        notes: How it really runs, as sentences (for example "20 of 23 compute kernels run quantised").
    """

    handle: str
    runtime: str
    runtime_version: str
    provider: str
    device: str
    precision: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    load_ms: float
    peak_memory_bytes: int | None = None
    first_run_ms: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BurstSpec:
    """How long one burst of a network lasts, in time whatever the runs are measured in.

    Attributes:
        target_ms: Timed runs go on until this much time has passed ...
        min_runs: ... and at least this many runs were timed.
        max_runs: Never more than this many runs.
        discard: Untimed runs before the first timed one.
    """

    target_ms: float = 25.0
    min_runs: int = 5
    max_runs: int = 1000
    discard: int = 2


@dataclass(frozen=True)
class Burst:
    """One burst of one network.

    Attributes:
        handle: The loaded model.
        samples: Every measured run in the unit of the session (milliseconds unless the device counts something else),
            float64 ``[runs]``; empty on failure.
        involuntary_switches: Involuntary context switches during the timed runs; None where unknown.
        pressure_share: Share of the time in which some task waited for a CPU (pressure-stall information); None where unknown.
        started_s: Monotonic device clock at the start, seconds.
        failure: ``(kind, detail)`` of a :class:`~hwnas.errors.MeasurementFailure`, else None.
    """

    handle: str
    samples: NDArray[np.float64]
    involuntary_switches: int | None = None
    pressure_share: float | None = None
    started_s: float = 0.0
    failure: tuple[str, str] | None = None


@dataclass(frozen=True)
class KernelTime:
    """One unit the runtime really ran.

    Attributes:
        name: The runtime's own name of it.
        op: Its operation type, for example ``Conv`` or ``Convolution``.
        ms: Median time over the profiled runs, milliseconds.
        outputs: Names of the graph tensors it produces, as far as the runtime tells.
        fused: Names of the original nodes fused into it, as far as the runtime tells.
    """

    name: str
    op: str
    ms: float
    outputs: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Energy:
    """Energy of one inference: the whole package, board or GPU while the model ran, idle share included.

    Attributes:
        sensor: What measured it.
        energy_mj: Millijoules of one inference.
        runs: Inferences it was averaged over.
    """

    sensor: str
    energy_mj: float
    runs: int


@dataclass(frozen=True)
class RuntimeStatus:
    """Whether a runtime can be used on a device, its version, or the line that installs it.

    ``identity`` and ``context`` are of the hardware it runs on besides the processor: a GPU's model, its driver.
    """

    available: bool
    version: str = ""
    install: str = ""
    providers: tuple[str, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself when greeted.

    Attributes:
        protocol: Version of measuring protocol and frames.
        identity: Identity keys that do not depend on a target (CPU model, ISA flags, ...).
        context: Context keys (kernel, governor, memory, container, Python, ...).
        runtimes: Runtime name -> status.
        limits: What cannot be done there, as sentences (for example "no affinity on this system: grade C").
        unit: What runs are measured in: ``ms``, or ``instructions`` on an emulator that counts them.
    """

    protocol: int
    identity: dict[str, Any]
    context: dict[str, Any]
    runtimes: dict[str, RuntimeStatus] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    unit: str = "ms"

"""Networks of a space as things to measure: built when needed, removed after, kernels told apart by block."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.backends.naming import OVERHEAD_OPS, tensor_names
from hwnas.devices.fingerprint import target_fingerprint
from hwnas.devices.models import KernelTime
from hwnas.devices.session import open_session
from hwnas.errors import DeviceError, MissingRuntimeError
from hwnas.files import Journal, digest, write_json
from hwnas.latency.analysis import SessionResult
from hwnas.latency.measurement import MeasureItem, OnProgress
from hwnas.latency.measuring import Inspect, measure_session
from hwnas.latency.protocol import Protocol
from hwnas.latency.rows import LatencyRow, Split
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.spaces.graph import LayerGraph
from hwnas.targets import Device, Fingerprint, Target

Shaped = Callable[[Any], Architecture]
"""What post-processing makes of an architecture (several exits) before it is built."""

KERNEL_RUNS = 20
"""Profiled runs of a network whose kernels are asked for."""


def make_backend(target: Target) -> Any:
    """Return the target's backend.

    Raises:
        ConfigError: No backend of that name.
        MissingRuntimeError: What it needs to build files is not installed.
    """
    loaded = registry.load("backend", target.runtime)
    backend = loaded() if isinstance(loaded, type) else loaded
    reason = backend.available()
    if reason is not None:
        raise MissingRuntimeError(target.runtime, str(getattr(backend, "install", reason)))
    return backend


def fingerprint_on(device: Device, target: Target) -> Fingerprint:
    """Return :func:`fingerprint_here` of a device, asked in a session of its own."""
    with open_session(device) as session:
        return fingerprint_here(session, target)


def fingerprint_here(session: Any, target: Target) -> Fingerprint:
    """Return the fingerprint of a target on the session's machine.

    Raises:
        DeviceError: The device's agent does not know the runtime.
        MissingRuntimeError: The runtime is not installed there.
    """
    info = session.hello()
    status = info.runtimes.get(target.runtime)
    if status is None:
        raise DeviceError(
            f"device {target.device} has no runtime {target.runtime!r}; its agent knows: {list(info.runtimes)}."
        )
    if not status.available:
        raise MissingRuntimeError(f"{target.runtime} (on device {target.device})", status.install)
    return target_fingerprint(info, target, status.version)


def block_kernels(kernels: Sequence[KernelTime], graph: LayerGraph, backend: Any) -> dict[str, float]:
    """Return block name -> summed kernel milliseconds; ``""`` sums what belongs to no block."""
    sums: dict[str, float] = {}
    for kernel in kernels:
        block = backend.kernel_block(kernel, graph) or ""
        sums[block] = sums.get(block, 0.0) + float(kernel.ms)
    return sums


def tensor_kernels(kernels: Sequence[KernelTime], graph: LayerGraph) -> dict[str, float]:
    """Return tensor -> milliseconds of the kernel that makes it; ``""`` sums what makes none that the file names.

    A layer's output has the layer's name. A change of layout that the file does not hold is ``OPERATION:TENSOR``, after the
    tensor that it changes.
    """
    names = {tensor: layer for layer, tensor in tensor_names(graph).items()}
    sums: dict[str, float] = {}
    for kernel in kernels:
        made = next((names.get(output, output) for output in kernel.outputs), "")
        added = kernel.op in OVERHEAD_OPS and (kernel.op != "Transpose" or made in names.values())
        key = f"{kernel.op}:{made}" if made and added else made
        sums[key] = sums.get(key, 0.0) + float(kernel.ms)
    return sums


class Networks:
    """Encodings of a space as items to measure on a target.

    Args:
        space: The space.
        target: The target.
        folder: Where files are built; each network's are removed when it is unloaded.
        shaped: What is built of a decoded architecture; as it is unless given.
    """

    def __init__(
        self, space: SearchSpace[Architecture], target: Target, folder: Path, shaped: Shaped | None = None
    ) -> None:
        self.space = space
        self.shaped = shaped
        self.target = target
        self.folder = folder
        self.backend = make_backend(target)
        self.encodings: dict[str, IntArray] = {}

    def graph(self, encoding: IntArray) -> LayerGraph:
        """Return the layers of what is built of an encoding."""
        architecture = self.space.decode(encoding)
        return self.space.graph(architecture if self.shaped is None else self.shaped(architecture))

    def item(self, encoding: IntArray) -> MeasureItem:
        """Return the item of an encoding; its key is ``SearchSpace.id_of``."""
        key = self.space.id_of(encoding)
        self.encodings[key] = encoding
        place = self.folder / key

        def build() -> Any:
            graph = self.graph(encoding)
            seed = int(key, 16) % 2**31
            return self.backend.build_network(graph, self.target.precision, place, batch=self.target.batch, seed=seed)

        return MeasureItem(key, build, lambda: shutil.rmtree(place, ignore_errors=True))

    def inspector(self, session: Any, keys: set[str]) -> Inspect:
        """Return a function that asks for the kernels of the networks in ``keys``, by block; by layer if blocks do not recur."""

        def inspect(key: str, handle: str) -> dict[str, Any] | None:
            if key not in keys:
                return None
            graph = self.graph(self.encodings[key])
            found = session.kernels(handle, runs=KERNEL_RUNS)
            if self.space.compositional:
                return {"kernels": block_kernels(found, graph, self.backend)}
            return {"kernels": tensor_kernels(found, graph)}

        return inspect


def rows_of(
    result: SessionResult, encodings: Mapping[str, IntArray], splits: Mapping[str, Split], fingerprint: Fingerprint
) -> list[LatencyRow]:
    """Return the table rows of a session's measurements."""
    rows = []
    for measurement in result.measurements:
        key = measurement.key
        kernels = (result.extras.get(key) or {}).get("kernels", {})
        rows.append(LatencyRow.from_measurement(measurement, encodings[key], splits[key], fingerprint, kernels))
    return rows


def measure_encodings(
    session: Any,
    table: LatencyTable,
    space: SearchSpace[Architecture],
    X: IntArray,
    folder: Path,
    *,
    protocol: Protocol | None = None,
    split: Split = "search",
    shaped: Shaped | None = None,
    on_progress: OnProgress | None = None,
) -> list[LatencyRow]:
    """Measure more networks under the reference condition of a table, for a search or a second look.

    The same call with the same folder resumes, and gives the same rows again once it has ended.

    Args:
        session: Open session of the table's device.
        table: The table that the rows are to fit.
        space: Its space.
        X: Encodings ``[n, n_genes]``, without repeats.
        folder: Where journal and temporary files go.
        protocol: How to measure; the table's own protocol unless given.
        split: What the rows are for.
        shaped: What is built and measured of each architecture; as it is unless given. Such rows are no rows of the table.
        on_progress: Called with steps that add up to 1.

    Raises:
        TableError: The table is of another space.
        FingerprintMismatchError: This is another machine or setting.
        DeviceError: A canary cannot be measured.
    """
    fingerprint = fingerprint_here(session, table.target)
    table.require(space, fingerprint)
    protocol = protocol or Protocol.from_dict(table.header.protocol)
    made = [] if shaped is None else [shaped(space.decode(row)).as_dict() for row in X]
    name = digest([str(table.target), X.tolist(), protocol.as_dict(), *made])[:12]
    networks = Networks(space, table.target, folder / f"work-{name}", shaped)
    items = [networks.item(np.asarray(row, dtype=np.int64)) for row in X]
    reference = table.header.canaries
    journal = Journal(folder / f"measured-{name}.jsonl")
    result = measure_session(session, table.target, items, protocol, journal, on_progress, reference)
    write_json(folder / f"measured-{name}.json", {"estimator": result.estimator, "drift": result.drift})
    shutil.rmtree(networks.folder, ignore_errors=True)
    return rows_of(result, networks.encodings, {item.key: split for item in items}, fingerprint)

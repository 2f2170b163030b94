"""Turns replies of the worker into the records of :mod:`hwnas.devices.models`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.devices.models import Burst, KernelTime, LoadedModel, RuntimeStatus, TensorInfo, WorkerInfo
from hwnas.errors import MeasurementFailure
from hwnas_profilers.protocol import Frame


def failure_of(header: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (kind, detail) if the worker reports a failure; a kind not known here is called ``crashed``."""
    found = header.get("failure")
    if not found:
        return None
    kind, detail = str(found[0]), str(found[1])
    return (kind, detail) if kind in MeasurementFailure.KINDS else ("crashed", f"{kind}: {detail}")


def worker_info(header: Mapping[str, Any]) -> WorkerInfo:
    """Read the reply to ``hello``."""
    return WorkerInfo(
        protocol=int(header["protocol"]),
        identity=dict(header["identity"]),
        context=dict(header["context"]),
        runtimes={
            name: RuntimeStatus(
                available=bool(entry["available"]),
                version=str(entry["version"]),
                install=str(entry["install"]),
                providers=tuple(entry["providers"]),
                identity=dict(entry.get("identity", {})),
                context=dict(entry.get("context", {})),
            )
            for name, entry in header["runtimes"].items()
        },
        limits=tuple(header["limits"]),
        unit=str(header["unit"]),
    )


def _tensors(listed: Sequence[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in listed)


def loaded_model(handle: str, header: Mapping[str, Any]) -> LoadedModel:
    """Read the reply to ``load``."""
    return LoadedModel(
        handle=handle,
        runtime=header["runtime"],
        runtime_version=header["runtime_version"],
        provider=header["provider"],
        device=header["device"],
        precision=header["precision"],
        inputs=_tensors(header["inputs"]),
        outputs=_tensors(header["outputs"]),
        load_ms=float(header["load_ms"]),
        peak_memory_bytes=header["peak_memory_bytes"],
        first_run_ms=float(header["first_run_ms"]),
        notes=tuple(header["notes"]),
    )


def burst_of(handle: str, frame: Frame) -> Burst:
    """Read one ``burst`` frame."""
    failure = failure_of(frame.header)
    if failure is not None:
        return Burst(handle, np.zeros(0), failure=failure)
    return Burst(
        handle=handle,
        samples=np.frombuffer(frame.payloads[0], dtype="<f8").astype(np.float64),
        involuntary_switches=frame.header["involuntary_switches"],
        pressure_share=frame.header["pressure_share"],
        started_s=float(frame.header["started_s"]),
    )


def kernels_of(header: Mapping[str, Any]) -> list[KernelTime]:
    """Read the reply to ``kernels``."""
    return [
        KernelTime(entry["name"], entry["op"], float(entry["ms"]), tuple(entry["outputs"]), tuple(entry["fused"]))
        for entry in header["kernels"]
    ]

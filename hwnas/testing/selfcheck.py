"""Does a backend work on a device? A small trained network is exported, run, compared with torch and timed, in each precision.

This is how a runtime is tried where the tests cannot go: on a machine with a GPU, or on a board.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.backends.base import Backend
from hwnas.devices.fingerprint import int8_weight_bits
from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import Session
from hwnas.errors import MeasurementFailure, ModelFileError
from hwnas.targets import Target
from hwnas.testing.trained import TrainedExample, trained_example

LIMITS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.1}
"""Largest accepted relative L2 distance of all outputs to torch in float32."""
IMAGES = 64


def check_backend(backend: Backend, session: Session) -> dict[str, dict[str, Any]]:
    """Try a backend on a device in each of its precisions.

    Returns:
        Precision -> what was found: ``works``, ``failure`` (why not, else empty) and, as far as it came, ``device``,
        ``provider``, ``error`` (to torch), ``same_class`` (share of images), ``median`` of a burst in the session's unit,
        ``kernels``, ``in_blocks`` (how many of them belong to a block of the network), ``notes``.

    Raises:
        MissingRuntimeError: The device does not have the runtime, or this machine not what makes its files.
    """
    example = trained_example()
    return {precision: _check(backend, session, precision, example) for precision in backend.precisions}


def _check(backend: Backend, session: Session, precision: str, example: TrainedExample) -> dict[str, Any]:
    found: dict[str, Any] = {"works": False, "failure": ""}
    with tempfile.TemporaryDirectory(prefix="hwnas-check-") as folder:
        try:
            files = backend.export(
                example.module,
                torch.from_numpy(example.images[:8]),
                precision,
                Path(folder),
                calibration=example.calibration if precision == "int8" else None,
                weight_bits=int8_weight_bits(session.hello().identity),
            )
            _run(backend, session, precision, example, files, found)
        except (MeasurementFailure, ModelFileError) as error:
            return {**found, "failure": str(error)}
    if not found["error"] <= LIMITS[precision]:
        failure = f"its outputs are {found['error']:.2g} away from torch (relative L2, at most {LIMITS[precision]:g})"
        return {**found, "failure": failure}
    return {**found, "works": True}


def _run(
    backend: Backend,
    session: Session,
    precision: str,
    example: TrainedExample,
    files: ModelFiles,
    found: dict[str, Any],
) -> None:
    """Fill ``found`` step by step, so that it holds what was seen before a failure."""
    loaded = session.load(files, Target(session.device.name, backend.name, precision))
    found |= {"device": loaded.device, "provider": loaded.provider, "notes": list(loaded.notes)}
    name = loaded.inputs[0].name
    images = example.images[:IMAGES]
    outputs = [session.run(loaded.handle, {name: image[None]})[loaded.outputs[0].name] for image in images]
    with torch.no_grad():
        reference = example.module(torch.from_numpy(images)).numpy()
    values = np.concatenate(outputs).reshape(reference.shape)
    found["error"] = float(np.linalg.norm(values - reference) / np.linalg.norm(reference))
    found["same_class"] = float(np.mean(values.argmax(1) == reference.argmax(1)))
    (burst,) = session.burst_round([loaded.handle], BurstSpec(target_ms=100.0))
    if burst.failure is not None:
        raise MeasurementFailure(*burst.failure)
    found |= {"median": float(np.median(burst.samples)), "unit": session.unit}
    found |= _kernels(backend, session, loaded.handle, example)
    session.unload(loaded.handle)


def _kernels(backend: Backend, session: Session, handle: str, example: TrainedExample) -> dict[str, Any]:
    """Count the kernels; a runtime that tells none is no failure."""
    try:
        kernels = session.kernels(handle, runs=5)
    except MeasurementFailure as failure:
        return {"kernels": 0, "in_blocks": 0, "kernels_failure": failure.detail}
    blocks = [backend.kernel_block(kernel, example.graph) for kernel in kernels]
    return {"kernels": len(kernels), "in_blocks": sum(block is not None for block in blocks)}

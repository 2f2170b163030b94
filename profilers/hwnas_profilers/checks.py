"""What the worker checks of a model and of itself, and the kinds of what goes wrong."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Model, Tensor


def classify(error: BaseException, otherwise: str) -> Tuple[str, str]:
    """Return (kind, detail) of any exception; ``otherwise`` is the kind of one that says nothing of itself."""
    if isinstance(error, Failure):
        return error.kind, error.detail
    detail = f"{type(error).__name__}: {error}".strip()[:2000]
    if isinstance(error, MemoryError) or "bad_alloc" in detail or "ailed to allocate" in detail:
        return "out_of_memory", detail
    return otherwise, detail


def agent_digest() -> Optional[str]:
    """Return the sha256 of the zipapp this worker runs from; None if it runs from a folder."""
    path = Path(sys.argv[0])
    if path.suffix != ".pyz" or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_finite(model: Model, inputs: Dict[str, np.ndarray]) -> float:
    """Run once; returns the milliseconds of this first run.

    Raises:
        Failure: ``wrong_output``, when an output holds NaN or infinity.
    """
    start = time.perf_counter_ns()
    outputs = model.run(inputs)
    first_run_ms = (time.perf_counter_ns() - start) / 1e6
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Failure("wrong_output", f"output {name} holds NaN or infinity for standard normal inputs")
    return first_run_ms


def check_batch(model: Model, batch: int) -> None:
    """Refuse a model whose first input has another fixed batch.

    Raises:
        Failure: ``load_failed``.
    """
    for tensor in model.inputs[:1]:
        if tensor.shape and tensor.shape[0] != batch:
            raise Failure(
                "load_failed", f"batch {batch} was asked for, but input {tensor.name} has shape {tensor.shape}"
            )


def described(tensors: Sequence[Tensor]) -> List[Dict[str, Any]]:
    """Return tensors as plain data."""
    return [{"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype} for tensor in tensors]

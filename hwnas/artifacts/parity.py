"""Parity: whether an exported file computes on the target what torch computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.artifacts.records import OutputParity
from hwnas.devices.models import LoadedModel
from hwnas.errors import ArtifactError, RefusedError

if TYPE_CHECKING:
    import torch

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""Largest relative L2 distance to torch fp32, worst image; int8 is decided by accuracy on the gate split."""
_TORCH_BATCH = 64


class Runner(Protocol):
    """The one thing asked of a session here."""

    def run(self, handle: str, inputs: dict[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run a loaded model: outputs by name for inputs by name."""
        ...


def compare_outputs(reference: NDArray[Any], found: NDArray[Any], tolerance: float | None) -> OutputParity:
    """Compare one output over images, both ``[n, ...]``; the relative L2 distance and cosine are of the worst image.

    Raises:
        RefusedError: Shapes differ or a value is not finite.
    """
    if reference.shape != found.shape or reference.ndim == 0:
        raise RefusedError(f"an output has shape {found.shape} in the exported file, {reference.shape} in torch.")
    a = reference.reshape(len(reference), -1).astype(np.float64)
    b = found.reshape(len(found), -1).astype(np.float64)
    if not np.isfinite(b).all() or not np.isfinite(a).all():
        raise RefusedError("an output holds NaN or an infinity: the network or its exported file computes no numbers.")
    norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    tiny = np.finfo(np.float64).tiny
    return OutputParity(
        relative_l2=float(np.max(np.linalg.norm(a - b, axis=1) / np.maximum(norm_a, tiny))),
        max_abs=float(np.max(np.abs(a - b))),
        cosine=float(np.min(np.where(norm_a + norm_b > 0, (a * b).sum(1) / np.maximum(norm_a * norm_b, tiny), 1.0))),
        argmax_agreement=float(np.mean(a.argmax(1) == b.argmax(1))),
        tolerance=tolerance,
        images=len(a),
    )


def run_inputs(session: Runner, loaded: LoadedModel, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run inputs ``[n, ...]`` by name through a loaded model of fixed batch; the last batch is filled up and cut again.

    Returns:
        Output name -> ``[n, ...]``.

    Raises:
        ArtifactError: The names are not the model's, or there is nothing to run.
    """
    names = {entry.name for entry in loaded.inputs}
    counts = {len(value) for value in inputs.values()}
    if set(inputs) != names or len(counts) != 1 or 0 in counts:
        raise ArtifactError(f"inputs {sorted(inputs)} of {sorted(counts)} rows do not fit the model's {sorted(names)}.")
    count, batch = counts.pop(), max(1, loaded.inputs[0].shape[0]) if loaded.inputs[0].shape else 1
    parts: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, count, batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        chunk = {name: np.ascontiguousarray(value[rows]) for name, value in inputs.items()}
        for name, value in session.run(loaded.handle, chunk).items():
            parts.setdefault(name, []).append(np.asarray(value)[: count - start])
    return {name: np.concatenate(values) for name, values in parts.items()}


def run_images(session: Runner, loaded: LoadedModel, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Run ``images`` ``[n, c, h, w]`` through a loaded model with one input; see :func:`run_inputs`."""
    return run_inputs(session, loaded, {loaded.inputs[0].name: images})


def torch_outputs(module: torch.nn.Module, images: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return the outputs of ``module`` in evaluation mode on the CPU, each ``[n, ...]``, in order."""
    import torch

    training = module.training
    module.eval()
    parts: list[tuple[Any, ...]] = []
    with torch.no_grad():
        for start in range(0, len(images), _TORCH_BATCH):
            answer = module(torch.from_numpy(np.ascontiguousarray(images[start : start + _TORCH_BATCH])))
            parts.append(tuple(answer) if isinstance(answer, tuple | list) else (answer,))
    module.train(training)
    return [torch.cat(values).float().numpy() for values in zip(*parts, strict=True)]


def parity(
    session: Runner,
    loaded: LoadedModel,
    module: torch.nn.Module,
    images: NDArray[np.float32],
    precision: str,
) -> dict[str, OutputParity]:
    """Run the exported file on the target and ``module`` in torch on the same real images ``[n, c, h, w]``.

    Raises:
        RefusedError: Outputs differ in number or shape, are not finite, or are further apart than the tolerance.
    """
    return check_parity(torch_outputs(module, images), run_images(session, loaded, images), loaded, precision)


def check_parity(
    reference: list[NDArray[Any]], found: Mapping[str, NDArray[Any]], loaded: LoadedModel, precision: str
) -> dict[str, OutputParity]:
    """Compare outputs by position and hold them to the tolerance of ``precision``.

    Raises:
        RefusedError: As :func:`parity`.
    """
    names = [output.name for output in loaded.outputs]
    if len(names) != len(reference):
        raise RefusedError(f"the exported file has {len(names)} outputs ({', '.join(names)}), torch {len(reference)}.")
    tolerance = TOLERANCE.get(precision)
    result = {name: compare_outputs(ours, found[name], tolerance) for name, ours in zip(names, reference, strict=True)}
    for name, entry in result.items():
        if tolerance is not None and entry.relative_l2 > tolerance:
            raise RefusedError(
                f"parity failed: output {name!r} on {loaded.runtime} is {entry.relative_l2:.2e} (relative L2, worst of "
                f"{entry.images} images) from torch, the tolerance of {precision} is {tolerance:.0e}. "
                "The file is no artifact and was removed; export for another runtime, or report the network."
            )
    return result

"""Export of a person's own model: a torch module, the import path of one, or an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.artifacts.given import Given, import_module, onnx_given, torch_given
from hwnas.artifacts.package import staging
from hwnas.artifacts.parity import check_parity, run_images
from hwnas.artifacts.pipeline import (
    Artifact,
    Steps,
    array_digest,
    complete,
    environment,
    existing,
    narrowed,
    quantisation,
    refuse_simulated,
)
from hwnas.artifacts.records import Calibration, Licence, OutputParity
from hwnas.artifacts.samples import COUNT, write_samples
from hwnas.artifacts.timing import absolute, judge, protocol_of
from hwnas.backends.base import Quantising
from hwnas.config import Budget, ExportSection
from hwnas.devices.fingerprint import int8_weight_bits
from hwnas.devices.models import LoadedModel, ModelFiles
from hwnas.errors import ConfigError, RefusedError
from hwnas.files import digest
from hwnas.progress import Advance
from hwnas.targets import Target

if TYPE_CHECKING:
    import torch

    from hwnas.backends.base import Backend
    from hwnas.devices.session import Session

STEPS = 5
RANDOM_INPUTS = 8
MIN_COSINE = 0.9
"""Smallest cosine to the source, worst sample, of an int8 file where no data set can decide."""
UNKNOWN = Licence(weights="unknown: given by the user", note="State the licence before passing this package on.")


def _inputs(shape: tuple[int, ...], samples: NDArray[Any] | None, seed: int, precision: str) -> NDArray[np.float32]:
    """Return given samples and random inputs ``[n, *shape]``; int8 is compared on given samples only.

    Raises:
        ConfigError: Samples of another shape.
    """
    given = np.zeros((0, *shape), np.float32) if samples is None else np.asarray(samples, dtype=np.float32)
    if given.shape[1:] != shape:
        raise ConfigError(f"samples have shape {given.shape}, the model wants [n, {', '.join(map(str, shape))}].")
    if precision == "int8" and len(given):
        return np.ascontiguousarray(given)
    drawn = np.random.default_rng(seed).standard_normal((RANDOM_INPUTS, *shape)).astype(np.float32)
    return np.ascontiguousarray(np.concatenate([given, drawn]))


def export_model(
    source: str | Path | torch.nn.Module,
    *,
    target: Target,
    backend: Backend,
    session: Session,
    folder: Path,
    input_shape: Sequence[int] | None = None,
    samples: NDArray[Any] | None = None,
    section: ExportSection | None = None,
    budget: Budget | None = None,
    name: str | None = None,
    licence: Licence = UNKNOWN,
    seed: int = 0,
    progress: Advance | None = None,
) -> Artifact:
    """Export a given model for a target and verify the file there: parity on random inputs and samples, no accuracy.

    Args:
        source: ``.onnx`` file, ``pkg.mod:function``, or a module. An ONNX file is shipped as it is (weights inside), for
            runtimes that open ONNX; for int8 it is quantised unless it is already.
        target: What the file is for.
        backend: Maker of the target's files (torch modules).
        session: Open session of the target's device.
        folder: The artifact's folder; never overwritten.
        input_shape: Shape of the input with the batch first (torch modules).
        samples: Real inputs ``[n, ...]``, preprocessed; int8 is calibrated with them and needs them.
        section: Rounds of the measurement.
        budget: An absolute budget, or None.
        name: Name in the manifest; the folder's by default.
        licence: Licence of the weights.
        seed: Of the random inputs.
        progress: Told of every step (:data:`STEPS` in all).

    Raises:
        ArtifactError: Parity failed (nothing is left behind), or ``folder`` holds something else.
        MeasurementFailure: The file cannot be run or measured on the target.
        ConfigError: Source, shape, samples or budget cannot be used.
    """
    refuse_simulated(target)
    section, budget = section or ExportSection(), absolute(budget)
    is_file = isinstance(source, Path) or (isinstance(source, str) and source.endswith(".onnx"))
    if is_file:
        given = onnx_given(Path(str(source)), target)
    else:
        module = import_module(source) if isinstance(source, str) else source
        given = torch_given(module, target, backend, input_shape)  # type: ignore[arg-type]
    if target.precision == "int8" and given.calibrates and (samples is None or not len(samples)):
        raise ConfigError(
            "int8 needs real inputs to calibrate with: an array [n, ...], written with numpy.save, as --samples FILE.npy."
        )
    images = _inputs(given.shape, samples, seed, target.precision)
    quantising = None
    if target.precision == "int8" and given.calibrates:
        quantising = Quantising(images, int8_weight_bits(session.hello().identity))
    request = digest(
        {
            "source": given.digest,
            "inputs": array_digest(images),
            "target": str(target),
            "budget": budget.model_dump() if budget else None,
            "rounds": section.rounds,
            **(narrowed(quantising.weight_bits) if quantising else {}),
        }
    )
    if (found := existing(folder, request)) is not None:
        if progress is not None:
            progress(STEPS, "checked and reused")
        return found
    steps = Steps(STEPS, progress)
    parts: dict[str, Any] = {"name": name or folder.name, "request": request, "licence": licence}
    with staging(folder) as work:
        steps(f"exporting for {target}")
        files = _make(given, work, images, quantising, parts)
        _verify(given, files, images, target, session, steps, parts, work)
        steps("measuring latency")
        parts["measured"], parts["budgets"] = judge(session, files, target, budget, protocol_of(section.rounds))
        steps("writing scripts, card and manifest")
        manifest = complete(work, files, parts)
    steps.finish()
    return Artifact(folder, manifest)


def _make(
    given: Given,
    work: Path,
    images: NDArray[np.float32],
    quantising: Quantising | None,
    parts: dict[str, Any],
) -> ModelFiles:
    files = given.make(work, images, quantising)
    parts["quantisation"] = quantisation(work)
    if quantising is not None:
        parts["calibration"] = Calibration(digest=array_digest(images), images=len(images), split="given samples")
    return files


def _verify(
    given: Given,
    files: ModelFiles,
    images: NDArray[np.float32],
    target: Target,
    session: Session,
    steps: Steps,
    parts: dict[str, Any],
    work: Path,
) -> None:
    steps("loading on the target")
    loaded = session.load(files, target)
    try:
        steps(f"parity with {given.reference} on {len(images)} inputs")
        expected, found = given.outputs(images), run_images(session, loaded, images)
        parity = check_parity(expected, found, loaded, target.precision)
        _check_cosine(parity, loaded)
        parts |= environment(session, target, loaded)
    finally:
        session.unload(loaded.handle)
    parts |= {"parity": parity, "parity_reference": given.reference}
    names = [entry.name for entry in loaded.outputs]
    write_samples(
        work,
        {loaded.inputs[0].name: images[:COUNT]},
        {name: value[:COUNT] for name, value in zip(names, expected, strict=True)},
        {name: value[:COUNT] for name, value in found.items()},
    )


def _check_cosine(parity: dict[str, OutputParity], loaded: LoadedModel) -> None:
    for name, entry in parity.items():
        if entry.tolerance is None and entry.cosine < MIN_COSINE:
            raise RefusedError(
                f"parity failed: output {name!r} on {loaded.runtime} has cosine {entry.cosine:.3f} to the source on the "
                f"worst of {entry.images} inputs, at least {MIN_COSINE} is needed. The file is no artifact and was "
                "removed. Give more or other samples to calibrate with, or export in fp32."
            )

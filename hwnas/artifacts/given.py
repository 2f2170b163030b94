"""Models that people bring: a torch module, the import path of one, or an ONNX file."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.artifacts.parity import torch_outputs
from hwnas.artifacts.pipeline import weights_digest
from hwnas.backends.base import EXPORT_RECORD, Quantising
from hwnas.devices.models import ModelFiles
from hwnas.errors import ConfigError
from hwnas.files import write_json
from hwnas.targets import Target

if TYPE_CHECKING:
    import torch

    from hwnas.backends.base import Backend

ONNX_RUNTIMES = ("onnxruntime", "openvino")
"""Runtimes that open ONNX files."""

QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger")
"""Operations by which an ONNX file is known to be quantised already."""

Make = Callable[[Path, NDArray[np.float32], Quantising | None], ModelFiles]
Outputs = Callable[[NDArray[np.float32]], list[NDArray[Any]]]


@dataclass(frozen=True)
class Given:
    """A given model.

    Attributes:
        digest: sha256 of its weights or file.
        shape: Shape of one input without the batch.
        reference: What ``outputs`` is computed with.
        outputs: Inputs ``[n, *shape]`` -> outputs in order, each ``[n, ...]``.
        make: ``make(folder, inputs, quantising)`` writes the files.
        calibrates: Whether int8 files are quantised here, with real inputs (else the file is quantised already).
    """

    digest: str
    shape: tuple[int, ...]
    reference: str
    outputs: Outputs
    make: Make
    calibrates: bool = True


def import_module(path: str) -> torch.nn.Module:
    """Return the module that ``pkg.mod:function`` names or that the function returns.

    Raises:
        ConfigError: Nothing there, or no ``torch.nn.Module``.
    """
    import torch

    name, colon, attribute = path.partition(":")
    try:
        found: Any = getattr(importlib.import_module(name), attribute) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"model {path!r} cannot be imported: {error}. It must read pkg.mod:function.") from error
    if callable(found) and not isinstance(found, torch.nn.Module):
        found = found()
    if not isinstance(found, torch.nn.Module):
        raise ConfigError(
            f"model {path!r} must be an .onnx file, or pkg.mod:function of a function that returns a torch.nn.Module, "
            f"got {type(found).__name__}."
        )
    return found


def torch_given(module: torch.nn.Module, target: Target, backend: Backend, shape: Sequence[int] | None) -> Given:
    """Return a torch module as a given model; ``shape`` has the batch first.

    Raises:
        ConfigError: No shape.
    """
    import torch

    if shape is None:
        raise ConfigError("a torch module needs the shape of its input: --input-shape 1,3,224,224.")

    def make(folder: Path, images: NDArray[np.float32], quantising: Quantising | None) -> ModelFiles:
        example = torch.from_numpy(images)
        return backend.export(
            module,
            example,
            target.precision,
            folder,
            calibration=None if quantising is None else quantising.images,
            weight_bits=8 if quantising is None else quantising.weight_bits,
            batch=target.batch,
        )

    outputs: Outputs = lambda images: torch_outputs(module, images)  # noqa: E731
    return Given(weights_digest(module.state_dict()), tuple(shape)[1:], "torch", outputs, make)


def onnx_given(path: Path, target: Target) -> Given:
    """Return an ONNX file as a given model.

    Raises:
        ConfigError: The runtime does not open ONNX, or the file has another batch.
        ModelFileError: Not an ONNX file, weights outside its folder, several inputs or open shapes.
    """
    from onnx.reference import ReferenceEvaluator

    from hwnas.backends.onnx_files import input_shape, read_onnx, save_onnx

    if target.runtime not in ONNX_RUNTIMES:
        raise ConfigError(
            f"an ONNX file can be exported for {' or '.join(ONNX_RUNTIMES)}, not {target.runtime}; "
            "give the torch module instead (pkg.mod:function)."
        )
    model = read_onnx(path)
    _fix_batch(model, target.batch)
    name, shape = input_shape(model)
    if shape[0] != target.batch:
        raise ConfigError(
            f"{path.name} has batch {shape[0]}, target {target} asks for {target.batch}. Change one of them."
        )
    evaluator = ReferenceEvaluator(model)

    def outputs(images: NDArray[np.float32]) -> list[NDArray[Any]]:
        parts = []
        for start in range(0, len(images), target.batch):
            rows = np.minimum(np.arange(start, start + target.batch), len(images) - 1)
            answers = evaluator.run(None, {name: images[rows]})
            parts.append([np.asarray(answer)[: len(images) - start] for answer in answers])
        return [np.concatenate(values) for values in zip(*parts, strict=True)]

    def make(folder: Path, images: NDArray[np.float32], quantising: Quantising | None) -> ModelFiles:
        save_onnx(model, folder / "model.onnx")
        files = ModelFiles(folder / "model.onnx")
        return files if quantising is None else _quantised(files, target.runtime, quantising)

    return Given(
        # Of the whole model: weights that lie beside the file count, too.
        digest=hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        shape=shape[1:],
        reference="the ONNX reference evaluator",
        outputs=outputs,
        make=make,
        calibrates=not any(node.op_type in QUANTISED for node in model.graph.node),
    )


def _quantised(files: ModelFiles, runtime: str, quantising: Quantising) -> ModelFiles:
    """Replace a float ONNX file by one quantised for ``runtime``, and record how."""
    folder = files.main.parent
    if runtime == "onnxruntime":
        from hwnas.backends.onnxruntime import QUANTISER as BY_ONNXRUNTIME
        from hwnas.backends.onnxruntime import quantise_file

        quantise_file(files.main, files.main, quantising.images, quantising.weight_bits)
        write_json(folder / EXPORT_RECORD, quantising.record(BY_ONNXRUNTIME))
        return files
    from hwnas.backends.openvino import QUANTISER as BY_NNCF
    from hwnas.backends.openvino import quantise_model, read_model, save

    model = quantise_model(read_model(files.main), quantising.images, quantising.weight_bits)
    files.main.unlink()
    write_json(folder / EXPORT_RECORD, quantising.record(BY_NNCF))
    return save(model, folder)


def _fix_batch(model: Any, batch: int) -> None:
    """Give an open first dimension of inputs and outputs the target's batch."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) and not dims[0].dim_value:
            dims[0].dim_value = batch

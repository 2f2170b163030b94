"""The ONNX files that TensorRT and TensorRT-RTX build engines from: float32, float16 throughout, or int8 by QDQ nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import forward_once, repeat_to_batch
from hwnas.backends.naming import block_of_kernel
from hwnas.backends.onnx_export import COMPARED_IMAGES, Exporter, export_onnx, relative_error
from hwnas.backends.onnx_files import read_onnx, save_onnx
from hwnas.backends.onnx_graph import build_fp32
from hwnas.backends.onnx_half import to_half
from hwnas.backends.onnx_qdq import TENSORRT, build_int8
from hwnas.backends.onnxruntime import MODEL, QUANTISER, quantise_file, run_file
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import KernelTime, ModelFiles
from hwnas.errors import ModelFileError
from hwnas.files import write_json
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch

HALF_RELATIVE_L2 = 1e-2
"""Largest accepted distance of a float16 file to torch in float32, relative L2 over an image's outputs, worst image: float16
keeps 11 bits (5e-4), and the rounding of some fifty layers adds up (2.4e-3 on the tests' trained network)."""
OVERHEAD = frozenset({"Reformat", "NoOp"})
"""Layers of an engine that only change layouts or types between others."""


def _compare_half(path: Path, module: torch.nn.Module, example: torch.Tensor, batch: int) -> float:
    """Return the distance of a float16 file to torch, worst image.

    Raises:
        ModelFileError: It is too large.
    """
    import torch

    batches = repeat_to_batch(example[:COMPARED_IMAGES].detach().cpu().numpy(), batch)
    reference = np.concatenate([forward_once(module, torch.from_numpy(part)).numpy() for part in batches])
    error = relative_error(reference, np.concatenate(run_file(path, batches)))
    if not error <= HALF_RELATIVE_L2:
        raise ModelFileError(
            f"{type(module).__name__} computes something else in float16: its outputs are {error:.2g} away (relative L2, at "
            f"most {HALF_RELATIVE_L2:g}); activations beyond 65504 are the usual reason. Use fp32 or int8."
        )
    return error


class TensorRtFiles(Backend):
    """Makes ``model.onnx`` for TensorRT's parser; the engine is built from it on the device.

    Networks are strongly typed: what is computed in which precision is written in the file. Weights of int8 use 8 bits
    whatever the device's CPU would want, for a GPU adds products in 32 bits.

    Args:
        exporter: Use only this exporter of torch; else the fast one, and the other if its file is wrong.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    install: ClassVar[str] = "pip install onnx onnxruntime"

    def __init__(self, exporter: Exporter | None = None) -> None:
        self.exporter = exporter

    def kernel_block(self, kernel: KernelTime, graph: LayerGraph) -> str | None:
        """Return the name of the block a kernel belongs to; None for changes of layout."""
        return None if kernel.op in OVERHEAD else block_of_kernel(kernel, graph)

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        path = folder / MODEL
        if precision == "int8":
            model = build_int8(graph, batch=batch, seed=seed, weights=weights, scheme=TENSORRT)
        else:
            model = build_fp32(graph, batch=batch, seed=seed, weights=weights)
        save_onnx(to_half(model) if precision == "fp16" else model, path)
        return ModelFiles(path)

    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        path = folder / MODEL
        record = export_onnx(module, example, path, run_file, batch=batch, exporter=self.exporter).as_dict()
        if precision == "fp16":
            save_onnx(to_half(read_onnx(path)), path)
            record["half_error"] = _compare_half(path, module, example, batch)
        elif quantising is not None:
            quantising = Quantising(quantising.images, 8)
            quantise_file(path, path, quantising.images, quantising.weight_bits, TENSORRT)
            record |= quantising.record(QUANTISER)
        files = self._finish(ModelFiles(path), precision, record)
        write_json(folder / EXPORT_RECORD, record)
        return files

    def _finish(self, files: ModelFiles, precision: str, record: dict[str, Any]) -> ModelFiles:
        """Add what else is shipped, and what ``export.json`` says of it."""
        return files

"""ONNX Runtime: ``model.onnx``, in float32 or statically quantised (QDQ)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx

from hwnas.backends._quiet import silenced
from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import FloatArray, check_calibration, repeat_to_batch
from hwnas.backends.onnx_export import Exporter, export_onnx
from hwnas.backends.onnx_files import input_shape, read_onnx, save_onnx
from hwnas.backends.onnx_graph import build_fp32
from hwnas.backends.onnx_qdq import ONNX_RUNTIME, Scheme, build_int8
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import ModelFiles
from hwnas.errors import ModelFileError
from hwnas.files import write_json
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

MODEL = "model.onnx"
QUANTISER = "onnxruntime.quantization.quantize_static"


def run_file(path: Path, batches: list[FloatArray]) -> list[FloatArray]:
    """Run a file of one input and one output on batches of its fixed size, on one thread of this machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [np.asarray(session.run(None, {name: batch})[0]) for batch in batches]


def _recipe(scheme: Scheme, prepared: Path) -> dict[str, Any]:
    """Return the quantiser's arguments for a scheme."""
    from onnxruntime.quantization import QuantType

    options: dict[str, Any] = {}
    if scheme.symmetric:
        options["ActivationSymmetric"] = True
    if not scheme.bias:
        options["QuantizeBias"] = False
    if not scheme.outputs:
        ops = {node.op_type for node in onnx.load(prepared).graph.node}
        options["OpTypesToExcludeOutputQuantization"] = sorted(ops)
    activation_type = QuantType.QInt8 if scheme.symmetric else QuantType.QUInt8
    return {"activation_type": activation_type, "extra_options": options}


def quantise_file(
    source: Path, target: Path, calibration: NDArray[Any], weight_bits: int = 8, scheme: Scheme = ONNX_RUNTIME
) -> None:
    """Quantise a float ONNX file statically.

    Activations per tensor (smallest and largest value seen), int8 symmetric weights per output channel; by default uint8
    asymmetric activations and int32 biases: the recipe that ONNX Runtime's CPU kernels are fused for. HardSwish is left
    whole: decomposed before quantisation it costs one conversion more per activation, and accuracy.

    Args:
        source: Float model of one input of fixed shape.
        target: File to write.
        calibration: Real images, float32 ``[n, ...]``, preprocessed as the network wants them.
        weight_bits: Bits of the weights; 7 where the device's kernels would saturate.
        scheme: What the runtime wants quantised.

    Raises:
        ModelFileError: The source is not an ONNX file, or cannot be quantised.
        ConfigError: Calibration images do not fit the input.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    model = read_onnx(source)
    name, shape = input_shape(model)
    images = check_calibration(calibration, shape[1:])
    # only batch normalisation that the exporter left over is a reason to let the optimiser rewrite the graph
    unfolded = any(node.op_type == "BatchNormalization" for node in model.graph.node)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[FloatArray] = iter(repeat_to_batch(images, shape[0]))

        def get_next(self) -> dict[str, FloatArray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory(prefix="hwnas-quantise-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            with silenced():
                quant_pre_process(str(source), str(prepared), skip_optimization=not unfolded, skip_symbolic_shape=True)
                quantize_static(
                    str(prepared),
                    str(target),
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=weight_bits == 7,
                    weight_type=QuantType.QInt8,
                    **_recipe(scheme, prepared),
                )
        except Exception as error:  # the quantiser raises anything
            raise ModelFileError(f"{source.name} cannot be quantised by ONNX Runtime: {error}") from error


class OnnxRuntimeBackend(Backend):
    """Makes ``model.onnx`` for ONNX Runtime.

    Args:
        exporter: Use only this exporter of torch; else the fast one, and the other if its file is wrong.
    """

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    install: ClassVar[str] = "pip install onnx onnxruntime"

    def __init__(self, exporter: Exporter | None = None) -> None:
        self.exporter = exporter

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        build = build_fp32 if precision == "fp32" else build_int8
        path = folder / MODEL
        save_onnx(build(graph, batch=batch, seed=seed, weights=weights), path)
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
        if quantising is not None:
            quantise_file(path, path, quantising.images, quantising.weight_bits)
            record |= quantising.record(QUANTISER)
        write_json(folder / EXPORT_RECORD, record)
        return ModelFiles(path)

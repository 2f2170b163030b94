"""OpenVINO: ``model.xml`` and ``model.bin``, in float32 or quantised by NNCF."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.backends._openvino import import_nncf, import_openvino
from hwnas.backends._quiet import silenced
from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import FloatArray, check_calibration, repeat_to_batch
from hwnas.backends.onnx_export import Exporter, export_onnx
from hwnas.backends.openvino_graph import build_model
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import ModelFiles
from hwnas.errors import ModelFileError
from hwnas.files import explain_os_errors, write_json
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

MODEL = "model.xml"
WEIGHTS = "model.bin"
QUANTISER = "nncf.quantize"


def read_model(path: Path) -> Any:
    """Read an ONNX file or an IR into an ``openvino.Model``, its constants folded.

    Folding matters: NNCF and OpenVINO's own quantisation passes do not see through the reshape that the ONNX reader puts
    behind the weight of a depthwise convolution, and would leave those convolutions in float32.

    Raises:
        ModelFileError: OpenVINO cannot read it.
    """
    openvino = import_openvino()
    from openvino.passes import ConstantFolding, Manager

    try:
        model = openvino.Core().read_model(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelFileError(f"{path.name} is not a model OpenVINO can read: {reason}") from error
    if path.suffix == ".onnx":
        manager = Manager()
        manager.register_pass(ConstantFolding())
        manager.run_passes(model)
    return model


def run_file(path: Path, batches: list[FloatArray]) -> list[FloatArray]:
    """Run a file of one input and one output on batches of its fixed size, in float32 on one thread of this machine."""
    openvino = import_openvino()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.compile_model(read_model(path), "CPU", settings).create_infer_request()
    return [np.array(request.infer({0: batch})[0]) for batch in batches]


def quantise_model(model: Any, calibration: NDArray[Any], weight_bits: int = 8) -> Any:
    """Return the ``openvino.Model`` that NNCF makes of a float one.

    MIXED preset: symmetric int8 weights per channel, asymmetric activations (h-swish has a small negative side). Three settings
    are not NNCF's own. Ranges are the smallest and largest value over all images: NNCF's default, the mean of the images'
    extremes, cuts off what single images need, and was ten times further from torch on trained networks. Activations are per
    tensor: per-channel ranges in front of depthwise convolutions make OpenVINO choose slower kernels wherever a channel
    happens to be dead, so that latency would depend on the weights. Weights have 7 bits everywhere or nowhere; NNCF's default is 7 in the
    first convolution.

    Args:
        model: One input of fixed shape.
        calibration: Real images, float32 ``[n, ...]``, preprocessed as the network wants them; all of them are used.
        weight_bits: Bits of the weights; 7 where the device's kernels would saturate.

    Raises:
        ModelFileError: NNCF cannot quantise it.
        ConfigError: Calibration images do not fit the input.
    """
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    shape = tuple(int(size) for size in model.input(0).shape)
    batches = repeat_to_batch(check_calibration(calibration, shape[1:]), shape[0])
    parameters = AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        activations_quantization_params=QuantizationParameters(per_channel=False),
        overflow_fix=OverflowFix.ENABLE if weight_bits == 7 else OverflowFix.DISABLE,
    )
    try:
        with silenced():
            return nncf.quantize(
                model,
                nncf.Dataset(batches),
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(batches),
                advanced_parameters=parameters,
            )
    except Exception as error:  # NNCF raises anything
        raise ModelFileError(f"NNCF cannot quantise the model: {error}") from error


def save(model: Any, folder: Path) -> ModelFiles:
    """Write ``model.xml`` and ``model.bin``; weights stay in float32 where they are float32.

    Raises:
        StorageError: The files cannot be written.
    """
    path = folder / MODEL
    with explain_os_errors(path):
        try:
            import_openvino().save_model(model, str(path), compress_to_fp16=False)
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error
    return ModelFiles(path, (folder / WEIGHTS,))


class OpenVinoBackend(Backend):
    """Makes an IR for OpenVINO.

    Args:
        exporter: Use only this exporter of torch; else the fast one, and the other if its file is wrong.
    """

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino", "nncf")
    install: ClassVar[str] = "pip install onnx openvino nncf"

    def __init__(self, exporter: Exporter | None = None) -> None:
        self.exporter = exporter

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        return save(build_model(graph, precision, batch=batch, seed=seed, weights=weights), folder)

    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        with tempfile.TemporaryDirectory(prefix="hwnas-openvino-") as name:
            path = Path(name) / "model.onnx"
            record = export_onnx(module, example, path, run_file, batch=batch, exporter=self.exporter).as_dict()
            model = read_model(path)
            if quantising is not None:
                model = quantise_model(model, quantising.images, quantising.weight_bits)
                record |= quantising.record(QUANTISER)
            files = save(model, folder)
        write_json(folder / EXPORT_RECORD, record)
        return files

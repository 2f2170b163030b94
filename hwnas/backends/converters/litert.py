"""``model.pt2`` to ``model.tflite``, in float32 or statically quantised to int8."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def to_float_file(program: Any) -> None:
    """Write ``model.tflite`` in float32."""
    import litert_torch

    example = np.load("example.npy", allow_pickle=False)
    litert_torch.convert(program.module(), (torch.from_numpy(example[0]),)).export("model.tflite")


def quantise() -> None:
    """Replace ``model.tflite`` by its int8 version: int8 activations and int8 weights per channel.

    Ranges are the smallest and largest value over all images. The quantiser's own default, a moving average that the last
    images dominate, was ten times further from torch on a trained network.
    """
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    worker = quantizer.Quantizer("model.tflite")
    worker.load_quantization_recipe(recipe.static_wi8_ai8())
    signature, name = signature_of("model.tflite")
    images = [{name: batch} for batch in np.load("calibration.npy", allow_pickle=False)]
    ranges = calibrator.Calibrator("model.tflite", num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    ranges.calibrate({signature: images}, worker._recipe_manager)
    worker.quantize(ranges.get_model_qsvs()).export_model("quantised.tflite", overwrite=True)
    pathlib.Path("quantised.tflite").replace("model.tflite")


def signature_of(path: str) -> tuple[str, str]:
    """Return the name of the one signature and of its input."""
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(model_path=path).get_signature_list()
    (name,) = signatures
    return name, signatures[name]["inputs"][0]


def outputs() -> None:
    """Write what the file computes of the example images."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path="model.tflite", num_threads=1)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for batch in np.load("example.npy", allow_pickle=False):
        interpreter.set_tensor(source["index"], to_integers(batch, source))
        interpreter.invoke()
        found.append(to_floats(interpreter.get_tensor(sink["index"]), sink))
    np.save("outputs.npy", np.concatenate(found))


def to_integers(values: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    """Quantise values as a tensor wants them."""
    scale, zero = detail["quantization"]
    if not scale:
        return values.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    integers: NDArray[Any] = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(detail["dtype"])
    return integers


def to_floats(values: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    """Return the real values of a tensor."""
    scale, zero = detail["quantization"]
    return np.asarray((values.astype(np.float32) - zero) * scale if scale else values)


def main() -> None:
    """Convert as the request says."""
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    to_float_file(torch.export.load("model.pt2"))
    result = {"converter": f"litert-torch {importlib.metadata.version('litert-torch')}"}
    if request["precision"] == "int8":
        quantise()
        result["quantiser"] = f"ai-edge-quantizer {importlib.metadata.version('ai-edge-quantizer')} static_wi8_ai8"
    outputs()
    pathlib.Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()

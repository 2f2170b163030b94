"""Runs model.xml in OpenVINO on the CPU; infer.py loads this file. Needs numpy and the runtime."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

INSTALL = "pip install openvino"


class Model:
    """A model in OpenVINO on the CPU, executed in the manifest's precision and no other."""

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any], threads: int) -> None:
        # OpenVINO falls back on a stub where there is no telemetry package: nothing is sent.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp16": "f16"}.get(manifest["runtime"]["precision"], "f32"),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # With one thread OpenVINO would undo the caller's own pinning at every inference.
            "ENABLE_CPU_PINNING": threads == 1,
        }
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        self.request = compiled.create_infer_request()
        self.version = openvino.__version__
        self.outputs = [entry["name"] for entry in manifest["outputs"]]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        self.request.infer(inputs, share_inputs=False)
        return {name: self.request.get_output_tensor(i).data.copy() for i, name in enumerate(self.outputs)}

    def bind(self, inputs: dict[str, Array]) -> Callable[[], Any]:
        """Return a function that runs once on ``inputs``, with nothing else in it: what is timed."""
        for name, value in inputs.items():
            self.request.get_tensor(name).data[...] = value
        return lambda: self.request.infer(share_outputs=True, decode_strings=False)

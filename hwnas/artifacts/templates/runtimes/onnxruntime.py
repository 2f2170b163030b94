"""Runs model.onnx in ONNX Runtime on the CPU; infer.py loads this file. Needs numpy and the runtime."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INSTALL = "pip install onnxruntime"


class Model:
    """A model in ONNX Runtime on the CPU."""

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.version = onnxruntime.__version__
        self.outputs = [entry["name"] for entry in manifest["outputs"]]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        return dict(zip(self.outputs, self.session.run(self.outputs, inputs)))  # noqa: B905 (Python 3.9)

    def bind(self, inputs: dict[str, Array]) -> Callable[[], Any]:
        """Return a function that runs once on ``inputs``, with nothing else in it: what is timed."""
        binding = self.session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self.outputs:
            binding.bind_output(name)
        return lambda: self.session.run_with_iobinding(binding)

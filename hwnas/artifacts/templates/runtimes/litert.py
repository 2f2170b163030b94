"""Runs model.tflite in LiteRT on the CPU; infer.py loads this file. Needs numpy and the runtime."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INSTALL = "pip install ai-edge-litert"


class Model:
    """A model in LiteRT's interpreter. Inputs and outputs are float32; those of an int8 file are converted here."""

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any], threads: int) -> None:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.sources = {detail["name"]: detail for detail in self.interpreter.get_input_details()}
        self.sinks = {detail["name"]: detail for detail in self.interpreter.get_output_details()}
        self.version = str(getattr(ai_edge_litert, "__version__", ""))

    def feed(self, inputs: dict[str, Array]) -> None:
        """Write inputs into the interpreter, quantised as it wants them."""
        for name, value in inputs.items():
            detail = self.sources[name]
            scale, zero = detail["quantization"]
            if scale:
                limits = np.iinfo(detail["dtype"])
                value = np.clip(np.rint(value / scale) + zero, limits.min, limits.max)
            self.interpreter.set_tensor(detail["index"], np.ascontiguousarray(value, dtype=detail["dtype"]))

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        self.feed(inputs)
        self.interpreter.invoke()
        found = {}
        for name, detail in self.sinks.items():
            value = self.interpreter.get_tensor(detail["index"])
            scale, zero = detail["quantization"]
            found[name] = (value.astype(np.float32) - zero) * np.float32(scale) if scale else value
        return found

    def bind(self, inputs: dict[str, Array]) -> Callable[[], Any]:
        """Return a function that runs once on ``inputs``, with nothing else in it: what is timed."""
        self.feed(inputs)
        return lambda: self.interpreter.invoke()

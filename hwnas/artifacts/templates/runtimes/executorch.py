"""Runs model.pte in ExecuTorch on the CPU; infer.py loads this file. Needs numpy and the runtime, which brings torch."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INSTALL = "pip install executorch"


class Model:
    """The method ``forward`` of a program."""

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any], threads: int) -> None:
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if portable_lib._threadpool_get_thread_count() != threads:
            portable_lib._unsafe_reset_threadpool(threads)
        self.tensor = torch.from_numpy
        self.version = ""
        self.inputs = [entry["name"] for entry in manifest["inputs"]]
        self.outputs = [entry["name"] for entry in manifest["outputs"]]
        self.program = Runtime.get().load_program(path)
        self.method = self.program.load_method("forward")

    def arguments(self, inputs: dict[str, Array]) -> list[Any]:
        """Return the inputs in order, as tensors."""
        return [self.tensor(np.ascontiguousarray(inputs[name])) for name in self.inputs]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        found = self.method.execute(self.arguments(inputs))
        return {name: np.array(value) for name, value in zip(self.outputs, found)}  # noqa: B905 (Python 3.9)

    def bind(self, inputs: dict[str, Array]) -> Callable[[], Any]:
        """Return a function that runs once on ``inputs``, with nothing else in it: what is timed."""
        arguments = self.arguments(inputs)
        return lambda: self.method.execute(arguments)

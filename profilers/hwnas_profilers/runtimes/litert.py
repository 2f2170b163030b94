"""LiteRT (TensorFlow Lite) on the CPU: its interpreter, whose convolutions XNNPACK runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor, example_inputs

_COMPUTE = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int8"}


def _dtype(detail: Dict[str, Any]) -> str:
    return str(np.dtype(detail["dtype"]).name)


def _shape(detail: Dict[str, Any]) -> Tuple[int, ...]:
    return tuple(int(size) for size in detail["shape"])


class LiteRtModel(Model):
    """An interpreter. Inputs and outputs are float32 at the boundary; quantised tensors are converted outside what is timed."""

    device = "CPU"

    def __init__(self, path: Path, spec: LoadSpec) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=spec.threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise Failure("load_failed", f"{path.name}: {str(error)[:2000]}") from error
        self._sources = self._interpreter.get_input_details()
        self._sinks = self._interpreter.get_output_details()
        self.inputs = self._tensors(self._sources)
        self.outputs = self._tensors(self._sinks)
        batch = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else 0
        if batch != spec.batch:
            raise Failure("load_failed", f"{path.name} is a file of batch {batch}, batch {spec.batch} was asked for")
        self._settle(path, spec.precision)

    @staticmethod
    def _tensors(details: List[Dict[str, Any]]) -> Tuple[Tensor, ...]:
        kinds = [("float32" if detail["quantization"][0] else _dtype(detail)) for detail in details]
        return tuple(Tensor(str(detail["name"]), _shape(detail), kind) for detail, kind in zip(details, kinds))

    def _settle(self, path: Path, wanted: str) -> None:
        """Say what runs the file, and refuse another precision than the one its kernels compute in."""
        operations = self._interpreter._get_ops_details()
        delegates = [entry for entry in operations if entry["op_name"] == "DELEGATE"]
        computing = [entry for entry in operations if entry["op_name"] in _COMPUTE]
        tensors = {detail["index"]: _dtype(detail) for detail in self._interpreter.get_tensor_details()}
        counts: Dict[str, int] = {}
        for entry in computing:
            index = int(entry["inputs"][0])
            kind = _PRECISIONS.get(tensors.get(index, ""), "other")
            counts[kind] = counts.get(kind, 0) + 1
        if computing and not counts.get(wanted):
            found = ", ".join(sorted(counts))
            raise Failure("fallback", f"{wanted} was asked for, the compute operations of {path.name} are {found}")
        total = len(operations) - len(delegates)
        delegated = {int(node) for entry in delegates for node in entry.get("delegated", ())}
        self.provider = "XNNPACK" if delegates else "LiteRT built-in kernels"
        self.precision = wanted
        self.notes = (
            f"{counts.get(wanted, 0)} of {len(computing)} compute operations are {wanted}",
            f"{len(delegates)} parts run by XNNPACK, of {len(delegated) or total} operations in the file",
        )

    def _feed(self, inputs: Dict[str, np.ndarray]) -> None:
        for detail, tensor in zip(self._sources, self.inputs):
            value = np.ascontiguousarray(inputs[tensor.name])
            scale, zero = detail["quantization"]
            if scale:
                limits = np.iinfo(detail["dtype"])
                value = np.clip(np.rint(value / scale) + zero, limits.min, limits.max)
            self._interpreter.set_tensor(detail["index"], value.astype(detail["dtype"], copy=False))

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs, quantised ones as the real numbers they stand for."""
        self._feed(inputs)
        self._interpreter.invoke()
        found = {}
        for detail, tensor in zip(self._sinks, self.outputs):
            value = self._interpreter.get_tensor(detail["index"])
            scale, zero = detail["quantization"]
            found[tensor.name] = ((value.astype(np.float32) - zero) * np.float32(scale)) if scale else value
        return found

    def prepare(self) -> None:
        """Write the example inputs once."""
        self._feed(example_inputs(self.inputs))

    def step(self) -> object:
        """Run once on the inputs that lie in the interpreter."""
        self._interpreter.invoke()
        return None

    def kernels(self, runs: int) -> List[Kernel]:
        """Refuse: LiteRT's Python interface has no profiler.

        Raises:
            Failure: ``unsupported_op``.
        """
        raise Failure("unsupported_op", "LiteRT tells no kernel times through its Python interface")


class LiteRt(Runtime):
    """LiteRT's interpreter."""

    name = "litert"
    module = "ai_edge_litert"
    packages = ("ai-edge-litert",)
    install = "pip install ai-edge-litert"

    def providers(self) -> Tuple[str, ...]:
        """Return what the installed package runs on."""
        from ai_edge_litert import interpreter

        return ("XNNPACK",) if interpreter.Interpreter else ()

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open a ``.tflite`` file."""
        return LiteRtModel(path, spec)


RUNTIME = LiteRt()

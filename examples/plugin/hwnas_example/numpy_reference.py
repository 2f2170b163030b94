"""The device side: runs networks in numpy, operation by operation.

This file alone is pushed to the device, where it lies among hwnas's own runtimes: it may import the standard library, numpy
and ``hwnas_profilers``, nothing else, and keeps to Python 3.9. The operations are those of ONNX that hwnas's layer graphs
need (and those with which torch's exporters write pooling); one more is one more function in :data:`OPERATIONS`.
"""

from __future__ import annotations

import functools
import json
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor, example_inputs

Array = NDArray[np.float32]


def _windows(
    x: Array,
    fill: float,
    kernel_shape: list[int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    ceil_mode: int = 0,
) -> Array:
    """Return what a kernel sees at each place, ``[batch, channels, height, width, kernel height, kernel width]``."""
    reach = [dilations[axis] * (kernel_shape[axis] - 1) + 1 for axis in (0, 1)]
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    if ceil_mode:
        more = [(reach[axis] - x.shape[2 + axis]) % strides[axis] for axis in (0, 1)]
        # a window that would start behind the image is none
        more = [more[axis] if more[axis] + pads[2 + axis] < reach[axis] else 0 for axis in (0, 1)]
        x = np.pad(x, ((0, 0), (0, 0), (0, more[0]), (0, more[1])), constant_values=min(fill, 0.0))
    view = sliding_window_view(x, tuple(reach), axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _conv(x: Array, weight: Array, bias: Array | None = None, *, group: int = 1, **window: Any) -> Array:
    windows = _windows(x, 0.0, **{"kernel_shape": weight.shape[2:], **window})
    batch, _, height, width = windows.shape[:4]
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(batch, group, -1, height * width)
    rows = weight.reshape(group, len(weight) // group, -1)
    result = (rows @ columns).reshape(batch, -1, height, width)
    return result if bias is None else result + bias.reshape(-1, 1, 1)


def _average_pool(x: Array, count_include_pad: int = 0, **window: Any) -> Array:
    counted = _windows(np.ones_like(x[:1, :1]), float(count_include_pad), **window)
    result: Array = _windows(x, 0.0, **window).sum(axis=(4, 5)) / counted.sum(axis=(4, 5))
    return result


def _batch_norm(x: Array, scale: Array, shift: Array, mean: Array, variance: Array, **more: Any) -> Array:
    factor: Array = scale / np.sqrt(variance + more.get("epsilon", 1e-5))
    return x * factor.reshape(-1, 1, 1) + (shift - mean * factor).reshape(-1, 1, 1)


def _slice(x: Array, starts: Array, ends: Array, axes: Any = None, steps: Any = None) -> Array:
    where = [slice(None)] * x.ndim
    for index in range(len(starts)):
        axis = index if axes is None else int(axes[index])
        where[axis] = slice(int(starts[index]), int(ends[index]), 1 if steps is None else int(steps[index]))
    return x[tuple(where)]


def _reshape(x: Array, shape: Array, allowzero: int = 0) -> Array:
    return x.reshape([int(size) if size or allowzero else x.shape[axis] for axis, size in enumerate(shape)])


OPERATIONS: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": lambda x, low=None, high=None: np.clip(x, low, high),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis=axis),
    "Conv": _conv,
    "Flatten": lambda x, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "Gather": lambda x, indices, axis=0: np.take(x, indices, axis=axis),
    "Gemm": lambda a, b, c=0.0, transB=0: a @ (b.T if transB else b) + c,
    "GlobalAveragePool": lambda x: x.mean(axis=(2, 3), keepdims=True),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0.0, 1.0),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
    "MaxPool": lambda x, **window: _windows(x, -np.inf, **window).max(axis=(4, 5)),
    "Mul": np.multiply,
    "ReduceMean": lambda x, axes, keepdims=1: x.mean(axis=tuple(axes), keepdims=bool(keepdims)),
    "Relu": lambda x: np.maximum(x, 0.0),
    "Reshape": _reshape,
    "Sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
    "Slice": _slice,
    "Transpose": lambda x, perm: x.transpose(perm),
}
"""ONNX operation -> its function: input arrays by place, attributes by name with ONNX's defaults; an unknown one is an error."""


class Network:
    """A network read from its two files, ``model.json`` (nodes) and ``model.npz`` beside it (weights).

    Args:
        path: The JSON file.

    Raises:
        Failure: ``load_failed`` when a file is damaged, ``unsupported_op`` for an unknown operation, ``fallback`` for weights
            that are not float32.
    """

    def __init__(self, path: Path) -> None:
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                self._weights = {name: arrays[f"arr_{index}"] for index, name in enumerate(described["weights"])}
            self.nodes: list[dict[str, Any]] = described["nodes"]
            self._check(path)
            self._calls = [functools.partial(OPERATIONS[node["op"]], **node["attributes"]) for node in self.nodes]
            self.input, self.output = (
                Tensor(described[end]["name"], tuple(described[end]["shape"]), "float32") for end in ("input", "output")
            )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise Failure("load_failed", f"{path.name}: {type(error).__name__}: {error}") from error

    def _check(self, path: Path) -> None:
        unknown = sorted({node["op"] for node in self.nodes} - set(OPERATIONS))
        if unknown:
            raise Failure("unsupported_op", f"{path.name} holds {', '.join(unknown)}, which numpy_reference has not")
        found = {str(array.dtype) for array in self._weights.values() if array.dtype.kind == "f"}
        if not found <= {"float32"}:
            raise Failure(
                "fallback", f"float32 was asked for, the weights of {path.name} are {', '.join(sorted(found))}"
            )

    def __call__(self, x: Array, after_node: Callable[[], object] = lambda: None) -> Array:
        """Return the output for an input; ``after_node`` is called behind each node."""
        values: dict[str, Any] = {**self._weights, "": None, self.input.name: x}
        for index, node in enumerate(self.nodes):
            values[node["output"]] = self._calls[index](*[values[name] for name in node["inputs"]])
            after_node()
        result: Array = values[self.output.name]
        return result


class NumpyModel(Model):
    """A network in numpy. The agent imports numpy with one thread and pins it to one core."""

    provider = "numpy"
    device = "CPU"
    precision = "fp32"

    def __init__(self, path: Path) -> None:
        self._network = Network(path)
        self.inputs = (self._network.input,)
        self.outputs = (self._network.output,)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the named output for the named input."""
        return {self.outputs[0].name: self._network(inputs[self.inputs[0].name])}

    def prepare(self) -> None:
        """Make the input that is timed."""
        self._bound = example_inputs(self.inputs)[self.inputs[0].name]

    def step(self) -> object:
        """Run once; this is what is timed."""
        return self._network(self._bound)

    def kernels(self, runs: int) -> list[Kernel]:
        """Return the nodes in order, each with its median time: numpy fuses nothing."""
        self.prepare()
        times = np.median([self._laps() for _ in range(runs)], axis=0)
        return [
            Kernel(node["name"], node["op"], float(times[index]), (node["output"],))
            for index, node in enumerate(self._network.nodes)
        ]

    def _laps(self) -> NDArray[np.float64]:
        """Return the milliseconds of each node in one run."""
        stamps = [time.perf_counter_ns()]
        self._network(self._bound, lambda: stamps.append(time.perf_counter_ns()))
        return np.diff(stamps) / 1e6


class NumpyReference(Runtime):
    """numpy on one thread, in float32."""

    name = "numpy_reference"
    module = "numpy"
    packages = ("numpy",)
    install = "pip install numpy"

    def providers(self) -> tuple[str, ...]:
        """Return ``numpy``."""
        return ("numpy",)

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open a ``model.json`` and the weights beside it; what cannot be as it was asked for is refused."""
        if spec.precision != "fp32" or spec.threads != 1:
            asked = f"{spec.precision} on {spec.threads} threads"
            raise Failure("fallback", f"{asked} was asked for, numpy_reference runs fp32 on one thread")
        return NumpyModel(path)


RUNTIME = NumpyReference()

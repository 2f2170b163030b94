"""OpenVINO on its CPU device (other devices by the option ``device``); opens IR and ONNX files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor, example_inputs

HINTS = {"fp32": "f32", "int8": "f32", "fp16": "f16", "bf16": "bf16"}
"""Floating-point precision asked for; OpenVINO picks bf16 by itself where the processor has it."""

COMPUTE = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Deconvolution")
_INTEGER = ("i8", "u8")
_DECOMPOSED = "/WithoutBiases"


def _import() -> Any:
    # openvino imports its telemetry package and falls back on a stub when there is none: nothing is ever sent
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _failure(error: Exception) -> Failure:
    """Sort what OpenVINO said into a kind."""
    text = f"{type(error).__name__}: {error}".strip().replace("\n", " ")[:2000]
    if re.search(r"No conversion rule|OpConversionFailure|not supported|Unsupported op|opset", text):
        return Failure("unsupported_op", text)
    if re.search(r"bad_alloc|[Ff]ailed to allocate|out of memory", text):
        return Failure("out_of_memory", text)
    return Failure("load_failed", text)


def _dtype(port: Any) -> str:
    return str(np.dtype(port.get_element_type().to_dtype()).name)


def _port_name(port: Any) -> str:
    names = port.get_names()
    return sorted(names)[0] if names else str(port.get_node().get_friendly_name())


def _tensors(ports: Any) -> Tuple[Tensor, ...]:
    tensors = []
    for port in ports:
        shape = port.get_partial_shape()
        if shape.is_dynamic:
            raise Failure(
                "load_failed", f"tensor {_port_name(port)} has the open shape {shape}; export it with fixed sizes"
            )
        tensors.append(Tensor(_port_name(port), tuple(int(size) for size in shape.to_shape()), _dtype(port)))
    return tuple(tensors)


def _fix_batch(model: Any, batch: int) -> None:
    """Give an open first dimension the size that was asked for."""
    shapes = {}
    for port in model.inputs:
        shape = port.get_partial_shape()
        if shape.rank.is_static and len(shape) and shape[0].is_dynamic:
            shape[0] = batch
            shapes[port] = shape
    if shapes:
        model.reshape(shapes)


def _info(node: Any, key: str) -> str:
    """Return one entry of an execution graph's node; empty if it has none."""
    values = node.get_rt_info()
    if key not in values:
        return ""
    value = values[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)


_COLD_RUNS = 3
_PARTS = 3
_TICK_MS = 1e-3


class OpenVinoModel(Model):
    """A compiled model and one inference request."""

    def __init__(self, path: Path, spec: LoadSpec) -> None:
        openvino = _import()
        self.device = str(spec.options.get("device", "CPU"))
        self._core = openvino.Core()
        self._spec = spec
        self._refuse_missing_device()
        try:
            self._source = self._core.read_model(str(path))
            _fix_batch(self._source, spec.batch)
            self._compiled = self._compile(profiled=False)
            self._request = self._compiled.create_infer_request()
        except Exception as error:
            raise _failure(error) from error
        self.inputs = _tensors(self._compiled.inputs)
        self.outputs = _tensors(self._compiled.outputs)
        self.provider = f"OpenVINO {self.device}"
        self.precision = spec.precision
        self._bound = False

    def verify(self) -> None:
        """Ask the compiled model on which device and in which precision it really runs."""
        self._check_device_and_hint()
        self.precision = self._real_precision()

    def _refuse_missing_device(self) -> None:
        devices = self._core.available_devices
        if self.device not in devices:
            raise Failure("fallback", f"device {self.device} was asked for; OpenVINO has {', '.join(devices)} here")
        able = self._core.get_property(self.device, "OPTIMIZATION_CAPABILITIES")
        wanted = self._spec.precision.upper()
        if wanted not in able:
            raise Failure("fallback", f"{wanted} was asked for; {self.device} of OpenVINO can do {', '.join(able)}")

    def _compile(self, profiled: bool) -> Any:
        settings: Dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[self._spec.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": profiled,
        }
        if self.device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = self._spec.threads
            settings["NUM_STREAMS"] = 1
            settings["ENABLE_CPU_PINNING"] = True  # without it OpenVINO undoes any pinning at every inference
        return self._core.compile_model(self._source, self.device, settings)

    def _check_device_and_hint(self) -> None:
        runs_on = list(self._compiled.get_property("EXECUTION_DEVICES"))
        if runs_on != [self.device]:
            raise Failure("fallback", f"device {self.device} was asked for, OpenVINO runs on {', '.join(runs_on)}")
        if self.device == "CPU":
            threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
            if threads != self._spec.threads:
                raise Failure("fallback", f"{self._spec.threads} threads were asked for, OpenVINO uses {threads}")
        hint = np.dtype(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_dtype()).name
        wanted = {"f32": "float32", "f16": "float16"}.get(HINTS[self._spec.precision])
        if wanted is not None and hint != wanted:
            raise Failure("fallback", f"{wanted} was asked for, OpenVINO computes in {hint}")

    def _real_precision(self) -> str:
        """Ask the execution graph in which precision its compute layers run.

        Raises:
            Failure: ``fallback``, when it is not the one asked for.
        """
        layers = self._compiled.get_runtime_model().get_ordered_ops()
        found = [_info(node, "runtimePrecision") for node in layers if _info(node, "layerType") in COMPUTE]
        integer = sum(kind in _INTEGER for kind in found)
        wanted = self._spec.precision
        if wanted == "int8":
            if not integer:
                raise Failure(
                    "fallback", f"int8 was asked for, but none of {len(found)} compute layers runs in i8 or u8"
                )
            self.notes = (f"{integer} of {len(found)} compute layers run in i8 or u8",)
            return "int8"
        others = sorted({kind for kind in found if kind != HINTS[wanted]})
        strict = wanted == "fp32"
        if found and (integer or (others and strict) or len(others) == len(set(found))):
            raise Failure("fallback", f"{wanted} was asked for, but compute layers run in {', '.join(others)}")
        return wanted

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs."""
        self._bound = False
        results = self._request.infer(dict(inputs))
        return {tensor.name: np.array(results[index]) for index, tensor in enumerate(self.outputs)}

    def prepare(self) -> None:
        """Copy the example inputs into the request's own tensors once."""
        if self._bound:
            return
        for tensor, port in zip(self.inputs, self._compiled.inputs):
            self._request.get_tensor(port).data[...] = example_inputs(self.inputs)[tensor.name]
        self._bound = True

    def step(self) -> object:
        """Run once on the bound tensors."""
        return self._request.infer(share_outputs=True, decode_strings=False)

    def _tensor_names(self) -> Dict[str, Set[str]]:
        """Return, per friendly name of the model that was read, the tensor names it produces."""
        names = {}
        for node in self._source.get_ordered_ops():
            if node.get_type_name() not in ("Constant", "Result", "Parameter"):
                names[node.get_friendly_name()] = {name for port in node.outputs() for name in port.get_names()}
        return names

    def kernels(self, runs: int) -> List[Kernel]:
        """Compile once more with counters on; layers that did not run are left out."""
        compiled = self._compile(profiled=True)
        request = compiled.create_infer_request()
        feed = example_inputs(self.inputs)
        means: Dict[str, List[float]] = {}
        for _ in range(_COLD_RUNS + runs):
            request.infer(feed)
            for entry in request.profiling_info:
                if str(entry.status).endswith("EXECUTED"):
                    means.setdefault(entry.node_name, []).append(entry.real_time.total_seconds() * 1e3)
        times = {name: warm_time(values) for name, values in means.items()}
        tensors = self._tensor_names()
        kernels = []
        for node in compiled.get_runtime_model().get_ordered_ops():
            name = node.get_friendly_name()
            if name in times:
                fused = tuple(part for part in _info(node, "originalLayersNames").split(",") if part)
                outputs = _outputs_of(fused, tensors)
                kernels.append(Kernel(name, _info(node, "layerType"), times[name], outputs, fused))
        return kernels


def warm_time(means: Sequence[float]) -> float:
    """Return what one warm run of a layer takes, milliseconds, from OpenVINO's counter after each run.

    The counter is the mean of all runs since compilation, in whole microseconds: the first, cold runs stay in it. They
    are taken off; so is a part of the warm runs that was disturbed, if it stands out by more than the rounding.

    Args:
        means: The counter after the first run, the second, ...
    """
    last = len(means)
    if last <= _COLD_RUNS:
        return means[-1]

    def between(start: int, end: int) -> Tuple[float, float]:
        total = end * means[end - 1] - (start * means[start - 1] if start else 0.0)
        return total / (end - start), 0.5 * _TICK_MS * (start + end) / (end - start)

    whole, _ = between(_COLD_RUNS, last)
    ends = [_COLD_RUNS + (last - _COLD_RUNS) * part // _PARTS for part in range(_PARTS + 1)]
    parts = [between(ends[part], ends[part + 1]) for part in range(_PARTS) if ends[part + 1] > ends[part]]
    middle, rounding = sorted(parts)[len(parts) // 2]
    return max(whole if whole <= middle + rounding else middle, 0.0)


def _outputs_of(fused: Tuple[str, ...], tensors: Dict[str, Set[str]]) -> Tuple[str, ...]:
    """Return the graph tensors of the fused layers, the last one computed first."""
    found: List[str] = []
    for name in reversed(fused):
        whole = name[: -len(_DECOMPOSED)] if name.endswith(_DECOMPOSED) else name
        for tensor in sorted(tensors.get(whole, ())):
            if tensor not in found:
                found.append(tensor)
    return tuple(found)


class OpenVino(Runtime):
    """OpenVINO."""

    name = "openvino"
    module = "openvino"
    packages = ("openvino",)
    install = "pip install openvino"
    pins_itself = True

    def providers(self) -> Tuple[str, ...]:
        """Return OpenVINO's devices here."""
        return tuple(_import().Core().available_devices)

    def start(self) -> None:
        """Load the CPU plug-in, which counts the cores of this process once and for all."""
        core = _import().Core()
        if "CPU" in core.available_devices:
            core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open an IR (``.xml`` beside its ``.bin``) or an ONNX file."""
        return OpenVinoModel(path, spec)


RUNTIME = OpenVino()

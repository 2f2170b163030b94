"""ONNX Runtime on its CPU provider (other providers by the option ``provider``)."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from hwnas_profilers.onnx_graph import BFLOAT16, FLOAT16, OnnxGraph, read_graph
from hwnas_profilers.ort_kernels import join, read_profile
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor, example_inputs

CPU = "CPUExecutionProvider"
QUANTISED_OPS = frozenset(
    "QLinearConv ConvInteger QLinearMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QGemm".split()
)
FLOAT_OPS = frozenset("Conv FusedConv NhwcFusedConv Gemm FusedGemm MatMul FusedMatMul ConvTranspose".split())
_QUANTISED_FILE = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def file_precision(graph: OnnxGraph) -> str:
    """Return the precision a file is written in: ``int8`` with quantisation nodes, else that of its weights."""
    if any(op in _QUANTISED_FILE or op in QUANTISED_OPS for op in graph.ops):
        return "int8"
    kinds = set(graph.initializers.values())
    if FLOAT16 in kinds:
        return "fp16"
    return "bf16" if BFLOAT16 in kinds else "fp32"


def _options(spec: LoadSpec) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return options


def _failure(error: Exception) -> Failure:
    """Sort what ONNX Runtime said into a kind."""
    text = f"{type(error).__name__}: {error}".strip().replace("\n", " ")[:2000]
    if re.search(r"NOT_IMPLEMENTED|NotImplemented|is not a registered function/op|No Op registered", text):
        return Failure("unsupported_op", text)
    if re.search(r"bad_alloc|[Ff]ailed to allocate|out of memory", text):
        return Failure("out_of_memory", text)
    return Failure("load_failed", text)


def _open(path: Path, options: Any, provider: str) -> Any:
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise Failure(
            "fallback",
            f"provider {provider} was asked for; this ONNX Runtime has {', '.join(ort.get_available_providers())}",
        )
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:
        raise _failure(error) from error
    if session.get_providers()[0] != provider:
        raise Failure("fallback", f"provider {provider} was asked for, it runs on {', '.join(session.get_providers())}")
    return session


def _tensors(described: Any, batch: int) -> Tuple[Tensor, ...]:
    tensors = []
    for entry in described:
        if entry.type not in _DTYPES:
            raise Failure("unsupported_op", f"tensor {entry.name} has type {entry.type}, which cannot be fed")
        shape = list(entry.shape)
        if shape and not isinstance(shape[0], int):
            shape[0] = batch
        if any(not isinstance(size, int) for size in shape):
            raise Failure(
                "load_failed", f"tensor {entry.name} has the open shape {entry.shape}; export it with fixed sizes"
            )
        tensors.append(Tensor(entry.name, tuple(shape), _DTYPES[entry.type]))
    return tuple(tensors)


class OnnxRuntimeModel(Model):
    """An inference session with its inputs bound."""

    def __init__(self, path: Path, spec: LoadSpec) -> None:
        self.provider = str(spec.options.get("provider", CPU))
        self.device = "CPU" if self.provider == CPU else self.provider.replace("ExecutionProvider", "")
        self._path = path
        self._spec = spec
        self._given = read_graph(path)
        self._binding: Any = None
        self._refuse_other_precision()
        self._session = _open(path, _options(spec), self.provider)
        self.precision = spec.precision
        self.inputs = _tensors(self._session.get_inputs(), spec.batch)
        self.outputs = _tensors(self._session.get_outputs(), spec.batch)
        self._step = self._session.run_with_iobinding

    def _refuse_other_precision(self) -> None:
        precision = self._spec.precision
        if self.provider == CPU and precision not in ("fp32", "int8"):
            raise Failure("fallback", f"{CPU} computes {precision} in fp32; ask for fp32 or int8")
        written = file_precision(self._given)
        if written != precision:
            raise Failure("fallback", f"{precision} was asked for, but {self._path.name} is a {written} file")

    def verify(self) -> None:
        """Check, in the graph that ONNX Runtime really runs, that quantised kernels are there for int8.

        Raises:
            Failure: ``fallback``, when all of them compute in floating point.
        """
        if self._spec.precision != "int8":
            return
        with tempfile.TemporaryDirectory(prefix="hwnas-ort-") as folder:
            ops = self._optimised_graph(Path(folder), profile=None).ops
        quantised = sum(op in QUANTISED_OPS for op in ops)
        floating = sum(op in FLOAT_OPS for op in ops)
        if not quantised:
            raise Failure("fallback", f"int8 was asked for, but none of {floating} compute kernels runs quantised")
        self.notes = (f"{quantised} of {quantised + floating} compute kernels run quantised",)

    def _optimised_graph(self, folder: Path, profile: Optional[int]) -> OnnxGraph:
        """Open a second session that writes its graph; with ``profile`` it also writes a profile of that many runs."""
        options = _options(self._spec)
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        options.log_severity_level = 4  # a warning that this file belongs to this machine is no news
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
        session = _open(self._path, options, self.provider)
        if profile is not None:
            feed = example_inputs(self.inputs)
            for _ in range(profile):
                session.run(None, feed)
            session.end_profiling()
        return read_graph(folder / "optimised.onnx")

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs."""
        names = [tensor.name for tensor in self.outputs]
        return dict(zip(names, self._session.run(names, inputs)))

    def prepare(self) -> None:
        """Bind inputs and outputs once."""
        if self._binding is not None:
            return
        self._binding = self._session.io_binding()
        self._arrays = example_inputs(self.inputs)
        for name, array in self._arrays.items():
            self._binding.bind_cpu_input(name, array)
        for tensor in self.outputs:
            self._binding.bind_output(tensor.name)

    def step(self) -> object:
        """Run once on the bound arrays."""
        return self._step(self._binding)

    def kernels(self, runs: int) -> List[Kernel]:
        """Profile a second session, so that the one that is timed stays without a profiler."""
        with tempfile.TemporaryDirectory(prefix="hwnas-ort-") as folder:
            optimised = self._optimised_graph(Path(folder), profile=runs)
            profiles = sorted(Path(folder).glob("profile*.json"))
            return join(read_profile(profiles[0]), optimised, self._given)


class OnnxRuntime(Runtime):
    """ONNX Runtime, whichever of its packages is installed."""

    name = "onnxruntime"
    module = "onnxruntime"
    packages = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
    install = "pip install onnxruntime"

    def providers(self) -> Tuple[str, ...]:
        """Return the execution providers of the installed package."""
        import onnxruntime as ort

        return tuple(ort.get_available_providers())

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open an ONNX file."""
        return OnnxRuntimeModel(path, spec)


RUNTIME = OnnxRuntime()

"""An engine that runs: its tensors in GPU memory, one run recorded as a CUDA graph, timed by the GPU's own events.

Written to the documented interface of TensorRT 10 and 11 and TensorRT-RTX 1.7; it has not run on a GPU yet.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from hwnas_profilers.counting import CLOCK, COUNTS
from hwnas_profilers.cuda import CudaError, Gpu, Stream
from hwnas_profilers.onnx_graph import OnnxGraph
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, Model, Tensor, example_inputs
from hwnas_profilers.runtimes.onnxruntime import FLOAT_OPS
from hwnas_profilers.tensorrt_build import explain, make_logger
from hwnas_profilers.tensorrt_layers import computing_precisions, join, read_layers
from hwnas_profilers.timing import BurstResult, BurstSpec, burst

PROVIDER = "CUDA"
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_LOOKED_AT = BurstSpec(target_ms=20.0, min_runs=10, max_runs=50, discard=3)


def _make_profiler(trt: Any) -> Any:
    """Return a profiler that adds up the milliseconds of each layer in ``run``."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.run: Dict[str, float] = {}

        def report_layer_time(self, name: str, ms: float) -> None:
            self.run[name] = self.run.get(name, 0.0) + ms

    return Profiler()


class TensorRtModel(Model):
    """An engine with an execution context, its tensors in GPU memory and one run recorded as a CUDA graph."""

    provider = PROVIDER

    def __init__(self, trt: Any, gpu: Gpu, engine: bytes, graph: OnnxGraph, precision: str, note: str) -> None:
        self._trt, self._gpu, self._graph = trt, gpu, graph
        self._memory: Dict[str, int] = {}
        self._launch: Optional[Callable[[], object]] = None
        self._stream: Optional[Stream] = None
        self.precision = precision
        self.device = f"{gpu.name} ({gpu.capability})"
        self.notes = (note,)
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        self._context = self._new_context() if self._engine is not None else None
        if self._context is None:
            error = explain(self._logger.errors, "the engine cannot be opened")
            raise Failure(error.kind, error.detail)
        self._stream = Stream(gpu)
        self.inputs = self._tensors(trt.TensorIOMode.INPUT)
        self.outputs = self._tensors(trt.TensorIOMode.OUTPUT)
        for tensor in (*self.inputs, *self.outputs):
            size = int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
            self._memory[tensor.name] = gpu.allocate(size)
        self._bind(self._context)

    @property
    def stream(self) -> Stream:
        """The stream all work goes through.

        Raises:
            Failure: ``crashed``, after :meth:`close`.
        """
        if self._stream is None:
            raise Failure("crashed", "the engine is closed")
        return self._stream

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is not None:
            context.nvtx_verbosity = self._trt.ProfilingVerbosity.NONE  # names for a tracer cost time on the host
        return context

    def _tensors(self, mode: Any) -> Tuple[Tensor, ...]:
        found = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if self._engine.get_tensor_mode(name) != mode:
                continue
            kind = self._engine.get_tensor_dtype(name).name
            shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))
            if kind not in _DTYPES or min(shape, default=1) < 0:
                raise Failure("unsupported_op", f"tensor {name} of type {kind} and shape {shape} cannot be fed")
            found.append(Tensor(name, shape, _DTYPES[kind]))
        return tuple(found)

    def _bind(self, context: Any) -> None:
        for name, address in self._memory.items():
            context.set_tensor_address(name, address)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self.stream.handle):
            error = explain(self._logger.errors[-3:], "the engine does not run")
            raise Failure("crashed" if error.kind == "load_failed" else error.kind, error.detail)

    def _run(self, context: Any) -> None:
        self._enqueue(context)
        self.stream.synchronise()

    def _feed(self, inputs: Dict[str, np.ndarray]) -> None:
        for tensor in self.inputs:
            value = np.ascontiguousarray(inputs[tensor.name], dtype=tensor.dtype)
            self._gpu.write(self._memory[tensor.name], value)

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs."""
        self._feed(inputs)
        self._run(self._context)
        found = {tensor.name: np.empty(tensor.shape, dtype=tensor.dtype) for tensor in self.outputs}
        for name, array in found.items():
            self._gpu.read(self._memory[name], array)
        return found

    def prepare(self) -> None:
        """Put the example inputs on the GPU; record a run as a graph once, where it can be."""
        self._feed(example_inputs(self.inputs))
        if self._launch is not None:
            return
        for _ in range(2):  # what is compiled or set up on first use cannot be recorded
            self._run(self._context)
        try:
            self._launch = self.stream.capture(lambda: self._enqueue(self._context))
            self.notes = (*self.notes, "device time, by events around replays of one CUDA graph")
        except CudaError as error:
            self._launch = lambda: self._enqueue(self._context)
            self.notes = (*self.notes, f"device time, by events around launches: {error}")

    def step(self) -> object:
        """Run once and wait; returns the milliseconds the GPU took."""
        assert self._launch is not None
        return self.stream.elapsed_ms(self._launch)

    def burst(self, spec: BurstSpec) -> BurstResult:
        """Time one burst on the GPU's clock: from the event before a run to the event behind it."""
        return self._bursts(spec)[0]

    def _bursts(self, spec: BurstSpec) -> Tuple[BurstResult, np.ndarray]:
        """Return the burst in device time, and what the host's clock saw of the same runs."""
        if COUNTS:
            raise Failure("unsupported_op", f"a GPU's work is not measured in {CLOCK.unit}")
        device_ms: List[Any] = []
        seen = burst(lambda: device_ms.append(self.step()), spec)
        samples = np.asarray(device_ms[-len(seen.samples) :], dtype=np.float64)
        return dataclasses.replace(seen, samples=samples), seen.samples

    def verify(self) -> None:
        """Check in which precision the engine's layers run, and note clocks, device and host time.

        Raises:
            Failure: ``fallback``, when layers tell their precision and none runs in the one that was asked for.
        """
        computing = [node.name for node in self._graph.nodes if node.op in FLOAT_OPS]
        counts = computing_precisions(read_layers(self._inspect(self._context)), computing)
        total = sum(counts.values())
        if total and not counts.get(self.precision):
            raise Failure("fallback", f"{self.precision} was asked for, the engine's layers run in {', '.join(counts)}")
        told = f"{counts.get(self.precision, 0)} of {total} layers that tell it run in {self.precision}"
        self.notes = (*self.notes, told if total else "no layer tells in which precision it runs")
        self.prepare()
        device, host = self._bursts(_LOOKED_AT)
        times = (
            f"device {statistics.median(device.samples):.3f} ms, host {statistics.median(host):.3f} ms after loading"
        )
        self.notes = (
            *self.notes,
            times,
            f"clock {self._gpu.clocks() or 'not known'}, driver for CUDA {self._gpu.driver}",
        )

    def _inspect(self, context: Any) -> str:
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def kernels(self, runs: int) -> List[Kernel]:
        """Profile a second context, so that the one that is timed stays without a profiler."""
        context, profiler, found = self._new_context(), _make_profiler(self._trt), []
        self._bind(context)
        self._feed(example_inputs(self.inputs))
        self._run(context)
        context.profiler = profiler
        for _ in range(runs):
            profiler.run = {}
            self._run(context)
            found.append(profiler.run)
        if not any(found):
            raise Failure("unsupported_op", "the engine reports no kernel times")
        tensors = {name for node in self._graph.nodes for name in node.outputs}
        return join(found, read_layers(self._inspect(context)), tensors)

    def close(self) -> None:
        """Free the GPU's memory before the engine goes; a second time does nothing."""
        stream, self._stream, self._launch = self._stream, None, None
        if stream is not None:
            stream.close()
        while self._memory:
            self._gpu.free(self._memory.popitem()[1])
        self._context = self._engine = self._runtime = None

    def __del__(self) -> None:
        self.close()

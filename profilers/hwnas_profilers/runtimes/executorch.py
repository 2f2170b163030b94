"""ExecuTorch on the CPU: XNNPACK for what was lowered to it, portable kernels for the rest."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from hwnas_profilers.executorch_kernels import Event, check_precision, medians, read_layers, read_runs
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor, example_inputs

LAYERS = "layers.json"
METHOD = "forward"
XNNPACK = "XNNPACK"
PORTABLE = "ExecuTorch portable kernels"
_DTYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64"}
_COLD_RUNS = 3


class ThreadPool:
    """ExecuTorch's one pool of threads, that of the whole process.

    XNNPACK keeps a pointer to the pool it was opened with. So every model is closed before another pool is made, and
    opened again when it is used next.
    """

    def __init__(self) -> None:
        self._open: "weakref.WeakSet[ExecuTorchModel]" = weakref.WeakSet()

    def settle(self, model: "ExecuTorchModel", threads: int) -> None:
        """Give the pool as many threads as a model is to have, and remember that the model uses it.

        Raises:
            Failure: ``fallback``, when the pool cannot have so many.
        """
        from executorch.extension.pybindings import portable_lib

        if portable_lib._threadpool_get_thread_count() != threads:
            for other in list(self._open):
                other.release()
            self._open.clear()
            portable_lib._unsafe_reset_threadpool(threads)
        found = portable_lib._threadpool_get_thread_count()
        if found != threads:
            raise Failure("fallback", f"{threads} threads were asked for, ExecuTorch uses {found}")
        self._open.add(model)


POOL = ThreadPool()


def refuse_other_files(path: Path) -> None:
    """Refuse what does not begin as a program does; ExecuTorch ends the whole process on some of those.

    Raises:
        Failure: ``load_failed``.
    """
    with path.open("rb") as stream:
        if stream.read(6)[4:] != b"ET":
            raise Failure("load_failed", f"{path.name} is not an ExecuTorch program (.pte)")


def _tensors(kind: str, count: int, described: Any) -> Tuple[Tensor, ...]:
    """Return the inputs or outputs of a method; a program does not name them."""
    tensors = []
    for index in range(count):
        entry = described(index)
        if entry.dtype() not in _DTYPES:
            raise Failure(
                "unsupported_op", f"{kind} {index} has ExecuTorch's type {entry.dtype()}, which cannot be fed"
            )
        name = kind if count == 1 else f"{kind}_{index}"
        tensors.append(Tensor(name, tuple(int(size) for size in entry.sizes()), _DTYPES[entry.dtype()]))
    return tuple(tensors)


class ExecuTorchModel(Model):
    """The method ``forward`` of a program. A run copies its inputs in and its outputs out, as an application's does."""

    device = "CPU"
    precision = ""

    def __init__(self, path: Path, spec: LoadSpec) -> None:
        import torch

        self._from_numpy = torch.from_numpy
        self._path = path
        self._spec = spec
        self._method: Optional[Any] = None
        refuse_other_files(path)
        self._layers = read_layers(path.with_name(LAYERS))
        metadata = self._ready().metadata
        self.inputs = _tensors("input", metadata.num_inputs(), metadata.input_tensor_meta)
        self.outputs = _tensors("output", metadata.num_outputs(), metadata.output_tensor_meta)
        self._arguments = self._to_arguments(example_inputs(self.inputs))

    def _program(self, traced: bool) -> Any:
        from executorch.runtime import Runtime as Engine

        try:
            program = Engine.get().load_program(self._path, enable_etdump=traced)
            if METHOD not in program.method_names:
                raise Failure("load_failed", f"{self._path.name} has no method {METHOD!r}")
            program.load_method(METHOD)
        except (RuntimeError, ValueError) as error:
            raise Failure("load_failed", f"{self._path.name}: {str(error)[:2000]}") from error
        return program

    def _ready(self) -> Any:
        """Return the method, opened again if another number of threads has closed it."""
        POOL.settle(self, self._spec.threads)
        if self._method is None:
            self._method = self._program(traced=False).load_method(METHOD)
        return self._method

    def release(self) -> None:
        """Close the method until it is used again."""
        self._method = None

    def _to_arguments(self, arrays: Dict[str, np.ndarray]) -> List[Any]:
        return [self._from_numpy(np.ascontiguousarray(arrays[tensor.name])) for tensor in self.inputs]

    def _trace(self, runs: int) -> List[List[Event]]:
        """Run a second copy of the program with the event tracer on."""
        POOL.settle(self, self._spec.threads)
        program = self._program(traced=True)
        method = program.load_method(METHOD)
        for _ in range(runs):
            method.execute(self._arguments)
        with tempfile.TemporaryDirectory(prefix="hwnas-executorch-") as name:
            path = Path(name) / "trace.etdp"
            try:
                program.write_etdump_result_to_file(str(path), str(path.with_suffix(".bin")))
                found = read_runs(path.read_bytes())
            except (RuntimeError, OSError) as error:
                raise Failure(
                    "fallback",
                    f"this build of ExecuTorch has no event tracer, so what it runs on cannot be checked: {error}",
                ) from error
        return found

    def verify(self) -> None:
        """Run once with the event tracer on, and ask what ran in which precision."""
        runs = self._trace(1)
        events = runs[-1] if runs else []
        self.notes = check_precision(events, self._spec.precision, self._path.name)
        self.provider = PORTABLE if all(event.portable for event in events) else XNNPACK
        wanted = str(self._spec.options.get("provider", self.provider))
        if wanted != self.provider:
            raise Failure("fallback", f"provider {wanted} was asked for, {self._path.name} runs on {self.provider}")
        self.precision = self._spec.precision

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs."""
        found = self._ready().execute(self._to_arguments(inputs))
        return {tensor.name: value.numpy() for tensor, value in zip(self.outputs, found)}

    def prepare(self) -> None:
        """Make sure that the method is open and the pool has the right number of threads."""
        self._ready()

    def step(self) -> object:
        """Run once."""
        assert self._method is not None
        return self._method.execute(self._arguments)

    def kernels(self, runs: int) -> List[Kernel]:
        """Run with the event tracer on; XNNPACK's kernels are timed in whole microseconds."""
        return medians(self._trace(_COLD_RUNS + runs), self._layers, _COLD_RUNS)

    def close(self) -> None:
        """Close the method."""
        self.release()


class ExecuTorch(Runtime):
    """ExecuTorch's Python runtime, which holds XNNPACK."""

    name = "executorch"
    module = "executorch"
    packages = ("executorch",)
    install = "pip install executorch"

    def providers(self) -> Tuple[str, ...]:
        """Return what the installed package runs on."""
        from executorch.runtime import Runtime as Engine

        found = Engine.get().backend_registry.is_available("XnnpackBackend")
        return (XNNPACK, PORTABLE) if found else (PORTABLE,)

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open a ``.pte`` file."""
        return ExecuTorchModel(path, spec)


RUNTIME = ExecuTorch()

"""ncnn on the CPU, one image at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from hwnas_profilers.ncnn_files import read_tensors, stored_precision
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, example_inputs


def refuse_limit(threads: int) -> None:
    """Refuse more threads than the environment lets OpenMP start, which would silently start fewer.

    Raises:
        Failure: ``fallback``.
    """
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    if limit.isdigit() and int(limit) < threads:
        raise Failure("fallback", f"{threads} threads were asked for, OMP_THREAD_LIMIT={limit} allows {limit}")


class NcnnModel(Model):
    """A network of ncnn. Half precision is used only where it was asked for; ncnn's own default is to use it always."""

    provider = "ncnn CPU"
    device = "CPU"

    def __init__(self, path: Path, spec: LoadSpec) -> None:
        import ncnn

        self._ncnn = ncnn
        if spec.batch != 1:
            raise Failure("load_failed", f"batch {spec.batch} was asked for; ncnn runs one image at a time")
        self.inputs, self.outputs = read_tensors(path.with_suffix(".json"))
        self._settle(path, spec.precision)
        self._net = ncnn.Net()
        self._set_options(spec)
        # ncnn says on standard error what is wrong with a file
        if self._net.load_param(str(path)) or self._net.load_model(str(path.with_suffix(".bin"))):
            raise Failure("load_failed", f"ncnn cannot read {path.name} or {path.with_suffix('.bin').name}")
        self._check_names(path)
        self._bound: List[Tuple[str, Any, np.ndarray]] = []

    def _settle(self, path: Path, wanted: str) -> None:
        """Refuse a file whose weights are stored in another precision than the one asked for."""
        if wanted not in ("fp32", "fp16"):
            raise Failure("fallback", f"{wanted} was asked for; hwnas runs ncnn in fp32 and fp16")
        stored = stored_precision(path, path.with_suffix(".bin"))
        if stored != wanted:
            raise Failure("fallback", f"{wanted} was asked for, the weights of {path.name} are stored in {stored}")
        self.precision = wanted

    def _set_options(self, spec: LoadSpec) -> None:
        half = spec.precision == "fp16"
        arithmetic = half and bool(self._ncnn.cpu_support_arm_asimdhp())
        refuse_limit(spec.threads)
        self._ncnn.set_omp_dynamic(0)  # else OpenMP may start fewer threads on a busy machine
        options = self._net.opt
        options.num_threads = spec.threads
        options.use_vulkan_compute = False
        options.use_bf16_packed = options.use_bf16_storage = False
        options.use_fp16_packed = options.use_fp16_storage = half
        options.use_fp16_arithmetic = arithmetic
        self.notes = (
            f"weights are stored in {spec.precision}",
            f"ncnn computes in {'fp16' if arithmetic else 'fp32'} (use_fp16_packed and use_fp16_storage "
            f"{'on' if half else 'off'}, use_fp16_arithmetic {'on' if arithmetic else 'off'})",
        )

    def _check_names(self, path: Path) -> None:
        """Refuse a description that belongs to another network."""
        for kind, tensors, names in (
            ("inputs", self.inputs, list(self._net.input_names())),
            ("outputs", self.outputs, list(self._net.output_names())),
        ):
            described = [tensor.name for tensor in tensors]
            if described != names:
                raise Failure("load_failed", f"{path.name} has the {kind} {names}, its model.json says {described}")

    def _mats(self, arrays: Dict[str, np.ndarray]) -> List[Tuple[str, Any, np.ndarray]]:
        """Return ncnn's view of every input, together with the array it looks into."""
        found = []
        for tensor in self.inputs:
            array = np.ascontiguousarray(arrays[tensor.name][0], dtype=np.float32)
            found.append((tensor.name, self._ncnn.Mat(array), array))
        return found

    def _infer(self, mats: List[Tuple[str, Any, np.ndarray]]) -> List[Any]:
        extractor = self._net.create_extractor()
        for name, mat, _ in mats:
            extractor.input(name, mat)
        found = []
        for tensor in self.outputs:
            status, mat = extractor.extract(tensor.name)
            if status:
                raise Failure("crashed", f"ncnn could not compute {tensor.name} (status {status})")
            found.append(mat)
        return found

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs.

        Raises:
            Failure: ``wrong_output``, when one has another shape than was described.
        """
        outputs = {}
        for tensor, mat in zip(self.outputs, self._infer(self._mats(inputs))):
            values = np.array(mat, dtype=np.float32)
            if values.shape != tensor.shape[1:]:
                raise Failure(
                    "wrong_output", f"output {tensor.name} has the shape {(1, *values.shape)}, not {tensor.shape}"
                )
            outputs[tensor.name] = values[None]
        return outputs

    def prepare(self) -> None:
        """Make the example inputs once."""
        if not self._bound:
            self._bound = self._mats(example_inputs(self.inputs))

    def step(self) -> object:
        """Run once."""
        return self._infer(self._bound)

    def kernels(self, runs: int) -> List[Kernel]:
        """Refuse: only builds of ncnn for debugging time their layers.

        Raises:
            Failure: ``unsupported_op``.
        """
        raise Failure("unsupported_op", "ncnn tells no kernel times through its Python interface")


class Ncnn(Runtime):
    """ncnn."""

    name = "ncnn"
    module = "ncnn"
    packages = ("ncnn",)
    install = "pip install ncnn"

    def providers(self) -> Tuple[str, ...]:
        """Return what the installed package runs on, as far as hwnas uses it."""
        import ncnn

        return (NcnnModel.provider,) if ncnn.get_cpu_count() else ()

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open a ``.param`` file with the ``.bin`` and the ``.json`` beside it."""
        return NcnnModel(path, spec)


RUNTIME = Ncnn()

"""Runs model.param and model.bin in ncnn on the CPU; infer.py loads this file. Needs numpy and the runtime."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INSTALL = "pip install ncnn"


class Model:
    """A network in ncnn, one image at a time; half precision only where the manifest says so."""

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any], threads: int) -> None:
        import ncnn

        self.ncnn = ncnn
        self.version = str(getattr(ncnn, "__version__", ""))
        self.outputs = [entry["name"] for entry in manifest["outputs"]]
        half = manifest["runtime"]["precision"] == "fp16"
        ncnn.set_omp_dynamic(0)
        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        options.use_bf16_packed = options.use_bf16_storage = False
        options.use_fp16_packed = options.use_fp16_storage = half
        options.use_fp16_arithmetic = half and bool(ncnn.cpu_support_arm_asimdhp())
        if self.net.load_param(str(path)) or self.net.load_model(str(path.with_suffix(".bin"))):
            raise ValueError(f"ncnn cannot read {path.name}")

    def infer(self, mats: dict[str, Any]) -> list[Any]:
        """Run once on views of the inputs."""
        extractor = self.net.create_extractor()
        for name, mat in mats.items():
            extractor.input(name, mat)
        return [extractor.extract(name)[1] for name in self.outputs]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        arrays = {name: np.ascontiguousarray(value[0], dtype=np.float32) for name, value in inputs.items()}
        found = self.infer({name: self.ncnn.Mat(array) for name, array in arrays.items()})
        return {name: np.array(mat, dtype=np.float32)[None] for name, mat in zip(self.outputs, found)}  # noqa: B905

    def bind(self, inputs: dict[str, Array]) -> Callable[[], Any]:
        """Return a function that runs once on ``inputs``, with nothing else in it: what is timed."""
        arrays = {name: np.ascontiguousarray(value[0], dtype=np.float32) for name, value in inputs.items()}
        mats = {name: (self.ncnn.Mat(array), array) for name, array in arrays.items()}
        views = {name: mat for name, (mat, _) in mats.items()}
        return lambda: (self.infer(views), mats)

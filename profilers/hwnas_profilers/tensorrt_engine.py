"""TensorRT and TensorRT-RTX as runtimes: an engine is built from ``model.onnx`` for the GPU that is there, or was before.

Both are one here: their package is imported by name and given as ``trt``. What is built is kept
(:mod:`hwnas_profilers.engine_cache`); an engine that comes as a file is never opened. Building has been run without a GPU, for
named compute capabilities; nothing here has run on a GPU yet.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from hwnas_profilers import affinity
from hwnas_profilers.cuda import Driver, Gpu, gpu_hardware
from hwnas_profilers.engine_cache import EngineCache
from hwnas_profilers.onnx_graph import OnnxGraph, read_graph
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import LoadSpec, Model, Runtime
from hwnas_profilers.runtimes.onnxruntime import file_precision
from hwnas_profilers.tensorrt_build import BuildError, Built, build, capabilities
from hwnas_profilers.tensorrt_model import PROVIDER, TensorRtModel


def read_file(path: Path, spec: LoadSpec) -> OnnxGraph:
    """Return the graph of a model file.

    Raises:
        Failure: ``load_failed`` for anything but an ONNX file, engines above all; ``fallback`` if it is written in another
            precision than the one asked for.
    """
    if path.suffix != ".onnx":
        raise Failure(
            "load_failed",
            f"{path.name} is not opened: an engine is native code, and one from elsewhere could do anything. Give model.onnx; "
            "the engine is built from it here.",
        )
    graph = read_graph(path)
    written = file_precision(graph)
    if written != spec.precision:
        raise Failure("fallback", f"{spec.precision} was asked for, but {path.name} is a {written} file")
    return graph


def engine_facts(runtime: str, version: str, gpu: str, capability: str, model: bytes) -> Dict[str, str]:
    """Return all that decides whether a kept engine is the one that would be built now."""
    return {
        "what": "engine",
        "model": hashlib.sha256(model).hexdigest(),
        "runtime": runtime,
        "version": version,
        "gpu": gpu,
        "capability": capability,
        "options": "strongly typed, no TF32, detailed",
    }


def kept_or_built(
    cache: Optional[EngineCache], facts: Dict[str, str], make: Callable[[bytes], Built]
) -> Tuple[bytes, str]:
    """Return the kept engine for ``facts``, else the one that ``make`` builds, and what a person should know of it.

    Args:
        cache: Where engines are kept; None if they cannot be.
        facts: From :func:`engine_facts`.
        make: Builds the engine, given what earlier builds for the same GPU learnt.
    """
    if cache is None:
        return make(b"").engine, "the engine was built now and is not kept: the cache folder cannot be written"
    engine, refused = cache.get(facts)
    if engine is not None:
        return engine, "the engine is one that was built here before"
    learnt_for = {**facts, "what": "timing", "model": ""}
    built = make(cache.get(learnt_for)[0] or b"")
    cache.put(facts, built.engine)
    if built.timing:
        cache.put(learnt_for, built.timing)
    note = f"a kept engine was refused ({refused}) and built anew" if refused else "the engine was built now"
    return built.engine, note


def _open_cache() -> Optional[EngineCache]:
    try:
        return EngineCache()
    except OSError:
        return None


class TensorRtFamily(Runtime):
    """TensorRT or TensorRT-RTX; ``module`` says which."""

    pins_itself = False

    def hardware(self) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Return model and capability of the GPU, and its driver."""
        return gpu_hardware()

    def providers(self) -> Tuple[str, ...]:
        """Return what the package runs on here.

        Raises:
            Failure: ``load_failed``, when there is no NVIDIA driver or GPU.
        """
        importlib.import_module(self.module)
        Driver()
        return (PROVIDER,)

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open an ONNX file: build its engine for this GPU, or take the one that was built here before."""
        graph = read_file(path, spec)
        trt = importlib.import_module(self.module)
        gpu = Gpu(Driver(), int(spec.options.get("device", 0)))
        capability = self.capability(trt, gpu.name, gpu.capability)
        model = path.read_bytes()
        facts = engine_facts(self.name, str(trt.__version__), gpu.name, gpu.capability, model)
        affinity.unpin()  # compilers use all cores; what is timed later is pinned again before it
        try:
            engine, note = kept_or_built(_open_cache(), facts, lambda learnt: build(trt, model, capability, learnt))
        except BuildError as error:
            raise Failure(error.kind, error.detail) from error
        return TensorRtModel(trt, gpu, engine, graph, spec.precision, note)

    def capability(self, trt: Any, gpu: str, capability: str) -> str:
        """Return the compute capability to build for by name; empty where the runtime takes the GPU that is there.

        Args:
            trt: The package.
            gpu: The GPU's name.
            capability: What it has, for example ``sm89``.

        Raises:
            Failure: ``load_failed``, when the runtime builds for named ones and this is none of them.
        """
        offered = capabilities(trt)
        if offered and capability not in offered:
            names = ", ".join(offered)
            raise Failure(
                "load_failed", f"{self.name} {self.version()} does not build for {gpu} ({capability}), only for {names}"
            )
        return capability if offered else ""

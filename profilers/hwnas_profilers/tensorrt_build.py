"""From an ONNX file to an engine, for TensorRT and TensorRT-RTX alike: their Python interfaces are one, given as ``trt``.

This file stands alone (standard library only): the host copies it beside its conversion script to build engines ahead of time.
"""

from __future__ import annotations

import re
from typing import Any, List, NamedTuple, Tuple

_SEVERE = ("INTERNAL_ERROR", "ERROR")
_NO_DRIVER = re.compile(r"cudaError 35\b|CUDA driver version is insufficient|no CUDA-capable device|cudaError 100\b")
_UNSUPPORTED = re.compile(r"not supported|unsupported|No importer registered|UNSUPPORTED", re.IGNORECASE)
_TYPE = re.compile(r"has type \w+ but must have type")
_SOURCE = re.compile(r"\[\w+\.\w+:+\w+:+ ?\w+\] ?| ?In \w+ at \S+:\d+")
_MEMORY = re.compile(r"out of memory|OutOfMemory|OUT_OF_MEMORY|bad_alloc")


class BuildError(Exception):
    """An engine that cannot be built; ``kind`` is that of a failed measurement, ``detail`` a sentence for a person."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Built(NamedTuple):
    """An engine, and what was learnt about the speed of kernels on the way (empty where nothing is)."""

    engine: bytes
    timing: bytes


def make_logger(trt: Any) -> Any:
    """Return a logger that prints nothing and keeps the errors in ``errors``."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if getattr(severity, "name", "") in _SEVERE:
                self.errors.append(" ".join(message.split()))

    return Logger()


def explain(messages: List[str], what: str) -> BuildError:
    """Sort what TensorRT said into a kind, and say it in one sentence, without places in its own source."""
    text = _SOURCE.sub("", "; ".join(messages))[:1500] or "it gave no reason"
    if _NO_DRIVER.search(text) and not _TYPE.search(text):
        reason = "no NVIDIA driver here, or one that is too old for this TensorRT (cudaError 35)"
        return BuildError("load_failed", f"{what}: {reason}. It said: {text}")
    if _MEMORY.search(text):
        return BuildError("out_of_memory", f"{what}: {text}")
    unsupported = _UNSUPPORTED.search(text) or _TYPE.search(text)
    return BuildError("unsupported_op" if unsupported else "load_failed", f"{what}: {text}")


def capabilities(trt: Any) -> Tuple[str, ...]:
    """Return the compute capabilities that engines can be built for by name, as ``sm86``; none in TensorRT itself."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return tuple(name.lower() for name in members if re.fullmatch(r"SM\d+", name))


def _parse(trt: Any, builder: Any, model: bytes, logger: Any) -> Any:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        found = [" ".join(parser.get_error(index).desc().split()) for index in range(parser.num_errors)]
        raise explain(found or logger.errors, "TensorRT cannot read the ONNX file")
    return network


def _configure(trt: Any, builder: Any, capability: str, timing: bytes) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 was asked for; TF32 rounds what it multiplies to 10 bits
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_timing_cache(config.create_timing_cache(timing), False)
    if capability:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), 0):
            raise BuildError("load_failed", f"TensorRT refuses to build for {capability}")
    return config


def build(trt: Any, model: bytes, capability: str = "", timing: bytes = b"") -> Built:
    """Build the engine of an ONNX file in the types that are written in it.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        model: Content of the file.
        capability: One of :func:`capabilities`; the GPU that is there if empty.
        timing: What an earlier build on the same GPU learnt.

    Raises:
        BuildError: TensorRT cannot read the file or build the engine.
    """
    logger = make_logger(trt)
    offered = capabilities(trt)
    if capability and capability not in offered:
        raise BuildError("load_failed", f"{capability} is none of what it builds for: {', '.join(offered)}")
    try:
        builder = trt.Builder(logger)
    except Exception as error:  # pybind's word for a null pointer; the logger knows more
        raise explain([*logger.errors, str(error)], "TensorRT does not start") from error
    network = _parse(trt, builder, model, logger)
    config = _configure(trt, builder, capability, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise explain(logger.errors, "TensorRT cannot build the engine")
    learnt = config.get_timing_cache()
    return Built(bytes(plan), bytes(learnt.serialize()) if learnt is not None else b"")

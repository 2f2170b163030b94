"""What a runtime really runs for an ONNX file, opened in this process: what a predicted partition is held to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hwnas.devices.models import KernelTime
from hwnas.errors import ConfigError
from hwnas.kernels.optimised import executed_by_onnxruntime


def executed_kernels(path: Path, runtime: str) -> list[KernelTime]:
    """Return the kernels that a runtime runs on this machine's CPU in fp32, with the nodes of the file in each.

    Both are asked for the graph they would run; there are no times. OpenVINO's own counters would not do: they leave
    out what takes less than a microsecond.

    Raises:
        ConfigError: No such runtime is known here.
    """
    if runtime == "onnxruntime":
        return _by_onnxruntime(path)
    if runtime == "openvino":
        return _by_openvino(path)
    raise ConfigError(f"what {runtime} runs cannot be told here; known: onnxruntime, openvino.")


def _by_openvino(path: Path) -> list[KernelTime]:
    from hwnas.backends._openvino import import_openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    compiled = import_openvino().Core().compile_model(str(path), "CPU", settings)
    kernels: list[KernelTime] = []
    fixed: set[str] = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        told = {key: info[key].astype(str) for key in ("layerType", "originalLayersNames") if key in info}
        name, op = node.get_friendly_name(), told.get("layerType", "")
        sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        if op in ("Const", "Constant") or (sources and fixed.issuperset(sources)):
            fixed.add(name)  # what is computed from constants alone is computed once
        elif op not in ("Input", "Output"):
            fused = tuple(part for part in told.get("originalLayersNames", "").split(",") if part)
            kernels.append(KernelTime(name, op, 0.0, (), fused))
    return kernels


def _by_onnxruntime(path: Path) -> list[KernelTime]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # a warning that the written file belongs to this machine is no news
    with tempfile.TemporaryDirectory(prefix="hwnas-optimised-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return executed_by_onnxruntime(path, Path(options.optimized_model_filepath))

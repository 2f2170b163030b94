"""A small package, put together from its real parts: an ONNX file, its outputs, scripts, card, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwnas.artifacts.manifest import Manifest
from hwnas.artifacts.pipeline import complete
from hwnas.artifacts.records import Licence, Measured, OutputParity
from hwnas.artifacts.samples import write_samples
from hwnas.devices.models import ModelFiles

SIDE, CLASSES = 8, 3


def small_onnx(batch: int = 1, seed: int = 0) -> onnx.ModelProto:
    """Convolution, ReLU, pooling, linear layer: one gray image in, three classes out."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.3, (4, 1, 3, 3)).astype(np.float32)
    weight = rng.normal(0, 0.5, (4, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def run_onnx(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])


def manifest_parts(**changes: Any) -> dict[str, Any]:
    """Fields of a manifest except ``files``, for the small model on ONNX Runtime."""
    values: dict[str, Any] = {
        "name": "small",
        "created": "2026-01-05T10:00:00Z",
        "request": "a" * 64,
        "tools": {"hwnas": "0.1.0"},
        "target": "local/onnxruntime-fp32-t1-b1",
        "runtime": {
            "name": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": "CPUExecutionProvider",
            "device": "CPU",
            "precision": "fp32",
        },
        "fingerprint": {"identity": {"cpu": "some CPU"}, "context": {}},
        "inputs": [{"name": "input", "shape": [1, 1, SIDE, SIDE], "dtype": "float32", "layout": "NCHW"}],
        "outputs": [{"name": "output", "shape": [1, CLASSES], "dtype": "float32", "layout": "NC"}],
        "preprocessing": {
            "input_shape": [1, SIDE, SIDE],
            "layout": "NCHW",
            "dtype": "float32",
            "channels": "gray",
            "crop": "centre square",
            "stored_size": 16,
            "scale": 1 / 255,
            "resize": {"size": SIDE, "interpolation": "bilinear", "antialias": True},
            "mean": [0.4],
            "std": [0.25],
        },
        "labels": ["cat", "dog", "owl"],
        "measured": Measured(
            value=0.02,
            low=0.019,
            high=0.021,
            unit="ms",
            statistic="p50",
            percentiles={"p50": 0.02},
            grade="A",
            disturbed=(),
            rounds=10,
            count=100,
        ),
        "parity": {
            "output": OutputParity(
                relative_l2=1e-7, max_abs=1e-7, cosine=1.0, argmax_agreement=1.0, tolerance=1e-4, images=4
            )
        },
        "budgets": [{"statistic": "p50", "max_ms": 1000.0, "verdict": "kept", "tries": 1}],
        "licence": Licence(weights="none"),
    }
    return values | changes


def build_package(folder: Path, **changes: Any) -> Manifest:
    folder.mkdir(parents=True)
    onnx.save(small_onnx(), folder / "model.onnx")
    images = np.random.default_rng(1).normal(size=(4, 1, SIDE, SIDE)).astype(np.float32)
    outputs = {"output": run_onnx(folder / "model.onnx", images)}
    write_samples(folder, {"input": images}, outputs, outputs)
    return complete(folder, ModelFiles(folder / "model.onnx"), manifest_parts(**changes))

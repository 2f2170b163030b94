"""Small real networks, in floating point and quantised, and descriptions for the simulated runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwnas.devices.models import ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.targets import Device

SCALE = 0.04


class Net:
    """Writes a network node by node; with ``quantised`` every tensor gets consistent QDQ pairs."""

    def __init__(self, quantised: bool) -> None:
        self.quantised = quantised
        self.generator = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def activation(self, tensor: str, zero_point: int = 128) -> str:
        if not self.quantised:
            return tensor
        scale = self.constant(f"{tensor}.scale", np.array(SCALE, np.float32))
        zero = self.constant(f"{tensor}.zero", np.array(zero_point, np.uint8))
        self.add("QuantizeLinear", [tensor, scale, zero], f"{tensor}.quantize")
        return self.add("DequantizeLinear", [f"{tensor}.quantize", scale, zero], f"{tensor}.dequantize")

    def weight(self, name: str, values: NDArray[np.float32], bias: NDArray[np.float32]) -> list[str]:
        if not self.quantised:
            return [self.constant(f"{name}.weight", values), self.constant(f"{name}.bias", bias)]
        scale = np.float32(np.abs(values).max() / 127)
        tensors = []
        for part, numbers, step in (
            ("weight", np.clip(np.round(values / scale), -127, 127).astype(np.int8), scale),
            ("bias", np.round(bias / (scale * SCALE)).astype(np.int32), np.float32(scale * SCALE)),
        ):
            stored = self.constant(f"{name}.{part}.stored", numbers)
            factor = self.constant(f"{name}.{part}.scale", np.array(step, np.float32))
            zero = self.constant(f"{name}.{part}.zero", np.zeros((), numbers.dtype))
            tensors.append(self.add("DequantizeLinear", [stored, factor, zero], f"{name}.{part}"))
        return tensors

    def conv(
        self, source: str, name: str, before: int, after: int, kernel: int, groups: int = 1, relu: bool = True
    ) -> str:
        shape = (after, before // groups, kernel, kernel)
        values = (self.generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        bias = (self.generator.standard_normal(after) * 0.1).astype(np.float32)
        inputs = [source, *self.weight(name, values, bias)]
        out = self.add("Conv", inputs, name, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, group=groups)
        if not relu:
            return self.activation(out)
        # an unsigned zero point of 0 makes the rectifier redundant, so that runtimes absorb it into the quantised kernel
        return self.activation(self.add("Relu", [out], f"{name}.relu"), zero_point=0)

    def model(self, batch: int | str, channels: int) -> onnx.ModelProto:
        stem = self.conv(self.activation("input"), "stem", 3, channels, 3)
        depth = self.conv(stem, "block.depth", channels, channels, 3, groups=channels)
        point = self.conv(depth, "block.point", channels, channels, 1, relu=False)
        added = self.activation(self.add("Add", [stem, point], "block.add"))
        pooled = self.activation(self.add("GlobalAveragePool", [added], "pool"))
        flat = self.activation(self.add("Flatten", [pooled], "flat"))
        values = (self.generator.standard_normal((channels, 10)) * 0.3).astype(np.float32)
        self.add("Gemm", [flat, *self.weight("output", values, np.zeros(10, np.float32))], "output")
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 24, 24])]
        outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 10])]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return model


def write_net(path: Path, quantised: bool = False, batch: int | str = 1, channels: int = 16) -> ModelFiles:
    onnx.save(Net(quantised).model(batch, channels), path)
    return ModelFiles(path)


def write_simulated(path: Path, macs: float = 2.0e7, **faults: Any) -> ModelFiles:
    tensor = {"shape": [1, 4], "dtype": "float32"}
    described = {"macs": macs, "inputs": [{"name": "input", **tensor}], "outputs": [{"name": "output", **tensor}]}
    path.write_text(json.dumps({**described, "faults": {"sigma": 0.0, **faults}}))
    return ModelFiles(path)


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFiles]:
    folder = tmp_path_factory.mktemp("nets")
    return {
        "fp32": write_net(folder / "fp32.onnx"),
        "int8": write_net(folder / "int8.onnx", quantised=True),
        "large": write_net(folder / "large.onnx", channels=128),
        "open": write_net(folder / "open.onnx", batch="n"),
    }


@pytest.fixture(scope="session")
def image() -> dict[str, NDArray[np.float32]]:
    return {"input": np.random.default_rng(3).standard_normal((1, 3, 24, 24)).astype(np.float32)}


@pytest.fixture(scope="module")
def local() -> Iterator[Session]:
    with open_session(Device("local"), deadline_s=60.0) as session:
        yield session


@pytest.fixture
def simulated() -> Iterator[Session]:
    with open_session(Device("sim", transport="simulated"), deadline_s=3.0) as session:
        yield session

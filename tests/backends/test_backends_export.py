from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from hwnas.backends.base import Backend, staged
from hwnas.backends.checks import repeat_to_batch
from hwnas.backends.onnx_export import name_after_modules
from hwnas.backends.onnx_files import read_onnx, save_onnx
from hwnas.backends.onnx_graph import build_fp32
from hwnas.backends.onnxruntime import OnnxRuntimeBackend, quantise_file
from hwnas.backends.openvino import OpenVinoBackend, read_model
from hwnas.backends.simulated import SimulatedBackend, describe_graph, describe_module
from hwnas.backends.torch import TorchBackend
from hwnas.backends.torch_graph import GraphModule
from hwnas.errors import ConfigError, MissingRuntimeError, ModelFileError, StorageError
from hwnas.files import read_json
from hwnas.spaces.graph import LayerGraph
from hwnas.testing.trained import TrainedExample
from hwnas_profilers.simulated_truth import describe_kernels


class TraceMisled(nn.Module):
    """Branches on a value: a trace keeps one branch, so that the first exporter's file is wrong for other images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out if float(x.sum()) > 0 else -out


class Unscriptable(nn.Module):
    """Uses an operation no exporter of ONNX knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sort(x.numpy(), axis=1)) * 2 + x


def record(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "export.json").read_text()))


def test_the_record_says_how_the_file_was_made(example: TrainedExample, tmp_path: Path) -> None:
    images = torch.from_numpy(example.images[:3])
    OnnxRuntimeBackend().export(example.module, images, "fp32", tmp_path)
    found = record(tmp_path)
    assert found["exporter"] == "torchscript"
    assert found["opset"] == 17
    assert found["images"] == 3
    assert found["refused"] == {}
    assert isinstance(found["max_error"], float)
    assert found["max_error"] < 1e-5


def test_the_other_exporter_can_be_asked_for(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten(), nn.Linear(144, 3))
    OnnxRuntimeBackend(exporter="dynamo").export(module, torch.randn(2, 1, 8, 8), "fp32", tmp_path)
    assert record(tmp_path)["exporter"] == "dynamo"
    model = onnx.load(tmp_path / "model.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert not any(node.metadata_props for node in model.graph.node)
    assert Path(__file__).name.encode() not in (tmp_path / "model.onnx").read_bytes()


def test_a_file_that_disagrees_with_torch_is_refused(tmp_path: Path) -> None:
    images = torch.cat([torch.ones(1, 4), -torch.ones(1, 4)])
    with pytest.raises(ModelFileError, match=r"outputs differ from torch by 2\.00e") as caught:
        OnnxRuntimeBackend().export(TraceMisled(), images, "fp32", tmp_path / "out")
    assert "dynamo: " in str(caught.value)
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend(), OpenVinoBackend(), TorchBackend()], ids=lambda b: b.name)
def test_a_module_that_cannot_be_traced_is_an_error(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="Unscriptable cannot be exported"):
        backend.export(Unscriptable(), torch.randn(2, 4), "fp32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_does_not_fit_its_input_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"Linear cannot be run on an input of shape \(1, 5\)"):
        OnnxRuntimeBackend().export(nn.Linear(4, 3), torch.randn(2, 5), "fp32", tmp_path)
    with pytest.raises(ModelFileError, match="the first dimension must be the batch"):
        OnnxRuntimeBackend().export(nn.Flatten(0), torch.randn(2, 5), "fp32", tmp_path)


@pytest.mark.parametrize("wrong", [torch.zeros(0, 1, 4, 4), torch.zeros(4), torch.zeros(2, 4).int(), [1.0]])
def test_an_example_that_is_no_batch_of_images_is_an_error(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="example must be a float32 tensor"):
        OnnxRuntimeBackend().export(nn.Identity(), wrong, "fp32", tmp_path)  # type: ignore[arg-type]


def test_exported_tensors_are_named_after_modules(example: TrainedExample, tmp_path: Path) -> None:
    OnnxRuntimeBackend().export(example.module, torch.from_numpy(example.images[:1]), "fp32", tmp_path)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    produced = {name for node in nodes for name in node.output}
    assert {layer.name for layer in example.graph.layers[1:-1]} | {"output"} == produced


def test_nodes_without_a_module_keep_their_names() -> None:
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"], name="/block/act/Relu"),
        onnx.helper.make_node("Relu", ["a"], ["b"], name="/block/act/Relu_1"),
        onnx.helper.make_node("Relu", ["b"], ["y"], name="plain"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [1])], [value("y", 1, [1])])
    model = onnx.helper.make_model(graph)
    name_after_modules(model)
    assert [list(node.output) for node in model.graph.node] == [["block.act/Relu_0"], ["block.act"], ["y"]]
    assert [list(node.input) for node in model.graph.node] == [["x"], ["block.act/Relu_0"], ["block.act"]]
    assert model.graph.node[2].name == "plain"


def test_a_file_that_is_not_onnx_is_an_error(example: TrainedExample, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"", b"\x00\x01 this is text", b"PK\x03\x04 a zip"):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"model\.onnx is not an ONNX file"):
            quantise_file(path, tmp_path / "int8.onnx", example.calibration)
    with pytest.raises(ModelFileError, match="does not exist"):
        quantise_file(tmp_path / "absent.onnx", tmp_path / "int8.onnx", example.calibration)
    assert not (tmp_path / "int8.onnx").exists()


def int8_weights(path: Path) -> list[np.ndarray]:
    """Weights of convolutions and linear layers as they lie in a file (biases are int32)."""
    if path.suffix == ".onnx":
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
        return [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]
    constants = [node for node in read_model(path).get_ops() if node.get_type_name() == "Constant"]
    return [node.data for node in constants if node.get_element_type().get_type_name() == "i8"]


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend(), OpenVinoBackend()], ids=lambda backend: backend.name)
@pytest.mark.parametrize("bits", [7, 8])
def test_int8_weights_use_the_bits_they_may(
    backend: Backend, bits: int, example: TrainedExample, tmp_path: Path
) -> None:
    images = torch.from_numpy(example.images[:2])
    files = backend.export(example.module, images, "int8", tmp_path, calibration=example.calibration, weight_bits=bits)
    weights = int8_weights(files.main)
    assert len(weights) == sum(bool(layer.weight_shape) for layer in example.graph.layers)
    # Depthwise convolutions add no neighbouring products: NNCF leaves them all bits.
    checked = [array for array in weights if bits == 8 or array.shape[1] > 1]
    largest = [int(np.abs(array.astype(np.int32)).max()) for array in checked]
    assert all(2 ** (bits - 1) - 1 <= value <= 2 ** (bits - 1) for value in largest), largest
    assert read_json(tmp_path / "export.json")["weight_bits"] == bits


def test_an_open_shape_cannot_be_quantised(example: TrainedExample, tmp_path: Path) -> None:
    model = build_fp32(example.graph)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    save_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="open shape"):
        quantise_file(tmp_path / "model.onnx", tmp_path / "int8.onnx", example.calibration)


def test_calibration_of_another_shape_is_an_error(example: TrainedExample, tmp_path: Path) -> None:
    save_onnx(build_fp32(example.graph), tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"shape \(2, 3, 16, 16\), not \[n, 1, 16, 16\]"):
        quantise_file(tmp_path / "model.onnx", tmp_path / "int8.onnx", np.zeros((2, 3, 16, 16)))


def test_weights_outside_the_folder_are_refused(example: TrainedExample, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    inside = tmp_path / "in"
    inside.mkdir()
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "..\\secret.bin", "absent.bin"):
        model = build_fp32(example.graph)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        save_onnx(model, inside / "model.onnx")
        with pytest.raises(ModelFileError, match="not a file in its own folder"):
            read_onnx(inside / "model.onnx")


def test_torch_archives_name_no_file_of_this_machine(example: TrainedExample, tmp_path: Path) -> None:
    files = TorchBackend().export(example.module, torch.from_numpy(example.images[:1]), "fp32", tmp_path)
    with zipfile.ZipFile(files.main) as archive:
        assert not any(
            b"site-packages" in archive.read(name) or b"hwnas/" in archive.read(name) for name in archive.namelist()
        )


def test_simulation_knows_the_network_by_both_ways(example: TrainedExample, tmp_path: Path) -> None:
    backend = SimulatedBackend()
    built = backend.build_network(example.graph, "int8", tmp_path / "a")
    exported = backend.export(
        example.module, torch.from_numpy(example.images[:1]), "int8", tmp_path / "b", calibration=example.calibration
    )
    assert built.main.read_bytes() == exported.main.read_bytes()
    described = json.loads(built.main.read_text())
    assert described["macs"] == example.graph.macs
    kernels = describe_kernels(described, "int8", threads=1, batch=1)
    assert {name for kernel in kernels for name in kernel.fused} == {
        layer.name for layer in example.graph.layers if layer.op not in ("input", "flatten")
    }


def test_simulation_counts_the_macs_of_any_module(resnet_graph: LayerGraph) -> None:
    module = GraphModule(resnet_graph)
    described = describe_module(module, torch.randn(2, 3, 16, 16), batch=4)
    assert described["macs"] == resnet_graph.macs == describe_graph(resnet_graph, 4)["macs"]
    assert described["inputs"][0]["shape"] == [4, 3, 16, 16]
    assert described["outputs"][0]["shape"] == [4, 5]


def test_larger_networks_simulate_slower(random_graphs: list[LayerGraph]) -> None:
    order = sorted(random_graphs, key=lambda graph: graph.macs)
    times = [
        sum(kernel.ms for kernel in describe_kernels(describe_graph(graph, 1), "fp32", threads=1, batch=1))
        for graph in order
    ]
    assert times[0] < times[-1]
    assert min(times) > 0


def test_a_missing_package_is_told_with_its_install_line(example: TrainedExample, tmp_path: Path) -> None:
    class Absent(SimulatedBackend):
        name = "absent"
        packages = ("no_such_package_of_hwnas",)
        install = "pip install no-such-package"

    backend = Absent()
    assert "no_such_package_of_hwnas" in str(backend.available())
    with pytest.raises(MissingRuntimeError, match="pip install no-such-package"):
        backend.build_network(example.graph, "fp32", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_staging_moves_all_or_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def fail_half_way() -> None:
        with staged(folder) as stage:
            (stage / "half.bin").write_bytes(b"half")
            raise KeyError("half-way")

    with pytest.raises(KeyError, match="half-way"):
        fail_half_way()
    assert list(folder.iterdir()) == []
    with staged(folder) as stage:
        (stage / "whole.bin").write_bytes(b"whole")
    assert [path.name for path in folder.iterdir()] == ["whole.bin"]


def test_a_folder_that_cannot_be_made_is_told(example: TrainedExample, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        OnnxRuntimeBackend().build_network(example.graph, "fp32", tmp_path / "file" / "out")


def test_batches_are_filled_up_with_the_last_image() -> None:
    images = np.arange(5, dtype=np.float32)[:, None]
    parts = repeat_to_batch(images, 2)
    assert [part[:, 0].tolist() for part in parts] == [[0, 1], [2, 3], [4, 4]]

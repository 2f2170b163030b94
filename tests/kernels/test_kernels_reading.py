from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from kernels_support import computed
from onnx import TensorProto, helper

import hwnas
from hwnas.backends.onnx_graph import build_fp32
from hwnas.errors import ConfigError, ModelFileError
from hwnas.kernels.batch import KernelBatch
from hwnas.kernels.comparing import compare
from hwnas.kernels.executed import executed_kernels
from hwnas.kernels.reading import kernels_of_onnx
from hwnas.testing.trained import example_space

LAYOUT = ("ReorderInput", "ReorderOutput", "Flatten", "Reshape")
ONNXRUNTIME = {
    "Conv": "conv",
    "FusedConv": "conv",
    "Gemm": "linear",
    "FusedGemm": "linear",
    "MaxPool": "max_pool",
    "AveragePool": "avg_pool",
    "GlobalAveragePool": "global_pool",
    "ReduceMean": "global_pool",
    "Concat": "concat",
    "Split": "split",
    "Transpose": "transpose",
    "Mul": "mul",
    "Add": "add",
    "QuickGelu": "elementwise",
    "HardSigmoid": "elementwise",
}
OPENVINO = {
    "Convolution": "conv",
    "FullyConnected": "linear",
    "Pooling": "pool",
    "Reduce": "pool",
    "Concatenation": "concat",
    "Split": "split",
    "ShuffleChannels": "transpose",
    "Math": "elementwise",
    "Subgraph": "elementwise",
}
JOINED = {
    "depthwise": "conv",
    "max_pool": "pool",
    "avg_pool": "pool",
    "global_pool": "pool",
    "mul": "elementwise",
    "norm": "elementwise",
}
NAMES = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "squeezenet1_1")
MMACS = {
    "resnet18": 148.6,
    "mobilenet_v3_small": 6.5,
    "shufflenet_v2_x0_5": 4.2,
    "efficientnet_b0": 33.2,
    "squeezenet1_1": 21.6,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """torchvision's networks at 64 pixels, as torch exports them."""
    assert hwnas.__version__  # prepares the import of torchvision
    import torchvision

    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        module = getattr(torchvision.models, name)(weights=None).eval()
        torch.onnx.export(module, (torch.zeros(1, 3, 64, 64),), str(folder / f"{name}.onnx"), dynamo=False)
    return {name: folder / f"{name}.onnx" for name in NAMES}


def macs_in_torch(name: str) -> float:
    """Multiply-accumulates by hooks on every convolution and linear layer of the module itself."""
    import torchvision

    module, total = getattr(torchvision.models, name)(weights=None).eval(), 0.0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output.numel()  # type: ignore[operator]

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(torch.zeros(1, 3, 64, 64))
    return total


def run_by_onnxruntime(path: Path, folder: Path) -> Counter[str]:
    """Kinds of what ONNX Runtime runs, from the graph it writes after its optimisations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(str(folder / "optimised.onnx")).graph.node
    return Counter(ONNXRUNTIME[node.op_type] for node in nodes if node.op_type not in LAYOUT)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_layers_go_into_the_same_kernels(models: dict[str, Path], name: str, runtime: str) -> None:
    kernels = computed(models[name], runtime)
    found = compare(kernels, executed_kernels(models[name], runtime), models[name])
    assert found.same, found
    assert found.predicted == found.executed == found.equal
    assert set(found.overheads) <= {"ReorderInput", "ReorderOutput", "Reshape", "Flatten", "Reorder"}


def kinds_of(path: Path, runtime: str) -> Counter[str]:
    kernels = computed(path, runtime)
    return Counter("conv" if kernel.kind == "depthwise" else kernel.kind for kernel in kernels)


@pytest.mark.parametrize("name", NAMES)
def test_the_partition_is_what_onnxruntime_runs(models: dict[str, Path], name: str, tmp_path: Path) -> None:
    assert kinds_of(models[name], "onnxruntime") == run_by_onnxruntime(models[name], tmp_path)
    kernels = computed(models[name], "onnxruntime")
    assert sum(kernel.macs for kernel in kernels) == macs_in_torch(name)
    assert sum(kernel.macs for kernel in kernels) / 1e6 == pytest.approx(MMACS[name], abs=0.06)


class Odd(torch.nn.Module):
    """Constants behind a convolution, a sum that broadcasts, a normalisation whose convolution is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.gate = torch.nn.Conv2d(8, 8, 1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.last = torch.nn.Conv2d(8, 8, 1)
        self.register_buffer("offset", torch.rand(1, 8, 1, 1))
        self.register_buffer("scale", torch.rand(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) * self.scale + self.offset
        z = y + self.gate(y.mean((2, 3), keepdim=True))
        w = self.last(z)
        return torch.cat([self.norm(w).relu(), w], 1)


def test_fusions_that_look_alike(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    torch.onnx.export(Odd().eval(), (torch.zeros(1, 3, 16, 16),), str(path), dynamo=False)
    assert kinds_of(path, "onnxruntime") == run_by_onnxruntime(path, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_partition_is_what_openvino_runs(models: dict[str, Path], name: str) -> None:
    kernels = computed(models[name], "openvino")
    compiled = openvino.Core().compile_model(str(models[name]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = [layer.get_rt_info()["layerType"].astype(str) for layer in compiled.get_runtime_model().get_ordered_ops()]
    run = Counter(OPENVINO[layer] for layer in layers if layer in OPENVINO)
    unknown = {layer for layer in layers if layer not in OPENVINO}
    assert unknown <= {"Input", "Output", "Reorder", "Reshape", "Const", "Constant"}, unknown
    assert Counter(JOINED.get(kernel.kind, kernel.kind) for kernel in kernels) == run


def test_files_made_for_profiling_keep_their_work(tmp_path: Path) -> None:
    space = example_space()
    graph = space.graph(space.largest)
    path = tmp_path / "largest.onnx"
    path.write_bytes(build_fp32(graph, batch=2).SerializeToString())
    batch = KernelBatch.of([computed(path, "onnxruntime")])
    assert batch["macs"].sum() == 2 * graph.macs
    convolutions = [layer for layer in graph.layers if layer.op == "conv"]
    # A convolution of one position is one too; squeeze-and-excite gates are convolutions here.
    assert (batch.kinds < 2).sum() == len(convolutions)


def test_shapes_must_be_fixed(tmp_path: Path) -> None:
    torch.onnx.export(
        torch.nn.Conv2d(3, 4, 3),
        (torch.zeros(1, 3, 8, 8),),
        str(tmp_path / "dynamic.onnx"),
        dynamo=False,
        input_names=["image"],
        dynamic_axes={"image": {0: "n"}},
    )
    with pytest.raises(
        ModelFileError, match=r"'image' has the shape \[\?, 3, 8, 8\].*Export the model with fixed ones"
    ):
        computed(tmp_path / "dynamic.onnx", "onnxruntime")


class Flattening(torch.nn.Module):
    """Computes the shape of its own flattening, as exporters of old did."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 8)
        self.head = torch.nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.head(y.view(y.size(0), -1))


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_shapes_that_a_file_computes(tmp_path: Path, opset: int) -> None:
    path = tmp_path / "flattening.onnx"
    axes = {"image": {0: "n"}}
    torch.onnx.export(
        Flattening().eval(),
        (torch.zeros(1, 3, 8, 8),),
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=["image"],
        dynamic_axes=axes,
    )
    model = onnx.load(path)
    assert any(node.op_type == "Shape" for node in model.graph.node)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    for side in model.graph.output[0].type.tensor_type.shape.dim:
        side.Clear()
    path.write_bytes(model.SerializeToString())
    conv, linear = computed(path, "onnxruntime")
    assert (conv.kind, conv.macs, linear.kind, linear.macs) == ("conv", 3 * 64 * 5, "linear", 10)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match="shapes cannot be inferred"):
        computed(path, "onnxruntime")
    with pytest.raises(ConfigError, match="known: onnxruntime, openvino"):
        computed(path, "tensorrt")


def test_an_operation_without_a_kind_of_its_own_is_counted(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
        helper.make_node("CumSum", ["y", "axis"], ["z"], name="cumsum"),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 1, 1], np.ones(12))
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [2])
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("z", TensorProto.FLOAT, [1, 4, 8, 8])],
        [weight, axis],
    )
    path = tmp_path / "cumsum.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    conv, other = computed(path, "onnxruntime")
    assert (conv.kind, conv.macs) == ("conv", 4 * 3 * 64)
    assert (other.kind, other.read, other.written, other.name) == ("other", 256, 256, "cumsum")


@pytest.mark.parametrize("name", NAMES)
def test_changes_of_layout_are_told(models: dict[str, Path], name: str) -> None:
    executed = Counter(kernel.op for kernel in executed_kernels(models[name], "onnxruntime"))
    kernels = kernels_of_onnx(models[name], "onnxruntime")
    assert sum(kernel.kind == "reorder" for kernel in kernels) == executed["ReorderInput"] + executed["ReorderOutput"]
    outputs = [kernel for kernel in kernels if kernel.kind == "reorder" and kernel.nodes]
    assert len(outputs) == executed["ReorderOutput"]
    assert all(kernel.read == kernel.written > 0 for kernel in outputs)


def test_openvino_changes_the_layout_of_the_image_alone(models: dict[str, Path]) -> None:
    kernels = kernels_of_onnx(models["resnet18"], "openvino")
    changed = [kernel for kernel in kernels if kernel.kind == "reorder"]
    assert changed == kernels[:1]
    assert changed[0].nodes == ()
    assert changed[0].read == changed[0].written == 3 * changed[0].in_pixels


def test_costly_activations_are_told_from_comparisons(models: dict[str, Path]) -> None:
    gates = {name: sum(kernel.gates for kernel in kernels_of_onnx(models[name], "openvino")) for name in NAMES}
    assert gates["resnet18"] == gates["squeezenet1_1"] == gates["shufflenet_v2_x0_5"] == 0
    assert gates["efficientnet_b0"] > 30
    assert 10 < gates["mobilenet_v3_small"] < gates["efficientnet_b0"] + 30

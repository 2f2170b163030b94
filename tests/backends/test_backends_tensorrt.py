"""What TensorRT is given, and engines of TensorRT-RTX built without a GPU; running on a GPU: ``hwnas backends check``."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import hwnas_profilers
from hwnas.backends._tensorrt_files import TensorRtFiles
from hwnas.backends.base import Backend
from hwnas.backends.onnx_files import save_onnx
from hwnas.backends.onnx_half import to_half
from hwnas.backends.onnx_qdq import TENSORRT, build_int8, place
from hwnas.backends.onnxruntime import OnnxRuntimeBackend, run_file
from hwnas.backends.tensorrt import TensorRtBackend, TensorRtRtxBackend
from hwnas.devices.models import KernelTime, ModelFiles
from hwnas.devices.session import open_session
from hwnas.environments.recipe import install
from hwnas.errors import ConfigError, MeasurementFailure, MissingRuntimeError, ModelFileError
from hwnas.spaces.graph import LayerGraph
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.static import build_network, folded_weights
from hwnas.targets import Device, Target
from hwnas.testing.backends import BackendContract, torch_outputs, worst_relative_error
from hwnas.testing.trained import TrainedExample
from hwnas_profilers.cuda import Driver
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.tensorrt import RUNTIME as TENSORRT_RUNTIME
from hwnas_profilers.runtimes.tensorrt_rtx import RUNTIME as RTX_RUNTIME

PRECISIONS = TensorRtFiles.precisions
WORST = {"fp32": (0, 1e-4), "fp16": (1e-5, 1e-2), "int8": (1e-3, 0.4)}
"""Precision -> smallest and largest distance to torch, worst image: a file that is too close is not in that precision."""
environment = pytest.mark.environment


def export(
    backend: Backend,
    example: TrainedExample,
    precision: str,
    folder: Path,
    module: nn.Module | None = None,
    batch: int = 1,
) -> ModelFiles:
    images = torch.from_numpy(example.images[:8])
    calibration = example.calibration if precision == "int8" else None
    return backend.export(module or example.module, images, precision, folder, calibration=calibration, batch=batch)


def run_all(path: Path, images: np.ndarray, batch: int = 1) -> np.ndarray:
    return np.concatenate(run_file(path, [images[at : at + batch] for at in range(0, len(images), batch)]))


def values_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def ops(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def has_gpu() -> bool:
    try:
        Driver()
    except Failure:
        return False
    return True


class FilesContract(BackendContract):
    """Of the contract, what needs no GPU."""

    test_built_files_lie_in_the_folder_and_load: ClassVar[None] = None  # type: ignore[assignment]
    test_the_batch_is_fixed_in_the_file: ClassVar[None] = None  # type: ignore[assignment]
    test_kernels_belong_to_blocks: ClassVar[None] = None  # type: ignore[assignment]


class TestTensorRt(FilesContract):
    backend_type = TensorRtBackend


class TestTensorRtRtx(FilesContract):
    backend_type = TensorRtRtxBackend


@pytest.mark.parametrize("precision", PRECISIONS)
def test_exported_files_compute_what_torch_computes(example: TrainedExample, precision: str, tmp_path: Path) -> None:
    files = export(TensorRtBackend(), example, precision, tmp_path)
    assert files == ModelFiles(tmp_path / "model.onnx")
    reference = torch_outputs(example.module, example.images)
    found = run_all(files.main, example.images)
    low, high = WORST[precision]
    assert low < worst_relative_error(reference, found) <= high
    assert np.linalg.norm(found - reference) / np.linalg.norm(reference) <= high / 4
    assert np.mean(found.argmax(1) == reference.argmax(1)) >= 0.95
    batched = export(TensorRtBackend(), example, precision, tmp_path / "batch", batch=4)
    np.testing.assert_allclose(
        run_all(batched.main, example.images[:16], 4), found[:16], atol=0.02 * np.abs(found).max()
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_built_files_compute_what_their_weights_say(example: TrainedExample, precision: str, tmp_path: Path) -> None:
    weights = folded_weights(example.module)
    files = TensorRtBackend().build_network(example.graph, precision, tmp_path, weights=weights, batch=3)
    found = run_all(files.main, example.images[:30], 3)
    assert found.dtype == np.float32
    limit = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1.0}[precision]  # int8 ranges are synthetic
    reference = torch_outputs(example.module, example.images[:30])
    assert np.linalg.norm(found - reference) / np.linalg.norm(reference) <= limit


@pytest.mark.parametrize("made", ["exported", "built"])
def test_fp16_files_hold_and_compute_nothing_in_fp32(example: TrainedExample, made: str, tmp_path: Path) -> None:
    backend = TensorRtRtxBackend()
    if made == "exported":
        model = onnx.load(export(backend, example, "fp16", tmp_path).main)
    else:
        model = onnx.load(backend.build_network(example.graph, "fp16", tmp_path).main)
    assert {array.dtype for array in values_of(model).values()} <= {np.dtype(np.float16), np.dtype(np.int64)}
    boundary = [*model.graph.input, *model.graph.output]
    assert [value.type.tensor_type.elem_type for value in boundary] == [TensorProto.FLOAT] * 2
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    kinds = {value.type.tensor_type.elem_type for value in inferred}
    assert len(inferred) >= len(model.graph.node) - 1
    assert kinds == {TensorProto.FLOAT16}
    assert [node.op_type for node in model.graph.node].count("Cast") == 2


def check_int8(model: onnx.ModelProto) -> int:
    """Check what TensorRT's parser wants of a quantised file; returns how many convolutions and products it holds."""
    values = values_of(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    computing = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = values[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "Relu":
            assert producers[node.input[0]].op_type in ("Conv", "Add") or readers[node.input[0]] > 1
        if node.op_type in ("Conv", "Gemm"):
            computing += 1
            source, weight = (producers[name] for name in node.input[:2])
            assert (source.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
            channels = values[weight.input[0]].shape[0]
            assert values[weight.input[0]].dtype == np.int8
            assert values[weight.input[1]].shape == (channels,)
            assert helper.get_attribute_value(weight.attribute[0]) == 0
            assert values[source.input[1]].ndim == 0
            assert all(values[name].dtype == np.float32 for name in node.input[2:])
    assert not any(array.dtype in (np.uint8, np.int32) for array in values.values())
    return computing


def test_int8_files_are_symmetric_per_channel_and_without_quantised_biases(
    example: TrainedExample, tmp_path: Path
) -> None:
    backend = TensorRtBackend()
    computing = sum(layer.op in ("conv", "linear") for layer in example.graph.layers)
    exported = export(backend, example, "int8", tmp_path / "exported")
    built = backend.build_network(example.graph, "int8", tmp_path / "built")
    assert check_int8(onnx.load(exported.main)) == check_int8(onnx.load(built.main)) == computing
    record = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert record["weight_bits"] == 8
    assert record["calibration_images"] == len(example.calibration)


def test_onnx_runtimes_own_recipe_is_another(example: TrainedExample, tmp_path: Path) -> None:
    """The checks above can fail: they do on the file that ONNX Runtime wants."""
    files = export(OnnxRuntimeBackend(), example, "int8", tmp_path)
    with pytest.raises(AssertionError):
        check_int8(onnx.load(files.main))


def test_int8_uses_eight_bits_whatever_the_cpu_wants(example: TrainedExample, tmp_path: Path) -> None:
    images = torch.from_numpy(example.images[:2])
    files = TensorRtBackend().export(
        example.module, images, "int8", tmp_path, calibration=example.calibration, weight_bits=7
    )
    steps = [array for name, array in values_of(onnx.load(files.main)).items() if name.endswith("_quantized")]
    assert max(int(np.abs(array.astype(int)).max()) for array in steps) > 64
    assert json.loads((tmp_path / "export.json").read_text())["weight_bits"] == 8


def test_int8_is_built_where_the_real_quantiser_quantises(
    space: MobileNetV3Space, resnet_graph: LayerGraph, tmp_path: Path
) -> None:
    backend = TensorRtBackend()
    images = np.random.default_rng(0).standard_normal((4, 1, 16, 16), dtype=np.float32)
    for index, encoding in enumerate(space.sample(np.random.default_rng(2), 3)):
        architecture = space.decode(encoding)
        module = build_network(space, architecture, seed=index).eval()
        folder = tmp_path / str(index)
        real = backend.export(module, torch.from_numpy(images), "int8", folder, calibration=images)
        direct = backend.build_network(space.graph(architecture), "int8", folder / "direct")
        assert ops(direct.main) == ops(real.main)
    placement = place(resnet_graph, TENSORRT)
    assert placement.removed == {}
    assert {"input", "stem.pool", "body.act", "body.a", "body.b", "body.out", "head.flatten"} == placement.quantised


def test_no_two_synthetic_scales_are_equal(example: TrainedExample) -> None:
    model = build_int8(example.graph, scheme=TENSORRT)
    values = values_of(model)
    scales = [float(values[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(set(scales)) == len(scales) > 20


def test_both_exporters_make_fp16(example: TrainedExample, tmp_path: Path) -> None:
    files = export(TensorRtBackend(exporter="dynamo"), example, "fp16", tmp_path)
    assert json.loads((tmp_path / "export.json").read_text())["exporter"] == "dynamo"
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in onnx.load(files.main).graph.initializer}
    reference = torch_outputs(example.module, example.images[:32])
    assert worst_relative_error(reference, run_all(files.main, example.images[:32])) <= 1e-2


def test_a_network_that_overflows_in_fp16_is_refused(example: TrainedExample, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 10)).eval()
    nn.init.constant_(module[1].weight, 6e4)
    with pytest.raises(ModelFileError, match=r"computes something else in float16: .* Use fp32 or int8"):
        export(TensorRtBackend(), example, "fp16", tmp_path / "out", module)
    nn.init.constant_(module[1].weight, 7e4)
    with pytest.raises(ModelFileError, match=r"holds values beyond 65504"):
        export(TensorRtBackend(), example, "fp16", tmp_path / "out", module)
    assert not list((tmp_path / "out").iterdir())


def small_model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    shapes = {"input": [1, 1, 4, 4], "output": [1, 1, 8, 8]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sizes_stay_and_constants_of_nodes_become_float16(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Resize", ["input", "", "scales"], ["large"], "resize", mode="nearest"),
        helper.make_node("Constant", [], ["half"], "half", value_float=0.5),
        helper.make_node("Mul", ["large", "half"], ["less"], "mul"),
        helper.make_node("Cast", ["less"], ["whole"], "cast", to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["back"], "back", to=TensorProto.FLOAT),
        helper.make_node("Add", ["back", "one"], ["output"], "add"),
    ]
    scales = np.array([1, 1, 2, 2], dtype=np.float32)
    model = small_model(nodes, {"scales": scales, "one": np.ones(1, dtype=np.float32)})
    half = to_half(model)
    assert {name: array.dtype.name for name, array in values_of(half).items()} == {
        "scales": "float32",
        "one": "float16",
    }
    image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    save_onnx(model, tmp_path / "float.onnx")
    save_onnx(half, tmp_path / "half.onnx")
    expected = run_file(tmp_path / "float.onnx", [image])[0]
    assert np.ptp(expected) > 1
    np.testing.assert_array_equal(run_file(tmp_path / "half.onnx", [image])[0], expected)


def test_a_network_with_a_graph_inside_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["y"])], "b", [], [onnx.ValueInfoProto(name="y")]
    )
    node = helper.make_node("If", ["which"], ["output"], "choice", then_branch=branch, else_branch=branch)
    with pytest.raises(ModelFileError, match=r"node 'choice' \(If\) holds a graph"):
        to_half(small_model([node], {"which": np.array(True)}))


def test_changes_of_layout_belong_to_no_block(example: TrainedExample) -> None:
    backend = TensorRtBackend()
    layer = example.graph.layers[1]
    fused = KernelTime(f"{layer.name} + {example.graph.layers[2].name}", "CaskConvolution", 1.0, (), (layer.name,))
    assert backend.kernel_block(fused, example.graph) == layer.block
    moved = KernelTime("Reformatting CopyNode", "Reformat", 1.0, (layer.name,))
    assert backend.kernel_block(moved, example.graph) is None


@pytest.mark.parametrize("runtime", [TENSORRT_RUNTIME, RTX_RUNTIME], ids=lambda runtime: runtime.name)
def test_a_device_without_the_package_names_the_line_that_installs_it(
    runtime: object, example: TrainedExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = runtime.name  # type: ignore[attr-defined]
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "no environments"))
    line = {"tensorrt": "pip install tensorrt", "tensorrt_rtx": "pip install tensorrt-rtx-cu13"}[name]
    files = TensorRtBackend().build_network(example.graph, "fp32", tmp_path)
    with (
        open_session(Device("local")) as session,
        pytest.raises(MissingRuntimeError, match=rf"is not installed here\. Install it with: {line}$"),
    ):
        session.load(files, Target("local", name, "fp32"))


def test_a_capability_of_another_form_is_an_error() -> None:
    for wrong in ("8.6", "ampere", "sm", "SM_86"):
        with pytest.raises(ConfigError, match="must be a compute capability such as 'sm86'"):
            TensorRtRtxBackend(capability=wrong)


@environment
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_engines_are_built_ahead_of_time(example: TrainedExample, precision: str, tmp_path: Path) -> None:
    backend = TensorRtRtxBackend(capability="SM86")
    files = export(backend, example, precision, tmp_path)
    assert [path.name for path in files.all] == ["model.onnx", "engine-sm86.rtx"]
    other = backend.build_engine(files.main, "sm120", tmp_path, precision)
    assert other == ModelFiles(tmp_path / "engine-sm120.rtx")
    engines = json.loads((tmp_path / "export.json").read_text())["engines"]
    for capability in ("sm86", "sm120"):
        path = tmp_path / f"engine-{capability}.rtx"
        assert path.read_bytes()[1:4] == b"trt"
        entry = engines[capability]
        assert (entry["size_bytes"], entry["precision"]) == (path.stat().st_size, precision)
        assert entry["builder"] == "tensorrt-rtx 1.7.1.116"
    assert (tmp_path / "engine-sm86.rtx").read_bytes() != other.main.read_bytes()


@environment
@pytest.mark.timeout(900)
def test_built_networks_become_engines_too(example: TrainedExample, resnet_graph: LayerGraph, tmp_path: Path) -> None:
    backend = TensorRtRtxBackend()
    for name, graph in (("example", example.graph), ("resnet", resnet_graph)):
        for precision in PRECISIONS:
            folder = tmp_path / name / precision
            files = backend.build_network(graph, precision, folder)
            assert backend.build_engine(files.main, "sm89", folder, precision).size_bytes > 10_000


@environment
@pytest.mark.timeout(900)
def test_turing_wants_fp16(example: TrainedExample, tmp_path: Path) -> None:
    backend = TensorRtRtxBackend(capability="sm75")
    for precision in ("fp32", "int8"):
        with pytest.raises(
            ConfigError, match=rf"for sm75 in {precision}: FP32 GEMM is not supported.*Export it in fp16"
        ):
            export(backend, example, precision, tmp_path / precision)
        assert not list((tmp_path / precision).iterdir())
    assert export(backend, example, "fp16", tmp_path / "fp16").extra[0].stat().st_size > 10_000


@environment
@pytest.mark.timeout(900)
def test_a_capability_it_does_not_build_for_is_an_error(example: TrainedExample, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'sm90' is none that tensorrt-rtx [\d.]+ builds for: sm75, sm80, sm86, .*sm120"
    ):
        export(TensorRtRtxBackend(capability="sm90"), example, "fp16", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@environment
@pytest.mark.timeout(900)
def test_a_file_it_cannot_read_is_an_error(example: TrainedExample, tmp_path: Path) -> None:
    files = export(OnnxRuntimeBackend(), example, "int8", tmp_path)
    with pytest.raises(ModelFileError, match=r"TensorRT cannot read the ONNX file: .*Int32"):
        TensorRtRtxBackend().build_engine(files.main, "sm86", tmp_path / "out", "int8")
    with pytest.raises(ModelFileError, match=r"absent\.onnx does not exist"):
        TensorRtRtxBackend().build_engine(tmp_path / "absent.onnx", "sm86", tmp_path / "out", "int8")
    assert not list((tmp_path / "out").iterdir())


@environment
@pytest.mark.timeout(900)
def test_a_machine_without_a_driver_says_so(example: TrainedExample, tmp_path: Path) -> None:
    """Where there is a GPU the engine runs instead."""
    install(TensorRtRtxBackend.recipe)
    files = TensorRtRtxBackend().build_network(example.graph, "fp32", tmp_path)
    target = Target("local", "tensorrt_rtx", "fp32")
    with open_session(Device("local")) as session:
        assert session.hello().runtimes["tensorrt_rtx"].available
        if has_gpu():
            assert session.load(files, target).precision == "fp32"
        else:
            with pytest.raises(MeasurementFailure, match=r"load_failed: .*NVIDIA driver"):
                session.load(files, target)
        assert session.restarts == 0


@environment
@pytest.mark.timeout(900)
def test_the_device_side_builds_for_the_gpus_the_runtime_names(example: TrainedExample, tmp_path: Path) -> None:
    """The agent's own code with the real package, as far as it goes without a GPU."""
    install(TensorRtRtxBackend.recipe)
    (packages,) = TensorRtRtxBackend.recipe.folder.glob("lib/python*/site-packages")
    model = TensorRtRtxBackend().build_network(example.graph, "int8", tmp_path).main
    code = """
import sys
sys.path += sys.argv[1:3]
import tensorrt_rtx as trt
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.tensorrt_rtx import RUNTIME
from hwnas_profilers.tensorrt_build import build, make_logger
model = open(sys.argv[3], "rb").read()
first = build(trt, model, RUNTIME.capability(trt, "NVIDIA GeForce RTX 3080", "sm86"))
again = build(trt, model, "sm86", first.timing)
assert first.engine == again.engine and len(first.engine) > 10_000 and first.timing
logger = make_logger(trt)
if trt.Runtime(logger).deserialize_cuda_engine(first.engine) is None:
    assert logger.errors, "it says nothing"
try:
    RUNTIME.capability(trt, "NVIDIA H200", "sm90")
except Failure as failure:
    print(failure)
"""
    folder = str(Path(hwnas_profilers.__path__[0]).parent)
    ran = subprocess.run(
        [sys.executable, "-c", code, folder, str(packages), str(model)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "does not build for NVIDIA H200 (sm90), only for sm75, sm80, sm86" in ran.stdout

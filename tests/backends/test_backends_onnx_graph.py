from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hwnas.backends.onnx_files import save_onnx
from hwnas.backends.onnx_graph import build_fp32
from hwnas.backends.onnx_qdq import build_int8, place
from hwnas.backends.onnxruntime import OnnxRuntimeBackend, quantise_file, run_file
from hwnas.backends.synthetic import Range, WeightPool, float_weights, int8_weights
from hwnas.backends.torch_graph import GraphModule
from hwnas.errors import ModelFileError
from hwnas.spaces.graph import LayerGraph
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.static import build_network, folded_weights
from hwnas.testing.trained import TrainedExample


def optimised_ops(path: Path) -> Counter[str]:
    """Operations of the graph that ONNX Runtime really runs."""
    written = path.with_suffix(".optimised.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(written)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(written).graph.node)


def relative(reference: np.ndarray, found: np.ndarray) -> float:
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def test_random_architectures_compute_what_torch_computes(space: MobileNetV3Space, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((2, 1, 16, 16), dtype=np.float32)
    for index, encoding in enumerate(space.sample(np.random.default_rng(1), 4)):
        architecture = space.decode(encoding)
        module = build_network(space, architecture, seed=index).eval()
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.3, 2.0, generator=torch.Generator().manual_seed(index))
        model = build_fp32(space.graph(architecture), batch=2, weights=folded_weights(module))
        onnx.checker.check_model(model, full_check=True)
        save_onnx(model, tmp_path / "model.onnx")
        with torch.no_grad():
            reference = module(torch.from_numpy(images)).numpy()
        assert relative(reference, run_file(tmp_path / "model.onnx", [images])[0]) < 1e-5


def test_other_operations_compute_what_torch_computes(resnet_graph: LayerGraph, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32)
    save_onnx(build_fp32(resnet_graph, batch=3, seed=5), tmp_path / "model.onnx")
    reference = GraphModule(resnet_graph, seed=5)(torch.from_numpy(images)).numpy()
    assert relative(reference, run_file(tmp_path / "model.onnx", [images])[0]) < 1e-5


def test_tensors_are_named_after_layers(random_graphs: list[LayerGraph]) -> None:
    for graph in random_graphs:
        model = build_fp32(graph)
        produced = {name for node in model.graph.node for name in node.output}
        assert produced == {layer.name for layer in graph.layers[1:-1]} | {"output"}
        assert [value.name for value in model.graph.input] == ["input"]
        assert {node.name for node in model.graph.node} == {layer.name for layer in graph.layers[1:]}


def test_activations_of_random_weights_neither_vanish_nor_explode(
    random_graphs: list[LayerGraph], tmp_path: Path
) -> None:
    image = np.random.default_rng(0).standard_normal((1, 1, 16, 16), dtype=np.float32)
    for graph in random_graphs:
        save_onnx(build_fp32(graph), tmp_path / "model.onnx")
        size = np.abs(run_file(tmp_path / "model.onnx", [image])[0]).mean()
        assert 1e-3 < size < 1e4


def test_weights_of_another_layer_or_shape_are_an_error(example: TrainedExample) -> None:
    weights = folded_weights(example.module)
    name = example.graph.layers[1].name
    weight, bias = weights[name]
    wrong: list[tuple[tuple[np.ndarray, np.ndarray | None], str]] = [
        ((weight[:1], bias), rf"weight of layer '{name}' has shape"),
        ((weight, None), "bias=True in the graph, but bias=False given"),
        ((weight, np.zeros(1)), rf"bias of layer '{name}' has shape \(1,\)"),
    ]
    for entry, message in wrong:
        for build in (build_fp32, build_int8):
            with pytest.raises(ModelFileError, match=message):
                build(example.graph, weights={**weights, name: entry})
    with pytest.raises(ModelFileError, match=rf"weights of layer '{name}' are missing"):
        build_fp32(example.graph, weights={key: value for key, value in weights.items() if key != name})


def test_int8_runs_the_same_kernels_as_the_real_quantiser_makes(space: MobileNetV3Space, tmp_path: Path) -> None:
    backend = OnnxRuntimeBackend()
    images = np.random.default_rng(0).standard_normal((4, 1, 16, 16), dtype=np.float32)
    for index, encoding in enumerate(space.sample(np.random.default_rng(2), 3)):
        architecture = space.decode(encoding)
        module = build_network(space, architecture, seed=index).eval()
        for precision in ("fp32", "int8"):
            folder = tmp_path / f"{index}-{precision}"
            real = backend.export(module, torch.from_numpy(images), precision, folder, calibration=images)
            direct = backend.build_network(space.graph(architecture), precision, folder / "direct")
            assert optimised_ops(direct.main) == optimised_ops(real.main)


def test_int8_of_other_operations_runs_the_same_kernels(resnet_graph: LayerGraph, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16), dtype=np.float32)
    save_onnx(build_fp32(resnet_graph), tmp_path / "float.onnx")
    quantise_file(tmp_path / "float.onnx", tmp_path / "real.onnx", images)
    save_onnx(build_int8(resnet_graph), tmp_path / "direct.onnx")
    found = optimised_ops(tmp_path / "direct.onnx")
    assert found == optimised_ops(tmp_path / "real.onnx")
    assert found["QLinearConv"] == 3


def test_a_relu_vanishes_only_if_nothing_else_reads_its_input(resnet_graph: LayerGraph) -> None:
    placement = place(resnet_graph)
    assert placement.removed == {"stem.act": "stem.conv", "body.out": "body.add"}
    assert "body.a" in placement.quantised
    assert "stem.conv" not in placement.quantised


def test_bias_scale_is_input_scale_times_weight_scale(example: TrainedExample) -> None:
    model = build_int8(example.graph)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    checked = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 3:
            source, weight, bias = (producers[name] for name in node.input)
            scales = [values[entry.input[1]] for entry in (source, weight, bias)]
            np.testing.assert_array_equal(scales[2], scales[0] * scales[1])
            assert values[bias.input[0]].dtype == np.int32
            checked += 1
    assert checked == sum(layer.bias and bool(layer.weight_shape) for layer in example.graph.layers)


def test_given_weights_are_quantised_to_the_nearest_step(example: TrainedExample) -> None:
    weights = folded_weights(example.module)
    for layer in example.graph.layers:
        if layer.weight_shape:
            found = int8_weights(layer, WeightPool(0), weights)
            scale = found.scale.reshape(-1, *[1] * (len(layer.weight_shape) - 1))
            assert np.all(np.abs(found.steps * scale - weights[layer.name][0]) <= 0.5001 * scale)


def test_random_weights_are_scaled_alike_in_float_and_int8(example: TrainedExample) -> None:
    layer = max(example.graph.layers, key=lambda entry: entry.parameters)
    weight, _ = float_weights(layer, WeightPool(0), None)
    found = int8_weights(layer, WeightPool(0), None)
    assert (found.steps * found.scale[0]).std() == pytest.approx(weight.std(), rel=0.05)
    assert len(np.unique(weight[0])) > 0.9 * weight[0].size


def test_a_range_expresses_zero_exactly() -> None:
    for low, high in ((0.0, 6.0), (-0.375, 6.0), (-3.0, 3.0)):
        found = Range.of(low, high)
        assert 0 <= found.zero_point <= 255
        assert found.low == pytest.approx(low, abs=found.scale)
        assert found.high == pytest.approx(high, abs=found.scale)
        assert (0.0 - found.low) / found.scale == pytest.approx(found.zero_point, abs=1e-9)

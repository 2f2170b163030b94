from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch

from hwnas.backends.onnx_graph import build_fp32, outline
from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.backends.openvino import OpenVinoBackend
from hwnas.backends.torch_graph import GraphModule
from hwnas.spaces.drafting import MOTIFS
from hwnas.spaces.graph import LayerGraph
from hwnas.spaces.synthetic import SyntheticSpace

SMALL = {"side": (6, 20), "macs": 2e7, "elements": 40_000, "parameters": 300_000, "blocks": 4}


def graphs_of(family: str) -> list[LayerGraph]:
    space = SyntheticSpace(**SMALL, families=(family,))
    return [space.graph(space.decode(row)) for row in space.sample(np.random.default_rng(3), 4)]


@pytest.mark.parametrize("family", [*MOTIFS])
def test_both_runtimes_compute_what_torch_computes(family: str, tmp_path: Path) -> None:
    for number, graph in enumerate(graphs_of(family)):
        images = np.random.default_rng(1).standard_normal((1, *graph.input_shape), dtype=np.float32)
        with torch.no_grad():
            expected = GraphModule(graph, seed=5)(torch.from_numpy(images)).numpy()
        file = OnnxRuntimeBackend().build_network(graph, "fp32", tmp_path / f"{number}-onnx", seed=5).main
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        ir = OpenVinoBackend().build_network(graph, "fp32", tmp_path / f"{number}-ir", seed=5).main
        compiled = openvino.Core().compile_model(str(ir), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for found in (session.run(None, {"input": images})[0], compiled([images])[0]):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * float(np.abs(expected).max()))


def test_an_outline_is_the_model_without_its_weights() -> None:
    graph = graphs_of("dense")[0]
    whole, bare = build_fp32(graph), outline(graph)
    assert [node.SerializeToString() for node in bare.graph.node] == [
        node.SerializeToString() for node in whole.graph.node
    ]
    shapes = [{tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer} for model in (whole, bare)]
    assert shapes[0] == shapes[1]
    assert bare.ByteSize() < 0.2 * whole.ByteSize()
    large = [tensor for tensor in bare.graph.initializer if np.prod(tensor.dims) > 64]
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in large)

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.backends.base import Backend
from hwnas.backends.naming import OVERHEAD_OPS, block_of_name
from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.backends.openvino import OpenVinoBackend
from hwnas.devices.models import KernelTime
from hwnas.devices.session import Session, open_session
from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.targets import Device, Target


@pytest.fixture(scope="module")
def session() -> Session:
    with open_session(Device("local")) as opened:
        yield opened


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend(), OpenVinoBackend()], ids=lambda backend: backend.name)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_kernels_of_random_architectures_belong_to_one_block_each(
    backend: Backend, precision: str, random_graphs: list[LayerGraph], session: Session, tmp_path: Path
) -> None:
    for index, graph in enumerate(random_graphs):
        files = backend.build_network(graph, precision, tmp_path / str(index))
        loaded = session.load(files, Target("local", backend.name, precision))
        kernels = session.kernels(loaded.handle, runs=1)
        session.unload(loaded.handle)
        found = {kernel: backend.kernel_block(kernel, graph) for kernel in kernels}
        assert {layer.block for layer in graph.layers if layer.op == "conv"} <= set(found.values())
        assert all(found[kernel] is None for kernel in kernels if kernel.op in OVERHEAD_OPS)
        lost = [kernel for kernel in kernels if found[kernel] is None and kernel.op not in OVERHEAD_OPS]
        assert lost == []


def graph_of(*names: str) -> LayerGraph:
    layers = [Layer("input", "input", (), (1, 4, 4), "stem")]
    for name in names:
        block = name.rsplit(".", 1)[0]
        layers.append(Layer(name, "relu", (layers[-1].name,), (1, 4, 4), block))
    return LayerGraph(tuple(layers))


def test_a_name_belongs_to_the_longest_layer_it_starts_with() -> None:
    graph = graph_of("stages.1.1.act", "stages.1.10.act", "head.act")
    assert block_of_name("stages.1.10.act", graph) == "stages.1.10"
    assert block_of_name("stages.1.1.act_nchwc", graph) == "stages.1.1"
    assert block_of_name("stages.1.10.act.dequantize", graph) == "stages.1.10"
    assert block_of_name("stages.1.10.bn", graph) == "stages.1.10"
    assert block_of_name("stages.1.100.act", graph) is None
    assert block_of_name("input", graph) == "stem"
    assert block_of_name("output", graph) == "head"
    assert block_of_name("", graph) is None
    assert block_of_name("reorder_token_5", graph) is None


def test_outputs_come_before_the_name_and_layout_is_overhead() -> None:
    backend, graph = OnnxRuntimeBackend(), graph_of("a.act", "b.act")
    assert backend.kernel_block(KernelTime("a.act", "Relu", 1.0, ("output",)), graph) == "b"
    assert backend.kernel_block(KernelTime("x", "Relu", 1.0, (), ("zzz", "a.act")), graph) == "a"
    assert backend.kernel_block(KernelTime("a.act", "ReorderOutput", 1.0, ("a.act",)), graph) is None
    assert backend.kernel_block(KernelTime("Mul_3", "Mul", 1.0), graph) is None

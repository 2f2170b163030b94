from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import hwnas_profilers
from hwnas_profilers.onnx_graph import read_graph
from hwnas_profilers.protocol import Failure


def small_model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float16), "conv.weight")
    nodes = [
        helper.make_node("Cast", ["input"], ["half"], name="cast", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "conv.weight"], ["conv"], name="conv", kernel_shape=[1, 1]),
        helper.make_node("QLinearAdd", ["conv", "", "conv"], ["ö"], name="", domain="com.microsoft"),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("ö", TensorProto.FLOAT16, [1, 4, 4, 4])]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, [weight]))


def test_nodes_and_initializers_are_read_as_onnx_reads_them(tmp_path: Path) -> None:
    model = small_model()
    onnx.save(model, tmp_path / "m.onnx")
    graph = read_graph(tmp_path / "m.onnx")
    assert len(graph.nodes) == 3
    for mine, theirs in zip(graph.nodes, model.graph.node, strict=True):
        assert (mine.name, mine.op, mine.domain) == (theirs.name, theirs.op_type, theirs.domain)
        assert (list(mine.inputs), list(mine.outputs)) == (list(theirs.input), list(theirs.output))
    assert graph.initializers == {"conv.weight": TensorProto.FLOAT16}


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_refused_not_crashed_on(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.onnx"
    path.write_bytes(data)
    with pytest.raises(Failure, match="load_failed"):
        read_graph(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    data = small_model().SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) - 20])
    with pytest.raises(Failure, match="load_failed"):
        read_graph(tmp_path / "cut.onnx")


def test_the_agent_is_written_in_python_39_and_imports_nothing_of_hwnas() -> None:
    folder = Path(hwnas_profilers.__file__).parent
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.split(".")[0] == "hwnas"], path.name

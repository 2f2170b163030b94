from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from kernels_support import computed
from onnx import helper, numpy_helper

from hwnas.devices.models import KernelTime
from hwnas.errors import ConfigError, ModelFileError
from hwnas.kernels.batch import Kernel, KernelBatch
from hwnas.kernels.comparing import compare
from hwnas.kernels.executed import executed_kernels

PLAIN = '<ir_version: 8, opset_import: ["" : 17{domains}]>'


def write(
    folder: Path, inputs: str, body: str, output: str = "float[] y", *, domains: str = "", functions: str = ""
) -> Path:
    """Write a file from text; inputs called w... are constants of ones, nodes are called after what they make."""
    head = PLAIN.replace("{domains}", domains)
    model = onnx.parser.parse_model(f"{head} g ({inputs}) => ({output}) {{ {body} }} {functions}")
    for value in [value for value in model.graph.input if value.name.startswith("w")]:
        kind = value.type.tensor_type
        sides = [side.dim_value for side in kind.shape.dim]
        ones = np.ones(sides, dtype=helper.tensor_dtype_to_np_dtype(kind.elem_type))
        model.graph.initializer.append(numpy_helper.from_array(ones, value.name))
        model.graph.input.remove(value)
    for node in model.graph.node:
        node.name = node.name or node.output[0]
    kind = model.graph.output[0].type.tensor_type
    kind.ClearField("shape")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("inputs", "body", "output", "kind", "macs"),
    [
        ("uint8[1,16,8,8] x, uint8[16,16,3,3] w", "y=ConvInteger(x,w)", "int32[] y", "conv", 16 * 16 * 9 * 36),
        ("uint8[4,16] x, uint8[16,8] w", "y=MatMulInteger(x,w)", "int32[] y", "linear", 4 * 16 * 8),
        (
            "uint8[1,16,8,8] x, float ws, uint8 wz, uint8[16,16,3,3] w",
            "y=QLinearConv(x,ws,wz,w,ws,wz,ws,wz)",
            "uint8[] y",
            "conv",
            16 * 16 * 9 * 36,
        ),
        (
            "uint8[4,16] x, float ws, uint8 wz, uint8[16,8] w",
            "y=QLinearMatMul(x,ws,wz,w,ws,wz,ws,wz)",
            "uint8[] y",
            "linear",
            4 * 16 * 8,
        ),
        ("float[1,16,8,8] x, float[16,16,3,3] k", "y=Conv(x,k)", "float[] y", "conv", 16 * 16 * 9 * 36),
        ("float[1,16,4,4] x, float[16,8,2,2] w", "y=ConvTranspose(x,w)", "float[] y", "conv", 16 * 8 * 4 * 16),
        ("float[16,4] x, float[16,8] w", "y=Gemm<transA=1>(x,w)", "float[] y", "linear", 4 * 16 * 8),
        ("float[4,16] x, float[8,16] w", "y=Gemm<transB=1>(x,w)", "float[] y", "linear", 4 * 16 * 8),
        ("float[16,4] x, float[8,16] w", "y=MatMul(w,x)", "float[] y", "linear", 4 * 16 * 8),
        ("float[3,16,4] x, float[3,8,16] w", "y=MatMul(w,x)", "float[] y", "linear", 3 * 4 * 16 * 8),
        ("float[2,4,16] x, float[2,16,8] z", "y=MatMul(x,z)", "float[] y", "matmul", 2 * 4 * 16 * 8),
        ("float[4,16] x, float[8,16] w", 'y=Einsum<equation="bi,oi->bo">(x,w)', "float[] y", "other", 4 * 16 * 8),
        (
            "float[5,2,16] x, float[1,32,16] w, float[1,32,8] wr",
            "y=LSTM<hidden_size=8>(x,w,wr)",
            "float[] y",
            "other",
            5 * 2 * 32 * (16 + 8),
        ),
    ],
)
def test_multiply_accumulates(tmp_path: Path, inputs: str, body: str, output: str, kind: str, macs: float) -> None:
    path = write(tmp_path, inputs, body, output)
    for runtime in ("onnxruntime", "openvino"):
        (kernel,) = computed(path, runtime)
        assert (kernel.kind, kernel.macs) == (kind, macs)


def test_matrix_products_are_read_and_written_in_full(tmp_path: Path) -> None:
    (kernel,) = computed(write(tmp_path, "float[16,4] x, float[16,8] w", "y=Gemm<transA=1>(x,w)"), "onnxruntime")
    assert (kernel.read, kernel.written, kernel.weights, kernel.in_channels) == (64, 32, 128, 16)
    (kernel,) = computed(write(tmp_path, "float[16,4] x, float[8,16] w", "y=MatMul(w,x)"), "onnxruntime")
    assert (kernel.read, kernel.written, kernel.weights, kernel.in_channels) == (64, 32, 128, 16)


def test_results_that_are_integers_are_work(tmp_path: Path) -> None:
    path = write(tmp_path, "float[1,16,8,8] x, float[16,16,1,1] w", "a=Conv(x,w) y=ArgMax<axis=1>(a)", "int64[] y")
    assert [kernel.kind for kernel in computed(path, "onnxruntime")] == ["conv", "reduce"]


def test_functions_of_the_file_are_written_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "float[1,16,8,8] x, float[16,16,3,3] w",
        "y=local.block(x,w)",
        domains=', "local" : 1',
        functions='<domain: "local", opset_import: ["" : 17]> block (p, q) => (r) { c=Conv(p,q) r=Relu(c) }',
    )
    (kernel,) = computed(path, "onnxruntime")
    assert (kernel.kind, kernel.macs, kernel.epilogue) == ("conv", 16 * 16 * 9 * 36, 1)


BRANCHES = """y = If(c) <then_branch = t () => (float[1,16,6,6] o) { v=Conv(x,w) o=Relu(v) },
                        else_branch = e () => (float[1,16,8,8] u) { u=Sigmoid(x) }>"""


@pytest.mark.parametrize(("sides", "kind"), [("1,16,8,8", "conv"), ("2,16,8,8", "elementwise")])
def test_a_branch_that_a_shape_decides_is_taken(tmp_path: Path, sides: str, kind: str) -> None:
    body = f"s=Shape(x) i=Constant<value=int64 {{0}}>() d=Gather(s,i) u=Constant<value=int64 {{1}}>() c=Equal(d,u) {BRANCHES}"
    body = body.replace("1,16,", sides[:5])
    path = write(tmp_path, f"float[{sides}] x, float[16,16,3,3] w", body)
    (kernel,) = computed(path, "onnxruntime")
    assert kernel.kind == kind


def test_a_branch_that_an_input_decides_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "float[1,16,8,8] x, bool c, float[16,16,3,3] w", BRANCHES)
    with pytest.raises(ModelFileError, match="node 'y', an operation 'If', depends on values of the input"):
        computed(path, "onnxruntime")


@pytest.mark.parametrize("domain", ["com.microsoft", "my.own"])
def test_operations_that_are_no_part_of_onnx_are_refused(tmp_path: Path, domain: str) -> None:
    path = write(
        tmp_path,
        "float[1,16,8,8] x, float[16,16,3,3] w",
        f"y={domain}.FusedConv(x,w)",
        domains=f', "{domain}" : 1',
    )
    with pytest.raises(ModelFileError, match=f"'FusedConv' of the domain '{domain}'.*standard operations"):
        computed(path, "onnxruntime")


def test_shapes_that_are_stored_in_another_file(tmp_path: Path) -> None:
    path = write(tmp_path, "float[1,16,8,8] x", "i=Reshape(x,s) y=Relu(i)".replace("s)", "ws)"), "float[] y")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([16, 64]), "ws"))
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    (kernel,) = computed(path, "onnxruntime")
    assert (kernel.kind, kernel.read) == ("elementwise", 1024)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match=r"weights\.bin"):
        computed(path, "onnxruntime")


def test_nodes_are_no_part_of_a_price() -> None:
    kernel = Kernel.conv((3, 4), (64, 64), 9, name="a")
    batch = KernelBatch.of([[kernel], [replace(kernel, nodes=("a", "b"))]])
    assert (batch.values[0] == batch.values[1]).all()


def made(*nodes: str, kind: str = "add") -> Kernel:
    return Kernel(kind=kind, read=1, written=1, nodes=nodes)


def ran(op: str, *names: str) -> KernelTime:
    return KernelTime(op, op, 0.0, (), names)


def test_a_comparison_names_what_differs(tmp_path: Path) -> None:
    path = write(tmp_path, "float[1,16,8,8] x", "a=Relu(x) b=Exp(a) c=Sigmoid(b) y=Sqrt(c)")
    same = compare([made("a", "b"), made("c", "y")], [ran("P", "b", "a"), ran("Reorder"), ran("Q", "y")], path)
    assert same.same
    assert (same.equal, same.unnamed, same.overheads) == (2, 0, {"Reorder": 1})
    other = compare([made("a", "b"), made("c", "y")], [ran("P", "a"), ran("Q", "b", "c", "y")], path)
    assert not other.same
    assert other.only_predicted == (("a", "b"), ("c", "y"))
    assert other.only_executed == (("P", "a"), ("Q", "b", "c", "y"))
    missing = compare([made("a"), made("b"), made("c", "y")], [ran("P", "a"), ran("Q", "y")], path)
    assert (missing.same, missing.only_predicted) == (False, ((),))
    unknown = compare([made("a", "b", "c", "y")], [ran("P", "y"), ran("Strange")], path)
    assert (unknown.same, unknown.only_executed) == (False, (("Strange",),))


def test_kernels_without_names_are_pieces_of_others(tmp_path: Path) -> None:
    path = write(tmp_path, "float[1,16,8,8] x", "a=Relu(x) y=Exp(a)")
    pieces = compare([made("a"), made("y"), made("y")], [ran("P", "a"), ran("Q", "y"), ran("R")], path)
    assert (pieces.same, pieces.equal, pieces.unnamed) == (True, 3, 1)
    assert not compare([made("a"), made("y"), made("y")], [ran("P", "a"), ran("Q", "y")], path).same


def test_only_known_runtimes_are_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: onnxruntime, openvino"):
        executed_kernels(tmp_path / "model.onnx", "tensorrt")

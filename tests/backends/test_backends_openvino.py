from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.backends._openvino import import_openvino
from hwnas.backends.openvino import OpenVinoBackend, read_model, run_file
from hwnas.backends.openvino_graph import build_model, quantised_layers
from hwnas.backends.torch_graph import GraphModule
from hwnas.errors import ModelFileError
from hwnas.spaces.graph import LayerGraph
from hwnas.testing.trained import TrainedExample


def executed(path: Path) -> Counter[tuple[str, str]]:
    """Kernels of the graph that OpenVINO really runs: (layer type, primitive)."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = import_openvino().compile_model(read_model(path), "CPU", settings)
    kernels: Counter[tuple[str, str]] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = str(info["layerType"].astype(str))
        if kind not in ("Const", "Input", "Output"):
            kernels[kind, str(info["primitiveType"].astype(str))] += 1
    return kernels


def compute_kernels(kernels: Counter[tuple[str, str]]) -> int:
    return sum(count for (kind, _), count in kernels.items() if kind in ("Convolution", "FullyConnected"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_built_network_runs_the_kernels_of_the_exported_one(
    example: TrainedExample, tmp_path: Path, precision: str
) -> None:
    backend = OpenVinoBackend()
    images = torch.from_numpy(example.images[:4])
    real = backend.export(example.module, images, precision, tmp_path / "real", calibration=example.calibration[:16])
    direct = backend.build_network(example.graph, precision, tmp_path / "direct")
    found = executed(direct.main)
    assert found == executed(real.main)
    assert compute_kernels(found) == sum(bool(layer.weight_shape) for layer in example.graph.layers)
    if precision == "int8":
        floating = [kind for kind in found if kind[0] == "Convolution" and not kind[1].endswith("8")]
        assert floating == []


def test_other_operations_compute_what_torch_computes(resnet_graph: LayerGraph, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32)
    files = OpenVinoBackend().build_network(resnet_graph, "fp32", tmp_path, batch=3, seed=5)
    reference = GraphModule(resnet_graph, seed=5)(torch.from_numpy(images)).numpy()
    found = run_file(files.main, [images])[0]
    assert np.linalg.norm(found - reference) / np.linalg.norm(reference) < 1e-5


def test_quantisation_stands_where_nncf_puts_it(resnet_graph: LayerGraph) -> None:
    assert quantised_layers(resnet_graph) == {
        "input",
        "stem.act",
        "stem.pool",
        "body.a",
        "body.act",
        "body.b",
        "body.out",
        "head.pool",
        "head.flatten",
    }
    nodes = build_model(resnet_graph, "int8").get_ordered_ops()
    names = {node.get_friendly_name() for node in nodes if node.get_type_name() == "FakeQuantize"}
    # pooling and flattening pass on what their input was quantised to
    assert names == {f"{name}/fq_output_0" for name in quantised_layers(resnet_graph) - {"stem.pool", "head.flatten"}}


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_file_that_is_no_model_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"<?xml this is not a model")
    with pytest.raises(ModelFileError, match=f"{name} is not a model OpenVINO can read"):
        read_model(path)


def test_nothing_is_sent_and_nothing_is_written_at_home(tmp_path: Path) -> None:
    program = (
        "import sys; from hwnas.backends._openvino import import_nncf; import_nncf(); "
        "assert sys.modules['openvino_telemetry'] is None; "
        "from openvino.tools.ovc.telemetry_utils import tm; assert 'telemetry_stub' in tm.__name__, tm"
    )
    environment = {"HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "intel").exists()

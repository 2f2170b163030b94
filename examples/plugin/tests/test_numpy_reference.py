"""The runtime keeps hwnas's contract for backends, and computes every operation that a layer graph may hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas_example import numpy_reference
from hwnas_example.backend import NumpyReferenceBackend, run_file
from torch import nn

from hwnas import registry
from hwnas.backends.onnx_export import Exporter, export_onnx
from hwnas.backends.torch_graph import GraphModule
from hwnas.errors import MeasurementFailure, ModelFileError
from hwnas.spaces.graph import OPS, Layer, LayerGraph
from hwnas.spaces.synthetic import SyntheticSpace
from hwnas.targets import Target
from hwnas.testing.backends import ComputingBackendContract
from hwnas.testing.trained import trained_example
from hwnas_profilers.protocol import Failure

torch.set_num_threads(1)


class TestNumpyReference(ComputingBackendContract):
    """The contract, and what this runtime refuses."""

    backend_type = NumpyReferenceBackend

    def test_two_threads_are_refused(self, backend: Any, example: Any, session: Any, tmp_path: Path) -> None:
        """What would run on one thread is not called a run on two."""
        files = backend.build_network(example.graph, "fp32", tmp_path)
        with pytest.raises(MeasurementFailure, match=r"runs fp32 on one thread|cores are allowed"):
            session.load(files, Target("local", "numpy_reference", "fp32", threads=2))

    def test_an_operation_it_has_not_is_named(self, backend: Any, tmp_path: Path) -> None:
        """A module of other operations is refused, and nothing is written."""
        with pytest.raises(ModelFileError, match="numpy_reference cannot run Tan"):
            backend.export(Tangent(), torch.zeros(1, 1, 4, 4), "fp32", tmp_path / "out")
        assert not list((tmp_path / "out").glob("*"))


class Tangent(nn.Module):
    """A module of an operation that no network needs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tangent."""
        return torch.tan(x)


def outputs(graph: LayerGraph, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what torch and numpy compute for one graph, random weights and a random image."""
    image = np.random.default_rng(0).standard_normal((2, *graph.input_shape), dtype=np.float32)
    with torch.no_grad():
        expected = GraphModule(graph, seed=1).eval()(torch.from_numpy(image)).numpy()
    files = NumpyReferenceBackend().build_network(graph, "fp32", folder, batch=2, seed=1)
    found = numpy_reference.Network(files.main)(image)
    assert found.dtype == np.float32
    return expected, found


def test_every_operation_of_a_layer_graph_computes_what_torch_computes(tmp_path: Path) -> None:
    """Random networks of all families; together they hold every operation."""
    space = SyntheticSpace(side=(4, 24), macs=2e7, elements=20_000, parameters=300_000, blocks=3)
    graphs = [space.graph(space.decode(row)) for row in space.sample(np.random.default_rng(0), 60)]
    for index, graph in enumerate(graphs):
        expected, found = outputs(graph, tmp_path / str(index))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert {layer.op for graph in graphs for layer in graph.layers} == set(OPS)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_files_of_both_exporters_of_torch_run(exporter: Exporter, tmp_path: Path) -> None:
    """The backend takes the first that works; the other one must as well."""
    example = trained_example()
    images = torch.from_numpy(example.images[:8])
    record = export_onnx(example.module, images, tmp_path / "model.onnx", run_file, exporter=exporter)
    assert record.exporter == exporter
    assert record.max_error < 1e-5


@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(
    ("kernel", "stride", "side", "ceil", "rounded"),
    [(3, 2, 8, False, 4), (3, 2, 8, True, 5), (2, 2, 7, False, 3), (2, 2, 7, True, 4), (3, 3, 8, True, 3)],
)
def test_pools_round_as_torch_does(
    op: str, kernel: int, stride: int, side: int, ceil: bool, rounded: int, tmp_path: Path
) -> None:
    """Padding counts in an average, what lies behind it does not; no window starts there."""
    shape = (3, rounded, rounded)
    layers = (
        Layer("input", "input", (), (3, side, side), "pool"),
        Layer("pool.pool", op, ("input",), shape, "pool", kernel=kernel, stride=stride, ceil=ceil),
    )
    expected, found = outputs(LayerGraph(layers), tmp_path)
    assert expected.shape[1:] == layers[-1].shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["model.json", "model.npz"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    """Half a file is not run."""
    graph = LayerGraph(
        (Layer("input", "input", (), (3, 4, 4), "a"), Layer("a.relu", "relu", ("input",), (3, 4, 4), "a"))
    )
    files = NumpyReferenceBackend().build_network(graph, "fp32", tmp_path)
    damaged = tmp_path / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(Failure) as refused:
        numpy_reference.Network(files.main)
    assert refused.value.kind == "load_failed"


def test_the_device_side_is_python_39_and_needs_nothing_of_hwnas() -> None:
    """A device has an old Python, numpy, and what is pushed to it."""
    ast.parse(Path(numpy_reference.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    code = "import sys, hwnas_example.numpy_reference; print({name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "'numpy'" in loaded
    assert not {"hwnas", "onnx", "torch"} & ast.literal_eval(loaded)


def test_hwnas_finds_it_by_name() -> None:
    """The package is installed, not only importable."""
    assert registry.load("backend", "numpy_reference") is NumpyReferenceBackend

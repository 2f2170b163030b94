"""Every backend makes of OFAv2's networks what torch makes of them, by both ways."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_backends_onnx_graph import optimised_ops, relative
from test_backends_openvino import executed

from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.backends.onnxruntime import run_file as run_onnx
from hwnas.backends.openvino import OpenVinoBackend
from hwnas.backends.openvino import run_file as run_openvino
from hwnas.backends.torch_graph import GraphModule
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.static import StaticNetwork, build_network, folded_weights

VARIANTS = tuple(itertools.product(("base", "dense", "parallel", "dense-parallel"), ("single", "early")))


def network_of(variant: tuple[str, str], several: bool = False) -> StaticNetwork:
    """The largest network, perhaps with several exits, on an odd side, so that pools round up."""
    stages = [{"channels": 16, "stride": 2}, {"channels": 24, "stride": 2, "se": True, "activation": "hswish"}]
    space = MobileNetV3Space(
        classes=10, in_channels=1, resolutions=[9], widths=[1.0], stem_stride=1, stages=stages, depths=[2, 3],
        head_channels=[48, 64], blocks=variant[0], exits=variant[1],
    )  # fmt: skip
    architecture = space.with_exits(space.largest) if several else space.largest
    module = build_network(space, architecture).eval().requires_grad_(False)
    biases = [parameter for name, parameter in module.named_parameters() if name.endswith("bias")]
    for tensor in (*module.buffers(), *biases):  # as after training: what is zero would be left out of a file
        if tensor.is_floating_point():
            tensor.uniform_(0.3, 2.0, generator=torch.Generator().manual_seed(0))
    return module


@pytest.mark.parametrize(
    "network",
    [(variant, several) for variant in VARIANTS for several in ([False, True] if variant[1] == "early" else [False])],
    ids=lambda network: "-".join(network[0]) + ("-several" if network[1] else ""),
)
def test_runtimes_compute_what_torch_computes(network: tuple[tuple[str, str], bool], tmp_path: Path) -> None:
    module = network_of(*network)
    images = torch.randn(3, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    reference, graph, weights = module(images).numpy(), module.space.graph(module.architecture), folded_weights(module)
    assert relative(reference, GraphModule(graph, weights=weights)(images).numpy()) < 1e-5
    for backend, run in ((OnnxRuntimeBackend(), run_onnx), (OpenVinoBackend(), run_openvino)):
        files = backend.build_network(graph, "fp32", tmp_path / backend.name, batch=3, weights=weights)
        assert relative(reference, run(files.main, [images.numpy()])[0]) < 1e-5


several_or_not = pytest.mark.parametrize("several", [False, True], ids=["one-exit", "several-exits"])


@several_or_not
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_built_network_runs_the_kernels_of_the_exported_one(precision: str, several: bool, tmp_path: Path) -> None:
    module = network_of(("dense-parallel", "early"), several)
    graph = module.space.graph(module.architecture)
    images = torch.randn(8, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    for backend, kernels in ((OnnxRuntimeBackend(), optimised_ops), (OpenVinoBackend(), executed)):
        real = backend.export(module, images, precision, tmp_path / "real", calibration=images.numpy())
        direct = backend.build_network(graph, precision, tmp_path / "direct")
        assert kernels(direct.main) == kernels(real.main)


@several_or_not
def test_exported_tensors_are_named_after_modules(several: bool, tmp_path: Path) -> None:
    module = network_of(("dense-parallel", "early"), several)
    OnnxRuntimeBackend().export(module, torch.randn(1, 1, 9, 9), "fp32", tmp_path)
    produced = {name for node in onnx.load(tmp_path / "model.onnx").graph.node for name in node.output}
    graph = module.space.graph(module.architecture)
    assert produced == {layer.name for layer in graph.layers[1:-1]} | {"output"}


def test_the_other_exporter_agrees(tmp_path: Path) -> None:
    module = network_of(("dense-parallel", "single"))
    OnnxRuntimeBackend(exporter="dynamo").export(module, torch.randn(2, 1, 9, 9), "fp32", tmp_path)
    images = np.random.default_rng(0).standard_normal((1, 1, 9, 9), dtype=np.float32)
    found = run_onnx(tmp_path / "model.onnx", [images])[0]
    assert relative(module(torch.from_numpy(images)).numpy(), found) < 1e-4

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.backends.ncnn import FILES, NcnnBackend
from hwnas.backends.torch_graph import GraphModule
from hwnas.devices.session import Session
from hwnas.errors import MeasurementFailure
from hwnas.spaces.graph import LayerGraph
from hwnas.targets import Target
from hwnas.testing.backends import ComputingBackendContract, run_images, torch_outputs, worst_relative_error
from hwnas.testing.trained import TrainedExample

pytestmark = [pytest.mark.environment, pytest.mark.timeout(1800)]

HALF_PARITY = 5e-3
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class TestNcnn(ComputingBackendContract):
    backend_type = NcnnBackend
    kernel_times = False
    batches = False

    def test_exported_fp16_is_close(self, example: TrainedExample, session: Session, tmp_path: Path) -> None:
        backend = NcnnBackend()
        files = self.export(backend, example, "fp16", tmp_path)
        loaded = self.load(session, backend, files, "fp16")
        found = run_images(session, loaded, example.images)
        reference = torch_outputs(example.module, example.images)
        assert 1e-4 < worst_relative_error(reference, found) <= HALF_PARITY
        assert np.mean(found.argmax(1) == reference.argmax(1)) >= 0.99
        assert loaded.notes[0] == "weights are stored in fp16"
        assert "ncnn computes in fp" in loaded.notes[1]

    def test_half_precision_halves_the_weights(self, example: TrainedExample, tmp_path: Path) -> None:
        sizes = {}
        for precision in ("fp32", "fp16"):
            files = NcnnBackend().build_network(example.graph, precision, tmp_path / precision)
            sizes[precision] = files.extra[0].stat().st_size
        assert 0.48 < sizes["fp16"] / sizes["fp32"] < 0.55

    def test_another_precision_is_a_fallback(self, example: TrainedExample, session: Session, tmp_path: Path) -> None:
        backend = NcnnBackend()
        for precision, other in (("fp32", "fp16"), ("fp16", "fp32"), ("fp32", "int8")):
            files = backend.build_network(example.graph, precision, tmp_path / precision)
            with pytest.raises(MeasurementFailure, match=f"fallback.*{other} was asked for"):
                self.load(session, backend, files, other)

    @pytest.mark.skipif(CORES < 2, reason="two threads need two cores, this process may use one")
    def test_threads_do_not_change_what_is_computed(
        self, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        files = self.export(NcnnBackend(), example, "fp32", tmp_path)
        reference = torch_outputs(example.module, example.images[:4])
        loaded = session.load(files, Target("local", "ncnn", "fp32", threads=2))
        assert worst_relative_error(reference, run_images(session, loaded, example.images[:4])) <= self.parity

    def test_only_what_ncnn_needs_is_left(self, example: TrainedExample, tmp_path: Path) -> None:
        """Neither the Python code that pnnx writes nor a TorchScript file."""
        self.export(NcnnBackend(), example, "fp16", tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "export.json"])
        record = json.loads((tmp_path / "export.json").read_text())
        assert record["weights"] == "fp16"
        assert record["max_error"] <= HALF_PARITY
        assert record["refused"] == {}

    def test_a_description_of_another_network_is_refused(
        self, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        backend = NcnnBackend()
        files = backend.build_network(example.graph, "fp32", tmp_path)
        described = json.loads(files.extra[1].read_text())
        described["inputs"][0]["name"] = "image"
        files.extra[1].write_text(json.dumps(described))
        with pytest.raises(MeasurementFailure, match=r"load_failed.*its model.json says \['image'\]"):
            self.load(session, backend, files, "fp32")
        described["inputs"][0]["name"] = "in0"
        described["outputs"][0]["shape"] = [1, 11]
        files.extra[1].write_text(json.dumps(described))
        with pytest.raises(MeasurementFailure, match=r"wrong_output.*\(1, 10\), not \(1, 11\)"):
            self.load(session, backend, files, "fp32")

    def test_other_networks_compute_what_torch_computes(
        self, resnet_graph: LayerGraph, session: Session, tmp_path: Path
    ) -> None:
        backend = NcnnBackend()
        module = GraphModule(resnet_graph, seed=3).eval()
        images = np.random.default_rng(0).standard_normal((4, *resnet_graph.input_shape)).astype(np.float32)
        built = backend.build_network(resnet_graph, "fp32", tmp_path / "built", seed=3)
        exported = backend.export(module, torch.from_numpy(images), "fp32", tmp_path / "exported")
        for files in (built, exported):
            loaded = self.load(session, backend, files, "fp32")
            assert worst_relative_error(torch_outputs(module, images), run_images(session, loaded, images)) <= 1e-4

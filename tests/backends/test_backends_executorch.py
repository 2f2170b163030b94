from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.backends.executorch import ExecuTorchBackend
from hwnas.backends.torch_graph import GraphModule
from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import MeasurementFailure
from hwnas.spaces.graph import LayerGraph
from hwnas.targets import Device, Target
from hwnas.testing.backends import QuantisingBackendContract, run_images, torch_outputs, worst_relative_error
from hwnas.testing.trained import TrainedExample

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

pytestmark = [pytest.mark.environment, pytest.mark.timeout(1800)]


class TestExecuTorch(QuantisingBackendContract):
    backend_type = ExecuTorchBackend
    unattributed_ops = frozenset({"_to_dim_order_copy"})  # constants of h-sigmoid, copied before XNNPACK is called


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_session(Device("local")) as opened:
        yield opened


def target(precision: str, threads: int = 1) -> Target:
    return Target("local", "executorch", precision, threads=threads)


@pytest.fixture(scope="module")
def float_files(example: TrainedExample, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    images = torch.from_numpy(example.images[:8])
    return ExecuTorchBackend().export(example.module, images, "fp32", tmp_path_factory.mktemp("fp32"))


def test_a_float_file_runs_in_float_throughout(float_files: ModelFiles, session: Session) -> None:
    record = json.loads(float_files.main.with_name("export.json").read_text())
    assert record["delegated"] == "32 of 32 compute operations run by XNNPACK"
    assert record["max_error"] <= 1e-4
    assert session.load(float_files, target("fp32")).notes[0] == "32 of 32 compute kernels run in fp32"
    with pytest.raises(MeasurementFailure, match=r"fallback.*int8 was asked for.*run in: fp32"):
        session.load(float_files, target("int8"))
    with pytest.raises(MeasurementFailure, match=r"fallback.*provider CUDA was asked for.*runs on XNNPACK"):
        session.load(float_files, target("fp32"), options={"provider": "CUDA"})


@pytest.mark.skipif(CORES < 2, reason="two threads need two cores, this process may use one")
def test_numbers_of_threads_take_turns(example: TrainedExample, float_files: ModelFiles, session: Session) -> None:
    """ExecuTorch has one pool for the whole process; XNNPACK must not be left with one that is gone."""
    images = example.images[:8]
    loaded = [session.load(float_files, target("fp32", threads)) for threads in (1, 2)] * 2
    reference = torch_outputs(example.module, images)
    for model in loaded:
        assert worst_relative_error(reference, run_images(session, model, images)) <= 1e-4
    bursts = session.burst_round([model.handle for model in loaded], BurstSpec(target_ms=5.0))
    assert [burst.failure for burst in bursts] == [None] * 4
    assert session.restarts == 0


def test_an_int8_file_of_seven_bit_weights_is_refused_as_a_float_file(
    example: TrainedExample, session: Session, tmp_path: Path
) -> None:
    images = torch.from_numpy(example.images[:8])
    files = ExecuTorchBackend().export(
        example.module, images, "int8", tmp_path, calibration=example.calibration, weight_bits=7
    )
    assert json.loads((tmp_path / "export.json").read_text())["weight_bits"] == 7
    with pytest.raises(MeasurementFailure, match=r"fallback.*fp32 was asked for.*run in: int8"):
        session.load(files, target("fp32"))
    loaded = session.load(files, target("int8"))
    assert loaded.notes[0] == "32 of 32 compute kernels run in int8"
    found = run_images(session, loaded, example.images)
    reference = torch_outputs(example.module, example.images)
    assert np.linalg.norm(found - reference) / np.linalg.norm(reference) <= 0.1
    assert np.mean(found.argmax(1) == reference.argmax(1)) >= 0.95


def test_kernels_of_another_network_are_named_too_unless_the_program_comes_alone(
    resnet_graph: LayerGraph, session: Session, tmp_path: Path
) -> None:
    module = GraphModule(resnet_graph, seed=3).eval()
    images = np.random.default_rng(0).standard_normal((4, *resnet_graph.input_shape)).astype(np.float32)
    files = ExecuTorchBackend().build_network(resnet_graph, "fp32", tmp_path, seed=3)
    loaded = session.load(files, target("fp32"))
    assert worst_relative_error(torch_outputs(module, images), run_images(session, loaded, images)) <= 1e-4
    named = {name for kernel in session.kernels(loaded.handle, runs=2) for name in kernel.outputs}
    assert {"stem.conv", "stem.pool", "body.a", "body.b", "body.add", "head.pool", "head.classifier"} <= named
    alone = session.load(ModelFiles(files.main), target("fp32"))
    assert {kernel.outputs for kernel in session.kernels(alone.handle, runs=2)} == {()}


def test_other_files_are_refused(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    restarts = session.restarts
    for data in (b"", b"hello", np.random.default_rng(0).bytes(4096), b"\0\0\0\0ET12" + bytes(64)):
        path.write_bytes(data)
        with pytest.raises(MeasurementFailure, match="load_failed"):
            session.load(ModelFiles(path), target("fp32"))
    assert session.restarts == restarts

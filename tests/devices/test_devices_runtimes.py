"""Real sessions with ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import write_simulated  # type: ignore[import-not-found]
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hwnas.devices.fingerprint import target_fingerprint
from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import DeviceError, MeasurementFailure, MissingRuntimeError
from hwnas.targets import Device, Target

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
Nets = dict[str, ModelFiles]
Image = dict[str, NDArray[np.float32]]
RUNTIMES = ("onnxruntime", "openvino")
ORT, OPENVINO = (Target.parse(f"local/{name}-fp32") for name in RUNTIMES)
SHORT = BurstSpec(target_ms=2.0, min_runs=3, discard=1)


def target(runtime: str, precision: str) -> Target:
    return Target("local", runtime, precision)


def test_the_machine_and_its_runtimes_are_described(local: Session) -> None:
    info = local.hello()
    assert info.identity["cpu_model"]
    assert info.identity["cpu_model"] != "simulated"
    assert all(info.runtimes[name].available and info.runtimes[name].version for name in (*RUNTIMES, "simulated"))
    assert info.runtimes["onnxruntime"].install == "pip install onnxruntime"
    assert local.worker_pid > 0


def test_both_runtimes_compute_the_same_and_what_numpy_expects_of_the_head(
    local: Session, nets: Nets, image: Image
) -> None:
    found = {}
    for runtime in RUNTIMES:
        model = local.load(nets["fp32"], target(runtime, "fp32"))
        assert (model.inputs[0].name, model.inputs[0].shape, model.inputs[0].dtype) == (
            "input",
            (1, 3, 24, 24),
            "float32",
        )
        assert (model.outputs[0].name, model.outputs[0].shape) == ("output", (1, 10))
        found[runtime] = local.run(model.handle, image)["output"]
    np.testing.assert_allclose(found["onnxruntime"], found["openvino"], rtol=1e-4, atol=1e-5)
    assert np.ptp(found["onnxruntime"]) > 0.01


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_really_runs_quantised_and_stays_near_fp32(local: Session, nets: Nets, image: Image, runtime: str) -> None:
    exact = local.load(nets["fp32"], target(runtime, "fp32"))
    model = local.load(nets["int8"], target(runtime, "int8"))
    assert model.precision == "int8"
    assert "4 of 4 compute" in model.notes[0]
    difference = local.run(model.handle, image)["output"] - local.run(exact.handle, image)["output"]
    assert 0.0 < np.abs(difference).max() < 0.25


def test_what_really_runs_is_reported(local: Session, nets: Nets) -> None:
    model = local.load(nets["fp32"], ORT)
    assert (model.provider, model.device, model.precision) == ("CPUExecutionProvider", "CPU", "fp32")
    assert model.load_ms > 0.0
    assert model.first_run_ms > 0.0
    assert model.peak_memory_bytes is None or model.peak_memory_bytes >= 0
    model = local.load(nets["fp32"], OPENVINO)
    assert (model.provider, model.device, model.precision) == ("OpenVINO CPU", "CPU", "fp32")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_of_another_precision_is_refused(local: Session, nets: Nets, runtime: str) -> None:
    for written, asked in (("fp32", "int8"), ("int8", "fp32")):
        with pytest.raises(MeasurementFailure) as caught:
            local.load(nets[written], target(runtime, asked))
        assert caught.value.kind == "fallback"
        assert asked in caught.value.detail


def test_a_provider_device_precision_or_core_that_is_not_there_is_refused(local: Session, nets: Nets) -> None:
    attempts = [
        (ORT, {"provider": "CUDAExecutionProvider"}),
        (ORT, {"provider": "NoSuchExecutionProvider"}),
        (OPENVINO, {"device": "NPU"}),
        (target("onnxruntime", "fp16"), {}),
        (Target("local", "onnxruntime", "fp32", threads=4096), {}),
    ]
    for asked, options in attempts:
        with pytest.raises(MeasurementFailure) as caught:
            local.load(nets["fp32"], asked, options=options)
        assert caught.value.kind == "fallback", asked
    assert local.restarts == 0


def test_ort_kernels_cover_every_node_once(local: Session, nets: Nets) -> None:
    for precision in ("fp32", "int8"):
        kernels = local.kernels(local.load(nets[precision], target("onnxruntime", precision)).handle, runs=5)
        assert sum(kernel.ms for kernel in kernels) > 0.0
        fused = [name for kernel in kernels for name in kernel.fused]
        assert len(fused) == len(set(fused))
        written = {node.name for node in onnx.load(nets[precision].main).graph.node}
        constant = {name for name in written if name.endswith((".weight", ".bias"))}
        assert set(fused) | constant == written
        assert {"stem.relu", "block.depth.relu", "pool", "output"} <= {
            name for kernel in kernels for name in kernel.outputs
        }


def test_ort_says_what_it_fused(local: Session, nets: Nets) -> None:
    kernels = local.kernels(local.load(nets["fp32"], ORT).handle, runs=3)
    stem = next(kernel for kernel in kernels if "stem.relu" in kernel.outputs)
    assert set(stem.fused) == {"stem", "stem.relu"}
    assert stem.outputs[0] == "stem.relu"
    residual = next(kernel for kernel in kernels if "block.add" in kernel.outputs)
    pool = next(kernel for kernel in kernels if kernel.op == "GlobalAveragePool")
    assert "block.add" in residual.fused
    assert pool.fused == ("pool",)


def test_openvino_kernels_name_the_layers_and_what_they_fused(local: Session, nets: Nets) -> None:
    for precision in ("fp32", "int8"):
        kernels = local.kernels(local.load(nets[precision], target("openvino", precision)).handle, runs=5)
        assert sum(kernel.ms for kernel in kernels) > 0.0
        produced = {name for kernel in kernels for name in kernel.outputs}
        assert {"stem", "block.depth", "block.point", "block.add", "pool", "output"} <= produced
        convolutions = [kernel for kernel in kernels if kernel.op == "Convolution"]
        assert [kernel.outputs[-1] for kernel in convolutions] == ["stem", "block.depth", "block.point"]
        assert any("block.add" in kernel.fused for kernel in convolutions)


def test_a_round_times_every_model_in_the_order_given(local: Session, nets: Nets) -> None:
    small = local.load(nets["fp32"], ORT).handle
    large = local.load(nets["large"], ORT).handle
    other = local.load(nets["fp32"], OPENVINO).handle
    with local.exclusive():
        bursts = local.burst_round([large, small, other, small], SHORT)
    assert [burst.handle for burst in bursts] == [large, small, other, small]
    assert all(burst.failure is None and len(burst.samples) >= 3 for burst in bursts)
    assert [burst.started_s for burst in bursts] == sorted(burst.started_s for burst in bursts)
    assert bursts[0].samples.min() > bursts[1].samples.min() > 0.0  # 64 times the work of its pointwise layers


def masks_during(session: Session, handle: str) -> Counter[tuple[int, ...]]:
    """Count which cores the worker's thread may use while a burst runs."""
    seen: Counter[tuple[int, ...]] = Counter()
    with ThreadPoolExecutor(1) as pool:
        burst = pool.submit(session.burst_round, [handle], BurstSpec(target_ms=300.0, max_runs=10**6))
        while not burst.done():
            seen[tuple(sorted(os.sched_getaffinity(session.worker_pid)))] += 1
            time.sleep(0.002)
    assert burst.result()[0].failure is None
    return seen


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no thread affinity")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_thread_stays_on_one_core_and_two_get_two(nets: Nets, runtime: str) -> None:
    allowed = tuple(sorted(os.sched_getaffinity(0)))
    if len(allowed) < 2:
        pytest.skip("needs two cores")
    with open_session(Device("local")) as session:  # fresh: a runtime remembers the cores it saw first
        files = nets["large"]
        handles = {n: session.load(files, Target("local", runtime, "fp32", threads=n)).handle for n in (1, 2)}
        # OpenVINO pins only inside each inference, so between two of them all cores are seen
        assert len([mask for mask in masks_during(session, handles[1]) if len(mask) == 1]) == 1
        with_two = masks_during(session, handles[2])
        tasks = [int(task.name) for task in Path(f"/proc/{session.worker_pid}/task").iterdir()]
        reached = set().union(*with_two, *(os.sched_getaffinity(task) for task in tasks))
        assert len(reached) >= 2


def test_an_open_batch_gets_the_targets_size(local: Session, nets: Nets) -> None:
    for runtime in RUNTIMES:
        model = local.load(nets["open"], Target("local", runtime, "fp32", batch=3))
        assert model.inputs[0].shape == (3, 3, 24, 24)
        outputs = local.run(model.handle, {"input": np.zeros((3, 3, 24, 24), np.float32)})
        assert outputs["output"].shape == (3, 10)


def test_a_fixed_batch_of_another_size_is_refused(local: Session, nets: Nets) -> None:
    for runtime in RUNTIMES:
        with pytest.raises(MeasurementFailure) as caught:
            local.load(nets["fp32"], Target("local", runtime, "fp32", batch=4))
        assert caught.value.kind == "load_failed"
        assert "batch" in caught.value.detail


def test_inputs_that_do_not_fit_are_refused(local: Session, nets: Nets, image: Image) -> None:
    handle = local.load(nets["fp32"], ORT).handle
    for wrong in ({"input": image["input"][:, :, :8]}, {"other": image["input"]}, {}):
        with pytest.raises(MeasurementFailure) as caught:
            local.run(handle, wrong)
        assert caught.value.kind == "wrong_output"


def test_files_that_are_no_models_are_failures_of_their_kind(local: Session, tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"not a model")
    node = helper.make_node("NoSuchOperator", ["input"], ["output"], name="odd")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("input", "output")]
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "odd.onnx"
    )
    for runtime in RUNTIMES:
        for name, kind in (("garbage.onnx", "load_failed"), ("odd.onnx", "unsupported_op")):
            with pytest.raises(MeasurementFailure) as caught:
                local.load(ModelFiles(tmp_path / name), target(runtime, "fp32"))
            assert caught.value.kind == kind, (runtime, name, caught.value.detail)


def test_an_openvino_ir_is_two_files_uploaded_together(
    local: Session, nets: Nets, image: Image, tmp_path: Path
) -> None:
    import openvino

    openvino.save_model(openvino.Core().read_model(nets["fp32"].main), tmp_path / "net.xml", compress_to_fp16=False)
    both = ModelFiles(tmp_path / "net.xml", (tmp_path / "net.bin",))
    handle = local.load(both, OPENVINO).handle
    expected = local.run(local.load(nets["fp32"], OPENVINO).handle, image)["output"]
    np.testing.assert_allclose(local.run(handle, image)["output"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(MeasurementFailure, match="load_failed"):
        local.load(ModelFiles(tmp_path / "net.xml"), OPENVINO)


def test_unloaded_and_unknown_models_are_named(local: Session, nets: Nets, tmp_path: Path) -> None:
    handle = local.load(nets["fp32"], ORT).handle
    local.unload(handle)
    local.unload(handle)
    with pytest.raises(DeviceError, match=handle):
        local.burst_round([handle], SHORT)
    with pytest.raises(DeviceError, match="no runtime 'tensorflow'"):
        local.load(nets["fp32"], Target("local", "tensorflow", "fp32"))
    with pytest.raises(DeviceError, match="does not exist"):
        local.load(ModelFiles(tmp_path / "absent.onnx"), ORT)


def test_a_simulated_device_offers_nothing_real(simulated: Session, nets: Nets, tmp_path: Path) -> None:
    assert list(simulated.hello().runtimes) == ["simulated"]
    with pytest.raises(DeviceError, match="its agent knows: simulated"):
        simulated.load(nets["fp32"], ORT)
    model = simulated.load(write_simulated(tmp_path / "a.sim.json"), Target("sim", "simulated", "fp32"))
    assert (model.provider, model.device) == ("simulated", "simulated")


def test_a_fingerprint_belongs_to_runtime_and_setting(local: Session, simulated: Session) -> None:
    info = local.hello()
    one = target_fingerprint(info, ORT, "1.31.1")
    assert one.identity["runtime_version"] == "1.31"
    assert one.context["runtime_version"] == "1.31.1"
    assert not one.differences(target_fingerprint(info, ORT, "1.31.9"))
    assert set(one.differences(target_fingerprint(info, ORT, "1.32.0"))) == {"runtime_version"}
    assert set(one.differences(target_fingerprint(info, target("onnxruntime", "int8"), "1.31.1"))) == {"precision"}
    assert "cpu_model" in one.differences(target_fingerprint(simulated.hello(), ORT, "1.31.1"))


def test_a_runtime_that_is_not_installed_gives_its_install_line(local: Session, nets: Nets) -> None:
    info = local.hello()
    absent = [name for name, status in info.runtimes.items() if not status.available]
    for name in absent:
        with pytest.raises(MissingRuntimeError, match="pip install"):
            local.load(nets["fp32"], Target("local", name, "fp32"))
    assert all(info.runtimes[name].install for name in absent)

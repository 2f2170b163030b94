from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwnas import registry
from hwnas.artifacts.export import Artifact, export_winner, verify_artifact
from hwnas.artifacts.package import open_package, pack
from hwnas.artifacts.records import Predicted
from hwnas.artifacts.samples import read_samples
from hwnas.backends.base import Backend
from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.config import Budget, DataSection, ExportSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.devices.fingerprint import int8_weight_bits
from hwnas.devices.models import ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import ArtifactError, ConfigError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.static import build_network
from hwnas.targets import Target, find_device

SETTINGS: dict[str, Any] = {
    "classes": 10,
    "in_channels": 1,
    "resolutions": [16],
    "widths": [1.0],
    "depths": [1, 2],
    "expands": [2, 3],
    "stages": [{"channels": 12, "stride": 2}, {"channels": 24, "stride": 2, "activation": "hswish", "se": True}],
    "stem_channels": 8,
    "stem_stride": 1,
    "first_channels": 8,
    "head_channels": [48, 64],
}
SECTION = ExportSection(rounds=5, calibration_images=32)
PREDICTION = Predicted(value=0.4, low=0.3, high=0.5, coverage=0.9)
GENEROUS = Budget(max_ms=10_000.0)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DataSection(source="digits", image_size=16))


@pytest.fixture(scope="module")
def space() -> MobileNetV3Space:
    return MobileNetV3Space(**SETTINGS)


@pytest.fixture(scope="module")
def module(space: MobileNetV3Space, data: ImageData) -> torch.nn.Module:
    """The smallest network after a few steps of training: not good, but its answers differ between images."""
    torch.manual_seed(0)
    network = build_network(space, space.smallest)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    resolution = space.graph(space.smallest).input_shape[1]
    for epoch in range(4):
        for images, labels in data.train.batches(64, resolution, shuffle_seed=epoch):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
    torch.set_num_threads(threads)
    return network.eval()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_session(find_device("local")) as opened:
        yield opened


def export(
    folder: Path,
    target: str,
    module: torch.nn.Module,
    space: MobileNetV3Space,
    data: ImageData,
    session: Session,
    budget: Budget | None = GENEROUS,
    backend: Backend | None = None,
) -> Artifact:
    parsed = Target.parse(target)
    return export_winner(
        module,
        architecture=space.smallest,
        space=space,
        data=data,
        target=parsed,
        backend=backend or registry.load("backend", parsed.runtime)(),
        session=session,
        folder=folder,
        section=SECTION,
        budget=budget,
        prediction=PREDICTION,
        validation_accuracy=0.5,
    )


@pytest.fixture(scope="module", params=["onnxruntime-fp32", "openvino-fp32", "onnxruntime-int8"])
def artifact(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    module: torch.nn.Module,
    space: MobileNetV3Space,
    data: ImageData,
    session: Session,
) -> Artifact:
    folder = tmp_path_factory.mktemp("artifacts") / f"winner-{request.param}"
    return export(folder, f"local/{request.param}", module, space, data, session)


def test_an_artifact_says_everything_that_was_found_out(artifact: Artifact, data: ImageData) -> None:
    manifest = open_package(artifact.folder)
    assert manifest == artifact.manifest
    assert not artifact.broken
    accuracy = manifest.accuracy
    assert accuracy is not None
    assert accuracy.test is not None
    assert accuracy.test > 0.3
    assert accuracy.test_images == len(data.test)
    assert accuracy.data_digest == data.digest
    assert accuracy.gate_counts is not None
    assert accuracy.gate_counts.images == len(data.gate)
    assert manifest.measured.low <= manifest.measured.value <= manifest.measured.high
    assert manifest.budgets[0].verdict == "kept"
    parity = manifest.parity["output"]
    assert parity.images == 32
    if manifest.runtime.precision == "fp32":
        assert parity.tolerance == 1e-4
        assert parity.relative_l2 <= 1e-4
        assert manifest.calibration is None
    else:
        assert parity.tolerance is None
        assert parity.cosine > 0.7
        assert manifest.calibration is not None
        assert manifest.calibration.images == 32
        assert manifest.quantisation is not None
        assert manifest.quantisation["weight_bits"] == int8_weight_bits(manifest.fingerprint.identity)
    blocks = json.loads((artifact.folder / "blocks.json").read_text())["blocks"]
    assert blocks[-1]["name"] == "overhead"
    assert sum(entry["ms"] for entry in blocks[:-1]) > 0
    text = (artifact.folder / "README.md").read_text()
    assert f"`{manifest.target}`" in text
    assert "**kept**" in text
    assert data.digest in text


def test_an_artifact_says_what_it_takes_besides_time(artifact: Artifact) -> None:
    found = artifact.manifest.resources
    assert found is not None
    assert found.load_ms > 0
    assert found.first_run_ms > 0
    assert found.peak_memory_bytes is None or found.peak_memory_bytes >= 0
    assert (found.energy_mj is None) == (found.energy_sensor == "no sensor")
    assert "## Memory, loading, energy" in (artifact.folder / "README.md").read_text()


def test_nothing_in_a_package_names_this_machine_s_folders(artifact: Artifact) -> None:
    for path in artifact.folder.iterdir():
        content = path.read_bytes()
        for private in (str(artifact.folder.parent), str(Path.cwd()), str(Path.home()) + os.sep):
            assert private.encode() not in content, path.name


def test_samples_are_real_inputs_with_both_answers(artifact: Artifact) -> None:
    samples = read_samples(artifact.folder)
    assert samples["input"]["input"].shape[0] == 4
    assert samples["torch"]["output"].shape == samples["output"]["output"].shape == (4, 10)
    assert np.std(samples["input"]["input"]) > 0


def bare(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that cannot see hwnas."""
    guard = "import sys; sys.modules['hwnas'] = None; sys.modules['hwnas_profilers'] = None; import runpy; "
    code = (
        guard
        + f"sys.argv = sys.argv[1:]; sys.path[0] = {str(script.parent)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=script.parent.parent,
        timeout=120,
        check=False,
    )


def test_verify_script_passes_alone_and_fails_after_one_byte(artifact: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(artifact.folder, folder)
    done = bare(folder / "verify.py", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert [entry["check"] for entry in report["checks"]] == ["files", "samples output", "latency p50"]
    open_package(folder)
    model = folder / artifact.manifest.model.path
    data = bytearray(model.read_bytes())
    data[-5] ^= 1
    model.write_bytes(bytes(data))
    done = bare(folder / "verify.py")
    assert done.returncode == 1
    assert "was changed" in done.stdout


def test_verify_script_fails_a_budget_that_cannot_be_kept(artifact: Artifact) -> None:
    done = bare(artifact.folder / "verify.py", "--max-ms", "0.000001")
    assert done.returncode == 1
    assert "FAILED latency p50" in done.stdout


def test_infer_script_answers_like_the_pipeline(artifact: Artifact, data: ImageData, tmp_path: Path) -> None:
    image = data.test.images[0].numpy()[0]
    np.save(tmp_path / "image.npy", image)
    done = bare(artifact.folder / "infer.py", str(tmp_path / "image.npy"), "--json", "--top", "10")
    assert done.returncode == 0, done.stderr
    (best,) = json.loads(done.stdout).values()
    assert {entry["label"] for entry in best} == set(data.classes)
    assert sum(entry["probability"] for entry in best) == pytest.approx(1.0)


def test_verification_again_passes_and_a_zip_counts_as_well(
    artifact: Artifact, session: Session, tmp_path: Path
) -> None:
    report = verify_artifact(pack(artifact.folder, tmp_path / "a.zip"), session=session, rounds=5)
    assert report.passed, report.rows
    assert report.budgets[0].verdict == "kept"
    names = [name for name, _, _ in report.rows]
    assert names == ["files", "machine", "samples output", "latency p50"]
    assert json.loads(json.dumps(report.as_dict()))["passed"] is True


def test_verification_reports_tampering_without_loading(artifact: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(artifact.folder, folder)
    os.truncate(folder / artifact.manifest.model.path, 100)
    report = verify_artifact(folder)
    assert not report.passed
    assert report.rows[0][1] == "FAILED"
    assert "truncated" in report.rows[0][2]
    with pytest.raises(ArtifactError, match="no artifact"):
        verify_artifact(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="cannot be checked on"):
        verify_artifact(artifact.folder, target="local/torch-fp32")


def test_the_same_request_reuses_the_artifact_and_another_never_overwrites(
    tmp_path: Path, module: torch.nn.Module, space: MobileNetV3Space, data: ImageData, session: Session
) -> None:
    folder = tmp_path / "winner"
    first = export(folder, "local/onnxruntime-fp32", module, space, data, session)
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = export(folder, "local/onnxruntime-fp32", module, space, data, session)
    assert again == first
    assert stamps == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ArtifactError, match="another request"):
        export(folder, "local/onnxruntime-fp32", module, space, data, session, Budget(max_ms=1.0))
    (folder / "samples.npz").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match=r"samples\.npz"):
        export(folder, "local/onnxruntime-fp32", module, space, data, session)


def test_a_budget_that_cannot_be_kept_is_broken_in_the_manifest(
    tmp_path: Path, module: torch.nn.Module, space: MobileNetV3Space, data: ImageData, session: Session
) -> None:
    made = export(tmp_path / "w", "local/onnxruntime-fp32", module, space, data, session, Budget(max_ms=1e-6))
    assert made.broken
    assert made.manifest.budgets[0].tries == 1
    assert "**broken**" in (made.folder / "README.md").read_text()
    report = verify_artifact(made.folder, session=session, rounds=5)
    assert not report.passed


class WrongWeights(OnnxRuntimeBackend):
    """Exports a network that is not the one it was given."""

    def export(self, module: torch.nn.Module, *arguments: Any, **options: Any) -> ModelFiles:
        other = copy.deepcopy(module)
        with torch.no_grad():
            list(other.parameters())[-1].add_(0.05)
        return super().export(other, *arguments, **options)


class WrongCalibration(OnnxRuntimeBackend):
    """Calibrates on black images only."""

    def export(self, *arguments: Any, calibration: Any = None, **options: Any) -> ModelFiles:
        return super().export(*arguments, calibration=np.zeros_like(calibration), **options)


@pytest.mark.parametrize(
    ("backend", "target", "match"),
    [
        (WrongWeights(), "local/onnxruntime-fp32", "parity failed"),
        (WrongCalibration(), "local/onnxruntime-int8", r"accuracy failed: on \d+ gate images int8 gets \d+ right"),
    ],
)
def test_a_file_that_fails_is_never_an_artifact(
    tmp_path: Path,
    backend: OnnxRuntimeBackend,
    target: str,
    match: str,
    module: torch.nn.Module,
    space: MobileNetV3Space,
    data: ImageData,
    session: Session,
) -> None:
    with pytest.raises(ArtifactError, match=match):
        export(tmp_path / "w", target, module, space, data, session, backend=backend)
    assert not list(tmp_path.iterdir())


def test_a_simulated_target_is_refused(
    tmp_path: Path, module: torch.nn.Module, space: MobileNetV3Space, data: ImageData, session: Session
) -> None:
    with pytest.raises(ArtifactError, match="is simulated"):
        export(tmp_path / "w", "simulated-reference/simulated-fp32", module, space, data, session)
    assert not list(tmp_path.iterdir())


def test_a_relative_budget_must_be_resolved_first(
    tmp_path: Path, module: torch.nn.Module, space: MobileNetV3Space, data: ImageData, session: Session
) -> None:
    with pytest.raises(ConfigError, match="resolve it to max_ms"):
        export(tmp_path / "w", "local/onnxruntime-fp32", module, space, data, session, Budget(relative="-30%"))

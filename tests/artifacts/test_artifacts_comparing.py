from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from hwnas.artifacts.comparing import AccuracyDuel, Comparison, compare_artifacts
from hwnas.artifacts.duel import NEW, OLD, Duel, fight, ratio_test
from hwnas.artifacts.export import export_model
from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.cli import app
from hwnas.config import DataSection, ExportSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.devices.models import ModelFiles
from hwnas.devices.session import open_session
from hwnas.errors import ArtifactError, ConfigError, MeasurementFailure
from hwnas.targets import Target, find_device

TARGET = Target("local", "onnxruntime", "fp32")
SIZE = 16


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DataSection(source="digits", image_size=SIZE))


def network(width: int) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, width, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(width, width, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(width * SIZE * SIZE // 16, 10),
    )


@pytest.fixture(scope="module")
def trained(data: ImageData) -> torch.nn.Sequential:
    module = network(8)
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for epoch in range(3):
        for images, labels in data.train.batches(64, SIZE, shuffle_seed=epoch):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(module(images), labels).backward()
            optimiser.step()
    return module.eval()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, trained: torch.nn.Sequential) -> dict[str, Path]:
    """A trained network, the same with a classifier that lost a class, and a much wider one."""
    worse = network(8)
    worse.load_state_dict(trained.state_dict())
    with torch.no_grad():
        worse[5].bias[3] -= 1000.0
    folder = tmp_path_factory.mktemp("artifacts")
    with open_session(find_device("local")) as session:
        for name, module in {"good": trained, "worse": worse, "wide": network(96)}.items():
            export_model(
                module.eval(),
                target=TARGET,
                backend=OnnxRuntimeBackend(),
                session=session,
                folder=folder / name,
                input_shape=(1, 1, SIZE, SIZE),
                section=ExportSection(rounds=5),
            )
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    run = {"name": "r", "targets": [{"target": str(TARGET)}], "data": {"source": "digits", "image_size": SIZE}}
    path.write_text(yaml.safe_dump(run))
    return path


def command(*words: object) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(app, ["compare", *map(str, words), "--json", "--loads", "3", "--rounds", "2"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)


def test_a_slower_artifact_is_told_and_leaves_with_1(artifacts: dict[str, Path]) -> None:
    status, found = command(artifacts["good"], artifacts["wide"])
    latency = found["latency"]
    assert isinstance(latency, dict)
    assert status == 1
    assert found["worse"] is True
    assert latency["verdict"] == "slower"
    assert latency["ratio"] > 2 > 1 < latency["low"] <= latency["ratio"] <= latency["high"]
    assert latency["p_value"] < 0.05
    assert found["accuracy"] is None
    assert "--data" in str(found["note"])


def test_the_other_way_round_it_is_faster(artifacts: dict[str, Path]) -> None:
    found = compare_artifacts(artifacts["wide"], artifacts["good"], loads=3, rounds=2)
    assert found.latency.verdict == "faster"
    assert found.latency.ratio < 0.5
    assert not found.worse


def test_an_artifact_beside_itself_is_within_a_margin(artifacts: dict[str, Path]) -> None:
    found = compare_artifacts(artifacts["good"], artifacts["good"], loads=3, rounds=3, margin=0.5)
    assert found.latency.verdict == "no difference shown"


def test_a_loss_of_accuracy_is_told_image_by_image(
    artifacts: dict[str, Path], data: ImageData, tmp_path: Path, run_file: Path
) -> None:
    zipped = Path(shutil.make_archive(str(tmp_path / "good"), "zip", artifacts["good"]))
    status, found = command(zipped, artifacts["worse"], "--data", run_file, "--margin", 5)
    accuracy = found["accuracy"]
    assert isinstance(accuracy, dict)
    threes = int((data.gate.labels == 3).sum())
    assert status == 1
    assert accuracy["verdict"] == "less accurate"
    assert accuracy["images"] == len(data.gate)
    assert accuracy["old"] - accuracy["new"] == pytest.approx(threes / len(data.gate), abs=0.05)
    status, found = command(artifacts["worse"], zipped, "--data", run_file, "--margin", 5)
    assert status == 0
    assert isinstance(found["accuracy"], dict)
    assert found["accuracy"]["verdict"] == "no loss shown"


def test_a_tampered_artifact_is_refused_before_it_is_loaded(artifacts: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifacts["good"], tmp_path / "copy"))
    model = copy / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        compare_artifacts(artifacts["good"], copy)


@pytest.mark.parametrize(
    ("target", "message"),
    [("local/openvino-fp32", "neither the old"), ("local/onnxruntime-fp32-b2", "neither the old")],
)
def test_a_target_of_another_setting_is_refused(artifacts: dict[str, Path], target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare_artifacts(artifacts["good"], artifacts["wide"], target=Target.parse(target))


def test_two_numbers_of_threads_are_not_compared_silently(artifacts: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifacts["good"], tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["target"] = "local/onnxruntime-fp32-t2-b1"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="numbers of threads cannot be compared"):
        compare_artifacts(artifacts["good"], copy)


def test_data_of_another_shape_are_refused_before_anything_is_measured(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    colour = load_data(DataSection(source=f"imagefolder:{tmp_path / 'pictures'}", image_size=SIZE))
    with pytest.raises(ConfigError, match=r"reads inputs of shape \(1, 1, 16, 16\), the data have 3"):
        compare_artifacts(artifacts["good"], artifacts["good"], data=colour)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loads": 2}, "loads=2"),
        ({"rounds": 0}, "rounds=0"),
        ({"margin": -1.0}, "margin=-1"),
        ({"statistic": "p42"}, "p42"),
    ],
)
def test_settings_that_cannot_be_used(artifacts: dict[str, Path], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare_artifacts(artifacts["good"], artifacts["good"], **options)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_loaded_is_a_failure(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no model")
    models = {name: (ModelFiles(broken), TARGET) for name in (OLD, NEW)}
    with pytest.raises(MeasurementFailure, match="load_failed"):
        fight(lambda: open_session(find_device("local")), models, loads=3, rounds=1)


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        logs = np.log(1.03) + rng.normal(0.0, 0.02, 8)
        _, low, high, _ = ratio_test(logs, 0.95)
        hits += low <= 1.03 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_equal_files_are_called_slower_in_few_of_many_comparisons() -> None:
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(400):
        ratio, low, high, p_value = ratio_test(rng.normal(0.0, 0.02, 8), 0.95)
        called += Duel("p50", "ms", 1.0, ratio, ratio, low, high, 0.95, p_value, 8, 0.0).verdict == "slower"
    assert called / 400 <= 0.05


def test_counts_that_do_not_vary_are_exact() -> None:
    assert ratio_test(np.log(np.full(3, 1.01)), 0.95) == pytest.approx((1.01, 1.01, 1.01, 0.0))
    assert ratio_test(np.zeros(3), 0.95) == (1.0, 1.0, 1.0, 1.0)


def test_a_loss_alone_makes_it_worse() -> None:
    same = Duel("p50", "ms", 1.0, 1.0, 1.0, 0.99, 1.01, 0.95, 0.9, 8, 0.0)
    assert not Comparison("t", same, AccuracyDuel(0.9, 0.89, 100, "", "", 0.4)).worse
    assert Comparison("t", same, AccuracyDuel(0.9, 0.5, 100, "", "", 1e-6)).worse

"""Training in two processes that gloo joins, as ``torchrun`` starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from supernet_helpers import SETTINGS, STAGES

from hwnas.config import DataSection, TrainSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.storage import load_supernet
from hwnas.supernets.training import TrainReport, train_supernet

FEW: dict[str, Any] = {"source": "digits", "image_size": 8, "max_train": 100}
SPACES: dict[str, dict[str, Any]] = {
    "base": {**SETTINGS, "depths": [1, 2], "widths": [0.5, 1.0]},
    "dense-parallel-early": {
        **SETTINGS,
        "stages": [*STAGES, {"channels": 24, "stride": 1, "activation": "hswish", "se": True}],
        "blocks": "dense-parallel",
        "exits": "early",
    },
}
PHASES: dict[str, list[dict[str, Any]]] = {
    "base": [
        {"name": "full", "epochs": 1},
        {"name": "all", "epochs": 1, "expand": [2, 3, 4], "depth": [1, 2], "subnets": 2},
    ],
    "dense-parallel-early": [
        {"name": "full", "epochs": 1},
        {"name": "all", "epochs": 1, "level": [1, 2, 3], "exit": [1, 2, 3], "kernel": [3, 5, 7], "subnets": 2},
    ],
}
TRAIN: dict[str, Any] = {"batch_size": 33, "learning_rate": 0.01, "bn_images": 64, "seed": 3}
TRAININGS = {name: {**TRAIN, "phases": phases} for name, phases in PHASES.items()}
STOPPED = {**TRAININGS["base"], "time_budget_minutes": 1e-6}


def launch(folder: Path, **job: Any) -> subprocess.CompletedProcess[str]:
    script = str(Path(__file__).with_name("train_in_processes.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", script]
    sent = json.dumps({"data": FEW, "spaces": SPACES, "seed": 2, **job})
    return subprocess.run(
        [*command, sent, str(folder)], env=dict(os.environ), capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def few(data: ImageData) -> ImageData:
    return load_data(DataSection(**FEW))


@pytest.fixture(scope="module")
def alone(
    few: ImageData, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[MobileNetV3Supernet, TrainReport]]:
    found = {}
    for name, train in TRAININGS.items():
        supernet = MobileNetV3Supernet(MobileNetV3Space(**SPACES[name]), seed=2)
        report = train_supernet(supernet, few, TrainSection(**train), tmp_path_factory.mktemp(name))
        found[name] = supernet, report
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    first = launch(folder, trainings={"base": STOPPED})
    assert first.returncode == 0, first.stderr
    assert json.loads((folder / "base" / "checkpoint.json").read_text())["counters"]["done"] == 1
    result = launch(folder, trainings=TRAININGS)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", list(SPACES))
def test_two_processes_come_to_the_weights_of_one(
    name: str, together: Path, alone: dict[str, tuple[MobileNetV3Supernet, TrainReport]]
) -> None:
    expected, report = alone[name]
    fresh = MobileNetV3Supernet(expected.space, seed=2).state_dict()
    for process in range(2):
        found = load_supernet(together / f"{name}-{process}").state_dict()
        for key, tensor in expected.state_dict().items():
            torch.testing.assert_close(
                found[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )
        assert not torch.equal(found["engines.0.stem.conv.weight"], fresh["engines.0.stem.conv.weight"])
    written = json.loads((together / name / "training.json").read_text())
    assert written["steps"] == report.steps >= 6
    assert written["history"][-1] == pytest.approx(report.history[-1], rel=1e-4)


@pytest.mark.parametrize("name", list(SPACES))
def test_all_processes_end_with_the_same_bits_and_the_first_ones_report(name: str, together: Path) -> None:
    one, two = (load_supernet(together / f"{name}-{process}").state_dict() for process in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    described = [
        json.loads((together / f"{name}-{process}" / "supernet.json").read_text())["extra"] for process in range(2)
    ]
    assert described[0] == described[1]
    assert described[0]["of"] == 2
    assert described[0]["report"] == json.loads((together / name / "training.json").read_text())["accuracies"]

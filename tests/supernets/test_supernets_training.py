from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from supernet_helpers import SETTINGS

from hwnas.config import DataSection, TrainSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.errors import ConfigError, ModelFileError, RunFolderError, SpaceError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.checkpoints import STATE
from hwnas.supernets.estimate import estimate_training
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.training import TrainReport, adapt, train_supernet, training_steps

Trained = tuple[MobileNetV3Supernet, TrainReport, Path]
SMALL = {**SETTINGS, "depths": [1, 2], "widths": [0.5, 1.0]}
SHORT: dict[str, Any] = {"epochs": 3.0, "batch_size": 32, "warmup_epochs": 0.2, "bn_images": 64, "seed": 4}
FEW: dict[str, Any] = {"source": "digits", "image_size": 8, "max_train": 200}


def fresh() -> MobileNetV3Supernet:
    return MobileNetV3Supernet(MobileNetV3Space(**SMALL), seed=2)


def same(one: MobileNetV3Supernet, two: MobileNetV3Supernet) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def few(data: ImageData) -> ImageData:
    return load_data(DataSection(**FEW))


@pytest.fixture(scope="module")
def undisturbed(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> MobileNetV3Supernet:
    supernet = fresh()
    report = train_supernet(supernet, few, TrainSection(**SHORT), tmp_path_factory.mktemp("undisturbed"))
    assert report.complete
    return supernet


def test_training_learns_the_digits(trained: Trained) -> None:
    _, report, folder = trained
    assert report.complete
    assert report.note == ""
    assert report.steps == report.steps_total == sum(phase["steps"] for phase in report.phases)
    full = report.phases[0]["steps"]
    losses = [loss for done, loss in report.history if done <= full]
    assert losses[-1] < 0.75 * losses[0]
    assert report.accuracies["largest"] > 0.85
    assert report.accuracies["smallest"] > 0.7
    assert set(report.accuracies) == {"largest", "smallest", "random-0", "random-1", "random-2"}
    assert json.loads((folder / "training.json").read_text())["accuracies"] == report.accuracies


def test_a_finished_training_is_not_done_again(trained: Trained, data: ImageData, section: TrainSection) -> None:
    supernet, report, folder = trained
    again = MobileNetV3Supernet(supernet.space, seed=99)
    steps: list[float] = []
    assert train_supernet(again, data, section, folder, progress=lambda step, note: steps.append(step)) == report
    assert steps == []
    assert same(again, supernet)


def test_same_seed_same_weights(undisturbed: MobileNetV3Supernet, few: ImageData, tmp_path: Path) -> None:
    supernet, steps = fresh(), []
    train_supernet(supernet, few, TrainSection(**SHORT), tmp_path, progress=lambda step, note: steps.append(step))
    assert same(supernet, undisturbed)
    assert sum(steps) == sum(count for _, count in training_steps(TrainSection(**SHORT), few, supernet.space))
    other = fresh()
    train_supernet(other, few, TrainSection(**{**SHORT, "seed": 5}), tmp_path / "other")
    assert not same(other, undisturbed)


def done_steps(folder: Path) -> int:
    state = folder / STATE
    return int(json.loads(state.read_text())["counters"]["done"]) if state.exists() else 0


def test_killed_at_any_time_it_ends_with_the_same_weights(
    undisturbed: MobileNetV3Supernet, few: ImageData, tmp_path: Path
) -> None:
    section = {**SHORT, "checkpoint_minutes": 1e-6}
    job = json.dumps({"data": FEW, "space": SMALL, "train": section, "seed": 2})
    script = str(Path(__file__).with_name("train_until_killed.py"))
    for goal in (4, 11):
        child = subprocess.Popen([sys.executable, script, job, str(tmp_path)], env=dict(os.environ))
        deadline = time.monotonic() + 200
        while done_steps(tmp_path) < goal and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert done_steps(tmp_path) >= goal
    killed_at = done_steps(tmp_path)
    supernet, steps = fresh(), []
    report = train_supernet(supernet, few, TrainSection(**section), tmp_path, progress=lambda s, note: steps.append(s))
    assert steps[0] == killed_at
    assert 0 < killed_at < report.steps_total
    assert report.complete
    assert same(supernet, undisturbed)


def test_time_budget_stops_cleanly_and_says_so(
    undisturbed: MobileNetV3Supernet, few: ImageData, tmp_path: Path
) -> None:
    hasty = TrainSection(**SHORT, time_budget_minutes=1e-6)
    report = train_supernet(fresh(), few, hasty, tmp_path)
    assert not report.complete
    assert report.steps == 1
    assert "train.time_budget_minutes" in report.note
    assert "phase 'full'" in report.note
    stopped = fresh()
    stopped.load(tmp_path)
    assert not same(stopped, fresh())
    supernet = fresh()
    assert train_supernet(supernet, few, TrainSection(**SHORT), tmp_path).complete
    assert same(supernet, undisturbed)


def test_another_configuration_is_refused(few: ImageData, tmp_path: Path) -> None:
    train_supernet(fresh(), few, TrainSection(**SHORT, time_budget_minutes=1e-6), tmp_path)
    with pytest.raises(RunFolderError, match=r"train\.learning_rate: stored 0\.05, here 0\.01"):
        train_supernet(fresh(), few, TrainSection(**SHORT, learning_rate=0.01), tmp_path)
    with pytest.raises(RunFolderError, match="sampling"):
        train_supernet(fresh(), few, TrainSection(**SHORT), tmp_path, sampling="sandwich")


def test_damaged_checkpoints_are_named(few: ImageData, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    train_supernet(fresh(), few, TrainSection(**SHORT, time_budget_minutes=1e-6), whole)
    tensors = next(path.name for path in whole.glob("checkpoint-*.safetensors"))
    half = (whole / tensors).read_bytes()[:-100]
    for name, content, error, message in (
        (tensors, half, ModelFileError, "sha256"),
        (STATE, b"{", RunFolderError, "not valid JSON"),
        (STATE, b"{}", RunFolderError, "not a training checkpoint"),
    ):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(content)
        with pytest.raises(error, match=message):
            train_supernet(fresh(), few, TrainSection(**SHORT), folder)


def test_sandwich_trains(few: ImageData, tmp_path: Path) -> None:
    report = train_supernet(fresh(), few, TrainSection(**SHORT), tmp_path, sampling="sandwich")
    assert report.complete
    assert all(np.isfinite(loss) for _, loss in report.history)


def test_divergence_is_explained(few: ImageData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        train_supernet(fresh(), few, TrainSection(**SHORT, learning_rate=1e20), tmp_path)


def test_data_of_other_classes_is_refused(few: ImageData, tmp_path: Path) -> None:
    other = MobileNetV3Supernet(MobileNetV3Space(**{**SMALL, "classes": 3}))
    with pytest.raises(SpaceError, match="classes=3"):
        train_supernet(other, few, TrainSection(**SHORT), tmp_path)
    assert not list(tmp_path.iterdir())


def test_estimate_counts_the_schedule_and_changes_nothing(few: ImageData) -> None:
    supernet, section = fresh(), TrainSection(**SHORT)
    estimate = estimate_training(supernet, few, section)
    assert same(supernet, fresh())
    assert estimate.steps == sum(count for _, count in training_steps(section, few, supernet.space))
    longer = estimate_training(supernet, few, TrainSection(**{**SHORT, "epochs": 300.0}))
    assert longer.steps > 50 * estimate.steps
    assert longer.seconds > 10 * estimate.seconds > 0


def test_adaptation_improves_what_the_sampler_prefers(trained: Trained, data: ImageData, tmp_path: Path) -> None:
    supernet = MobileNetV3Supernet(trained[0].space)
    supernet.load(trained[2])
    row = supernet.space.lower
    architecture = supernet.space.decode(row)
    evaluator = AccuracyEvaluator(supernet, data, bn_images=256)
    before = evaluator.evaluate(architecture)
    teacher = evaluator.extract(supernet.space.largest)
    seen: list[float] = []

    def sampler(rng: np.random.Generator) -> Any:
        seen.append(float(rng.random()))
        return row

    report = adapt(
        supernet, data, sampler, epochs=3, learning_rate=0.02, seed=7, batch_size=48, teacher=teacher, subnets=2
    )
    assert report.steps == 3 * (len(data.train) // 48)
    assert len(seen) == len(set(seen)) == 2 * report.steps
    assert report.last_loss < report.first_loss
    assert evaluator.evaluate(architecture) > before


def test_adaptation_is_deterministic_and_repairs(data: ImageData) -> None:
    results = []
    for _ in range(2):
        supernet = fresh()
        upper = supernet.space.upper + 5
        adapt(supernet, data, lambda rng, x=upper: x, epochs=0.1, learning_rate=0.01, seed=1, batch_size=64)
        results.append(supernet)
    assert same(*results)
    assert not same(results[0], fresh())
    untouched = fresh()
    report = adapt(untouched, data, lambda rng: rng, epochs=0, learning_rate=0.01, seed=1, batch_size=64)  # type: ignore[arg-type,return-value]
    assert report.steps == 0
    assert same(untouched, fresh())

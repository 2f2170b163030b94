from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.datasets.data import ImageData
from hwnas.errors import ConfigError, SpaceError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.calibration import recalibrate_bn
from hwnas.supernets.evaluation import AccuracyEvaluator, evaluate_module, resolve_metric
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.training import TrainReport

Trained = tuple[MobileNetV3Supernet, TrainReport, object]


def share_of_zeros(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """A user's own metric: how often class 0 is answered."""
    return float((logits.argmax(axis=1) == 0).mean())


NOT_CALLABLE = 3


def test_statistics_are_weighted_means_over_batches() -> None:
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    conv = nn.Conv2d(1, 2, 3)
    module = nn.Sequential(conv, first, nn.ReLU(), second).train()
    batches = [torch.randn(5, 1, 6, 6), 3 + torch.randn(2, 1, 6, 6)]
    recalibrate_bn(module, batches)
    expected = {"mean": torch.zeros(2, 2, dtype=torch.float64), "var": torch.zeros(2, 2, dtype=torch.float64)}
    with torch.no_grad():
        for x in batches:
            hidden = conv(x).double()
            for layer in range(2):
                mean, var = hidden.mean(dim=(0, 2, 3)), hidden.var(dim=(0, 2, 3), correction=0)
                expected["mean"][layer] += mean * len(x) / 7
                expected["var"][layer] += var * len(x) / 7
                shape = (1, -1, 1, 1)
                hidden = torch.relu((hidden - mean.view(shape)) / torch.sqrt(var.view(shape) + 1e-5))
    for layer, bn in enumerate((first, second)):
        assert bn.running_mean is not None
        assert bn.running_var is not None
        assert torch.allclose(bn.running_mean.double(), expected["mean"][layer], atol=1e-5)
        assert torch.allclose(bn.running_var.double(), expected["var"][layer], rtol=1e-4, atol=1e-6)
    assert module.training
    assert "forward" not in first.__dict__


def test_a_failing_forward_leaves_the_module_whole() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2)).train()
    with pytest.raises(RuntimeError):
        recalibrate_bn(module, [torch.zeros(1, 3, 4, 4)])
    assert module.training
    assert module(torch.randn(2, 2, 4, 4)).shape == (2, 2, 4, 4)
    assert "forward" not in module[0].__dict__


def test_no_batches_is_an_error() -> None:
    with pytest.raises(ValueError, match="batches is empty"):
        recalibrate_bn(nn.Sequential(nn.BatchNorm2d(2)), [])


def test_recalibration_turns_garbage_into_the_accuracy(trained: Trained, data: ImageData) -> None:
    supernet = trained[0]
    evaluator = AccuracyEvaluator(supernet, data, bn_images=256)
    network = supernet.extract(supernet.space.largest)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
    garbage = evaluate_module(network, data.validation)
    good = evaluator.evaluate(supernet.space.largest)
    assert garbage < 0.5
    assert good > 0.8
    recalibrate_bn(network, list(data.train.batches(256, network.architecture.resolution))[:1])
    assert evaluate_module(network, data.validation) == pytest.approx(good, abs=0.1)


def test_one_architecture_reads_one_number(trained: Trained, data: ImageData) -> None:
    supernet = trained[0]
    rows = supernet.space.sample(np.random.default_rng(0), 4)
    one, two = (AccuracyEvaluator(supernet, data, bn_images=100, validation_images=90) for _ in range(2))
    first = one.evaluate_encodings(rows)
    assert np.array_equal(first, one.evaluate_encodings(rows))
    assert np.array_equal(first[::-1], two.evaluate_encodings(rows[::-1]))
    assert ((first * 90) % 1 == pytest.approx(0, abs=1e-9)) or np.allclose(first * 90, np.round(first * 90))


def test_evaluation_leaves_the_supernet_alone(trained: Trained, data: ImageData) -> None:
    supernet = trained[0]
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    AccuracyEvaluator(supernet, data, bn_images=64, validation_images=32).evaluate(supernet.space.smallest)
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())


@pytest.mark.parametrize(("cache_mb", "kept"), [(0, [0, 0, 0]), (0.085, [280, 216, 280]), (1, [280, 560, 560])])
def test_memory_is_bounded(trained: Trained, data: ImageData, cache_mb: float, kept: list[int]) -> None:
    supernet = trained[0]
    evaluator = AccuracyEvaluator(supernet, data, bn_images=64, cache_mb=cache_mb)
    roomy = AccuracyEvaluator(supernet, data, bn_images=64)
    assert len(data.validation) == 216
    row, images = supernet.space.lower, []
    for resolution in (0, 1, 0):
        row[0] = resolution
        architecture = supernet.space.decode(row)
        assert evaluator.evaluate(architecture) == roomy.evaluate(architecture)
        assert evaluator._cache.size_bytes <= cache_mb * 2**20
        images.append(sum(len(x) for batches in evaluator._cache._kept.values() for x, _ in batches))
    assert images == kept


def test_metrics_by_name_and_path(trained: Trained, data: ImageData) -> None:
    logits, labels = np.array([[2, 1], [2, 1], [0, 1]], dtype=np.float32), np.array([0, 1, 1])
    assert resolve_metric("top1")(logits, labels) == pytest.approx(2 / 3)
    assert resolve_metric("balanced")(logits, labels) == pytest.approx(0.75)
    own = AccuracyEvaluator(trained[0], data, f"{__name__}:share_of_zeros", bn_images=64)
    assert 0 < own.evaluate(trained[0].space.largest) < 0.3


@pytest.mark.parametrize("name", ["top5", "no.such.module:f", f"{__name__}:absent", f"{__name__}:NOT_CALLABLE", ":f"])
def test_unusable_metrics_are_explained(name: str) -> None:
    with pytest.raises(ConfigError, match=r"metric"):
        resolve_metric(name)


@pytest.mark.parametrize(("key", "value"), [("classes", 7), ("in_channels", 3)])
def test_space_and_data_must_fit(data: ImageData, space: MobileNetV3Space, key: str, value: int) -> None:
    other = MobileNetV3Space(**{**space.settings(), key: value})
    with pytest.raises(SpaceError, match=f"Set space.settings.{key}="):
        AccuracyEvaluator(MobileNetV3Supernet(other), data)


def test_a_module_without_architecture_needs_a_resolution(data: ImageData) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="give resolution="):
        evaluate_module(module, data.validation)
    assert 0 <= evaluate_module(module, data.validation, resolution=8) <= 1

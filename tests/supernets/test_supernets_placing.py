"""Device and precision of training; what needs a GPU is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from supernet_helpers import SETTINGS

from hwnas.config import DataSection, TrainSection, parse_section
from hwnas.datasets.data import ImageData, load_data
from hwnas.errors import ConfigError, RunFolderError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.estimate import estimate_training
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.placing import device_name, placed, training_device
from hwnas.supernets.training import train_supernet

SMALL = {**SETTINGS, "depths": [1, 2], "blocks": "parallel", "exits": "early"}
SHORT: dict[str, Any] = {"epochs": 4.0, "batch_size": 32, "bn_images": 64, "seed": 4}


@pytest.fixture(scope="module")
def few(data: ImageData) -> ImageData:
    return load_data(DataSection(source="digits", image_size=8, max_train=200))


def trained(data: ImageData, folder: Path, **section: Any) -> MobileNetV3Supernet:
    supernet = MobileNetV3Supernet(MobileNetV3Space(**SMALL), seed=2)
    train_supernet(supernet, data, TrainSection(**{**SHORT, **section}), folder)
    return supernet


def same(one: MobileNetV3Supernet, two: MobileNetV3Supernet) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_bf16_trains_and_resumes_to_the_same_bits(few: ImageData, tmp_path: Path) -> None:
    whole = trained(few, tmp_path / "whole", precision="bf16")
    assert {tensor.dtype for tensor in whole.state_dict().values()} == {torch.float32, torch.int64}
    for minutes in (1e-6, 2e-3, None):
        resumed = trained(few, tmp_path / "resumed", precision="bf16", time_budget_minutes=minutes)
    assert same(resumed, whole)
    fp32 = trained(few, tmp_path / "fp32")
    assert not same(fp32, whole)
    stem = "engines.0.stem.conv.weight"
    rounding = (fp32.state_dict()[stem] - whole.state_dict()[stem]).norm()
    moved = (fp32.state_dict()[stem] - MobileNetV3Supernet(whole.space, seed=2).state_dict()[stem]).norm()
    assert rounding < 0.3 * moved


def test_precision_belongs_to_a_training_and_the_device_does_not(few: ImageData, tmp_path: Path) -> None:
    trained(few, tmp_path, time_budget_minutes=1e-6)
    with pytest.raises(RunFolderError, match=r"train\.precision"):
        trained(few, tmp_path, precision="bf16", time_budget_minutes=1e-6)
    trained(few, tmp_path, device="cpu", time_budget_minutes=1e-6)


def test_older_files_keep_their_digests() -> None:
    assert not {"device", "precision"} & TrainSection().model_dump(mode="json").keys()
    assert TrainSection(device="cpu").model_dump(mode="json")["device"] == "cpu"


@pytest.mark.parametrize("key", ["device", "precision"])
def test_unknown_values_name_the_key(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_section(TrainSection, {key: "fp8"}, "train")


def test_cuda_where_there_is_none_names_the_key(
    few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # also on a machine that has one
    with pytest.raises(ConfigError, match=r"train\.device=cuda: torch .* Set train\.device to auto or cpu"):
        trained(few, tmp_path / "none", device="cuda")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match=r"train\.device=cuda"):
        estimate_training(MobileNetV3Supernet(MobileNetV3Space(**SMALL)), few, TrainSection(device="cuda"))
    assert training_device(TrainSection()) == training_device(TrainSection(device="cpu")) == torch.device("cpu")
    assert placed(few, torch.device("cpu")) is few
    assert device_name(torch.device("cpu")) == "cpu"


def test_images_on_a_device_keep_their_splits(few: ImageData) -> None:
    """``meta`` stands for a device without data: shapes and places are what a GPU would have."""
    there = placed(few, torch.device("meta"))
    assert there.sizes == few.sizes
    assert there.digest == few.digest
    images, labels = there.train.take([0, 1, 2])
    assert images.device.type == labels.device.type == "meta"
    batch = there.preprocess(images, 12)
    assert batch.device.type == "meta"
    assert batch.shape == (3, few.channels, 12, 12)

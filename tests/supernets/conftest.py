from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from supernet_helpers import SETTINGS

from hwnas.config import DataSection, TrainSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.training import TrainReport, train_supernet


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageData]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load_data(DataSection(source="digits", image_size=8))


@pytest.fixture(scope="session")
def space() -> MobileNetV3Space:
    return MobileNetV3Space(**SETTINGS)


@pytest.fixture(scope="session")
def section() -> TrainSection:
    return TrainSection(epochs=6, batch_size=32, learning_rate=0.2, bn_images=256)


@pytest.fixture(scope="session")
def trained(
    data: ImageData, space: MobileNetV3Space, section: TrainSection, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MobileNetV3Supernet, TrainReport, Path]:
    """A supernet trained on the real digits; do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    supernet = MobileNetV3Supernet(space, seed=1)
    return supernet, train_supernet(supernet, data, section, folder), folder

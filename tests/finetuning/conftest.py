from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hwnas.config import DataSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        section = DataSection(source="digits", image_size=8, max_train=320, validation=0.1, augment="shift")
        return load_data(section)


def _space() -> MobileNetV3Space:
    return MobileNetV3Space(
        classes=10,
        in_channels=1,
        resolutions=(8,),
        widths=(1.0,),
        kernels=(3, 5),
        expands=(2.0, 3.0),
        depths=(1, 2),
        stages=[
            {"channels": 12, "stride": 2, "activation": "relu"},
            {"channels": 16, "activation": "hswish", "se": True},
        ],
        stem_channels=8,
        stem_stride=1,
        first_channels=8,
        head_channels=(32, 48),
    )


@pytest.fixture(scope="session")
def space() -> MobileNetV3Space:
    return _space()


@pytest.fixture
def supernet(space: MobileNetV3Space) -> MobileNetV3Supernet:
    return MobileNetV3Supernet(space, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "winner"

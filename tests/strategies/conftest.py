from __future__ import annotations

from typing import Any

import pytest

from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.testing.toy import ToySpace

SETTINGS: dict[str, Any] = {
    "classes": 10,
    "resolutions": (24, 32),
    "widths": (0.5, 1.0),
    "stages": (
        {"channels": 16, "stride": 1},
        {"channels": 24, "stride": 2, "se": True},
        {"channels": 40, "stride": 2, "activation": "hswish"},
    ),
    "stem_stride": 1,
    "head_channels": (96, 128),
}


@pytest.fixture(scope="session")
def space() -> MobileNetV3Space:
    return MobileNetV3Space(**SETTINGS)


@pytest.fixture(scope="session")
def toy() -> ToySpace:
    return ToySpace()

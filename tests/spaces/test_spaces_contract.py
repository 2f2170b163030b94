from __future__ import annotations

from typing import Any, ClassVar

import torch

from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.synthetic import SyntheticSpace
from hwnas.testing.spaces import SpaceContract

torch.set_num_threads(1)

SMALL: dict[str, Any] = {
    "classes": 10, "in_channels": 1, "resolutions": [8, 12], "widths": [0.5, 1.0], "stem_stride": 1, "depths": [1, 2],
    "stages": [{"channels": 16, "stride": 1}, {"channels": 24, "stride": 2, "se": True, "activation": "hswish"}],
    "kernels": [3, 5], "expands": [1.5, 2], "head_channels": [48, 64],
}  # fmt: skip


class TestMobileNetV3(SpaceContract):
    space_type = MobileNetV3Space
    settings: ClassVar[dict[str, Any]] = SMALL


class TestOfaV2(SpaceContract):
    space_type = MobileNetV3Space
    settings: ClassVar[dict[str, Any]] = {**SMALL, "blocks": "parallel", "exits": "early"}


class TestSynthetic(SpaceContract):
    space_type = SyntheticSpace
    settings: ClassVar[dict[str, Any]] = {"side": (4, 24), "macs": 2e7, "elements": 20_000, "blocks": 3}
    bounded = False

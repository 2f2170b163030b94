from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from supernet_helpers import SETTINGS, disturb

from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.supernets.elastic import ElasticBottleneck
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.sorting import sorted_order


def with_expand(architecture: MobileNetV3Architecture, expand: float) -> MobileNetV3Architecture:
    expands: Any = tuple((expand,) * depth for depth in architecture.depths)
    return dataclasses.replace(architecture, expands=expands)


@torch.no_grad()
@pytest.mark.parametrize(("stage", "kept"), [(0, [4.0]), (1, [4.0, 3.0]), (2, [4.0, 3.0, 2.0])])
def test_trained_widths_keep_their_function(stage: int, kept: list[float]) -> None:
    space = MobileNetV3Space(**SETTINGS)
    supernet = MobileNetV3Supernet(space)
    disturb(supernet)
    supernet.eval()
    x = torch.randn(4, 1, 8, 8)
    before = {expand: supernet.extract(with_expand(space.largest, expand))(x) for expand in space.expands}
    supernet.sort_channels(stage)
    for expand in space.expands:
        after = supernet.extract(with_expand(space.largest, expand))(x)
        same = torch.allclose(after, before[expand], atol=1e-4)
        assert same == (expand in kept), expand


@torch.no_grad()
def test_channels_are_in_order_of_importance_and_stay_so() -> None:
    supernet = MobileNetV3Supernet(MobileNetV3Space(**SETTINGS))
    supernet.sort_channels()
    for block in supernet.modules():
        if isinstance(block, ElasticBottleneck):
            importance = block.project.conv.weight.abs().sum(dim=(0, 2, 3))
            assert (importance.diff() <= 0).all()
            if block.se is not None:
                assert (block.se.expand.weight.abs().sum(dim=(0, 2, 3)).diff() <= 0).all()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.sort_channels()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())


def test_bands_are_sorted_on_their_own() -> None:
    importance = torch.tensor([1.0, 3.0, 2.0, 9.0, 5.0, 7.0])
    assert sorted_order(importance, [6]).tolist() == [3, 5, 4, 1, 2, 0]
    assert sorted_order(importance, [3, 6]).tolist() == [1, 2, 0, 3, 5, 4]

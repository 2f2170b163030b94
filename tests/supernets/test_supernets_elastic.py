from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from supernet_helpers import SETTINGS, disturb

from hwnas.errors import SpaceError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.elastic import ElasticBottleneck, ElasticKernel
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet


def wide_space() -> MobileNetV3Space:
    return MobileNetV3Space(**{**SETTINGS, "widths": [1.0, 1.5]})


@pytest.fixture
def supernet() -> MobileNetV3Supernet:
    made = MobileNetV3Supernet(wide_space())
    disturb(made)
    return made.eval()


def test_identity_matrices_crop_the_centre() -> None:
    kernel, weight = ElasticKernel((3, 5, 7)), torch.randn(4, 1, 7, 7)
    assert sum(parameter.numel() for parameter in kernel.parameters()) == 706
    assert torch.equal(kernel(weight, 7), weight)
    assert torch.equal(kernel(weight, 5), weight[:, :, 1:6, 1:6])
    assert torch.equal(kernel(weight, 3), weight[:, :, 2:5, 2:5])


def test_three_is_made_from_the_transformed_five() -> None:
    kernel, weight = ElasticKernel((3, 5, 7)), torch.randn(2, 1, 7, 7)
    disturb(torch.nn.ModuleDict({"k": kernel}))
    five = (weight[:, 0, 1:6, 1:6].reshape(2, 25) @ kernel.get_parameter("matrix_7to5").T).reshape(2, 5, 5)
    three = (five[:, 1:4, 1:4].reshape(2, 9) @ kernel.get_parameter("matrix_5to3").T).reshape(2, 1, 3, 3)
    assert torch.allclose(kernel(weight, 3), three, atol=1e-6)
    assert torch.allclose(kernel(weight, 5)[:, 0], five, atol=1e-6)


def test_fresh_supernet_has_identity_matrices_and_no_use_of_the_global_generator() -> None:
    state = torch.random.get_rng_state()
    supernet = MobileNetV3Supernet(wide_space(), seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    matrices = [parameter for name, parameter in supernet.named_parameters() if ".matrix_" in name]
    assert len(matrices) == 2 * 2 * 2 * 3
    assert all(torch.equal(matrix, torch.eye(len(matrix))) for matrix in matrices)


@torch.no_grad()
def test_extraction_computes_what_the_supernet_computes(supernet: MobileNetV3Supernet) -> None:
    space = supernet.space
    x = torch.randn(3, 1, 10, 10)
    for row in [space.lower, space.upper, *space.sample(np.random.default_rng(0), 25)]:
        architecture = space.decode(row)
        supernet.set_active(architecture)
        network = supernet.extract(architecture)
        assert network.architecture == supernet.active == architecture
        assert torch.allclose(network(x), supernet(x), atol=1e-5)


def test_extraction_copies(supernet: MobileNetV3Supernet) -> None:
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    network = supernet.extract(supernet.space.smallest)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_narrow_networks_use_the_first_channels(supernet: MobileNetV3Supernet) -> None:
    space = supernet.space
    small = supernet.extract(space.smallest).state_dict()
    large = supernet.extract(dataclasses.replace(space.largest, width=space.widths[0])).state_dict()
    for name in ("stages.1.0.expand.conv.weight", "stages.1.0.se.expand.bias", "stages.1.0.depth.bn.running_mean"):
        assert torch.equal(small[name], large[name][: len(small[name])])
    name = "stages.1.0.project.conv.weight"
    assert torch.equal(small[name], large[name][:, : small[name].shape[1]])
    name = "stages.1.0.se.reduce.weight"
    rows, columns = small[name].shape[:2]
    assert torch.equal(small[name], large[name][:rows, :columns])


def test_widths_share_nothing(supernet: MobileNetV3Supernet) -> None:
    space = supernet.space
    wide = space.largest
    narrow = dataclasses.replace(wide, width=space.widths[0])
    shapes = [supernet.extract(a).state_dict()["head.classifier.weight"].shape[1] for a in (narrow, wide)]
    assert shapes == [64, 96]
    supernet.train()
    supernet.set_active(narrow)
    supernet(torch.randn(4, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is None for parameter in supernet.engines[1].parameters())


def test_training_moves_only_the_statistics_in_use() -> None:
    supernet = MobileNetV3Supernet(MobileNetV3Space(**SETTINGS)).train()
    block = supernet.engines[0].get_submodule("stages.1.0")
    assert isinstance(block, ElasticBottleneck)
    mean = block.depth.bn.running_mean
    assert mean is not None
    supernet.set_active(supernet.space.smallest)
    supernet(torch.randn(4, 1, 8, 8))
    mid = supernet.space.plan(supernet.space.smallest)[3].mid_channels
    assert mid < len(mean)
    assert (mean[:mid] != 0).all()
    assert (mean[mid:] == 0).all()


def test_foreign_architectures_are_refused(supernet: MobileNetV3Supernet) -> None:
    foreign = MobileNetV3Space(classes=10).largest
    for call in (supernet.set_active, supernet.extract):
        with pytest.raises(SpaceError, match="not in space"):
            call(foreign)

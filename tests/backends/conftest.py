from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.testing.trained import TrainedExample, example_space, trained_example

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def space() -> MobileNetV3Space:
    return example_space()


@pytest.fixture(scope="session")
def example() -> TrainedExample:
    return trained_example()


@pytest.fixture(scope="session")
def random_graphs(space: MobileNetV3Space) -> list[LayerGraph]:
    encodings = space.sample(np.random.default_rng(7), 5)
    return [space.graph(space.decode(encoding)) for encoding in encodings]


@pytest.fixture(scope="session")
def resnet_graph() -> LayerGraph:
    """What MobileNetV3 has not: max pooling, a ReLU behind a sum, a ReLU whose input is read twice, no bias."""
    block = "body"
    return LayerGraph(
        (
            Layer("input", "input", (), (3, 16, 16), "stem"),
            Layer("stem.conv", "conv", ("input",), (8, 8, 8), "stem", kernel=3, stride=2, in_channels=3),
            Layer("stem.act", "relu", ("stem.conv",), (8, 8, 8), "stem"),
            Layer("stem.pool", "max_pool", ("stem.act",), (8, 4, 4), "stem", kernel=3, stride=2),
            Layer("body.a", "conv", ("stem.pool",), (8, 4, 4), block, kernel=3, groups=2, in_channels=8),
            Layer("body.act", "relu", ("body.a",), (8, 4, 4), block),
            Layer("body.b", "conv", ("body.act",), (8, 4, 4), block, in_channels=8, bias=False),
            Layer("body.add", "add", ("body.b", "body.a"), (8, 4, 4), block),
            Layer("body.out", "relu", ("body.add",), (8, 4, 4), block),
            Layer("head.pool", "global_pool", ("body.out",), (8, 1, 1), "head"),
            Layer("head.flatten", "flatten", ("head.pool",), (8,), "head"),
            Layer("head.classifier", "linear", ("head.flatten",), (5,), "head", in_channels=8),
        )
    )

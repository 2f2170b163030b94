"""A small network trained on scikit-learn's digits within seconds: real weights and real images for contract suites."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.spaces.graph import LayerGraph
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.static import StaticNetwork, build_network

SIDE = 16
TRAIN_IMAGES = 1500
STEPS = 150
BATCH = 32


def example_space() -> MobileNetV3Space:
    """Return a small space for 16-pixel grey images: squeeze-and-excitation, h-swish, ReLU and residuals all occur."""
    stages = [
        {"channels": 12, "stride": 1, "activation": "relu", "se": False},
        {"channels": 16, "stride": 2, "activation": "relu", "se": True},
        {"channels": 24, "stride": 1, "activation": "hswish", "se": True},
    ]
    return MobileNetV3Space(
        classes=10,
        in_channels=1,
        resolutions=(SIDE,),
        widths=(1.0,),
        depths=(1, 2),
        stages=stages,
        stem_channels=8,
        stem_stride=2,
        first_channels=8,
        head_channels=(64, 96),
    )


@dataclass(frozen=True)
class TrainedExample:
    """A trained network and real images it has not seen.

    Attributes:
        module: The network, in eval mode.
        graph: Its layer graph.
        images: Held-out images, float32 ``[n, 1, 16, 16]``, normalised.
        labels: Their classes, int64 ``[n]``.
        calibration: Images of the training part, float32 ``[64, 1, 16, 16]``.
    """

    module: StaticNetwork
    graph: LayerGraph
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    calibration: NDArray[np.float32]


def digit_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scikit-learn's 1,797 digits enlarged to 16 pixels and normalised, float32 ``[n, 1, 16, 16]``, and classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    images = nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    array: NDArray[np.float32] = ((images - images.mean()) / images.std()).numpy()
    return array, digits.target.astype(np.int64)


@functools.lru_cache(maxsize=1)
def trained_example() -> TrainedExample:
    """Train the largest network of :func:`example_space` on digits for a few seconds; the same one every time."""
    images, labels = digit_images()
    space = example_space()
    module = build_network(space, space.largest, seed=0).train()
    inputs, targets = torch.from_numpy(images[:TRAIN_IMAGES]), torch.from_numpy(labels[:TRAIN_IMAGES])
    optimiser = torch.optim.AdamW(module.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(inputs), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(module(inputs[chosen]), targets[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return TrainedExample(
        module.eval(),
        space.graph(space.largest),
        images[TRAIN_IMAGES:],
        labels[TRAIN_IMAGES:],
        images[:64],
    )

"""How long training will take, from a few timed steps."""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from hwnas.config import TrainSection
from hwnas.datasets.data import ImageData
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.supernets.evaluation import check_fits
from hwnas.supernets.pace import TEACHER_SHARE
from hwnas.supernets.phases import Phase
from hwnas.supernets.placing import placed, training_device
from hwnas.supernets.steps import BatchOrder, LossSetting, accumulate, stream
from hwnas.supernets.trainer import MobileNetSupernet, training_steps

SAMPLES = 8


@dataclass(frozen=True)
class TrainEstimate:
    """What training would cost here.

    Attributes:
        steps: Optimiser steps.
        seconds: Expected time on this machine as loaded now; a rough figure.
    """

    steps: int
    seconds: float


def estimate_training(supernet: MobileNetSupernet, data: ImageData, section: TrainSection) -> TrainEstimate:
    """Time the smallest and the largest network on a copy of the supernet, and add up the schedule by their MACs.

    Raises:
        SpaceError: The space does not fit the data.
        ConfigError: A phase cannot be used.
    """
    check_fits(supernet.space, data)
    space = supernet.space
    assert isinstance(space, MobileNetV3Space)
    device = training_device(section)
    work, data = copy.deepcopy(supernet).to(device).train(), placed(data, device)
    middle = space.resolutions[len(space.resolutions) // 2]
    ends = [dataclasses.replace(end, resolution=middle) for end in (space.smallest, space.largest)]
    times = [_step_seconds(work, data, section, end) for end in ends]
    macs = [float(space.graph(end).macs) for end in ends]
    slope = max(0.0, times[1] - times[0]) / max(1.0, macs[1] - macs[0])
    steps, seconds = 0, 0.0
    for phase, count in training_steps(section, data, space):
        mean = float(np.mean([_sample_macs(space, phase, middle, index) for index in range(SAMPLES)]))
        teacher = times[1] * TEACHER_SHARE if phase.distil and section.distillation else 0.0
        seconds += count * (phase.subnets * (times[0] + slope * (mean - macs[0])) + teacher)
        steps += count
    return TrainEstimate(steps, seconds)


def _sample_macs(space: MobileNetV3Space, phase: Phase, resolution: int, index: int) -> int:
    width = space.widths[index % len(space.widths)]
    architecture = phase.sample(space, stream(index), width)
    return space.graph(dataclasses.replace(architecture, resolution=resolution)).macs


def _step_seconds(
    work: MobileNetSupernet, data: ImageData, section: TrainSection, architecture: MobileNetV3Architecture
) -> float:
    """Return the faster of two gradient computations; the first also warms up."""
    batches = BatchOrder(data, section.batch_size, section.seed)
    times = []
    for step in range(2):
        start = time.perf_counter()
        accumulate(
            work,
            [architecture],
            batches.batch(0, step, architecture.resolution),
            None,
            LossSetting(),
            section.precision,
        )
        times.append(time.perf_counter() - start)
    return min(times)

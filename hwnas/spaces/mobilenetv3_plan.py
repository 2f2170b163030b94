"""Architectures of the MobileNetV3 space and the blocks they are made of, with every size worked out.

The layer graph, the blocks of the lookup table and the torch network are all made from these plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwnas.spaces.base import Architecture
from hwnas.spaces.mobilenetv3_settings import MobileNetV3Settings

SQUEEZE_REDUCTION = 4


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round ``value`` to a multiple of ``divisor``, never below it nor more than 10 % below ``value`` (MobileNet's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def squeeze_channels(mid_channels: int) -> int:
    """Return the squeeze width of squeeze-and-excitation over ``mid_channels``."""
    return make_divisible(mid_channels / SQUEEZE_REDUCTION)


def mid_channels(in_channels: int, expand: float) -> int:
    """Return the width of an inverted bottleneck that expands ``in_channels`` by ``expand``."""
    return make_divisible(round(in_channels * expand))


@dataclass(frozen=True)
class MobileNetV3Architecture(Architecture):
    """One network of the space.

    Attributes:
        resolution: Side of the input in pixels.
        width: Width multiplier.
        kernels: Kernel side of every layer present, one tuple per stage.
        expands: Expansion ratio of every layer present, one tuple per stage.
    """

    resolution: int
    width: float
    kernels: tuple[tuple[int, ...], ...]
    expands: tuple[tuple[float, ...], ...]

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers per stage."""
        return tuple(len(stage) for stage in self.kernels)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data that names every choice."""
        stages = [
            {"kernels": list(kernels), "expands": list(expands)}
            for kernels, expands in zip(self.kernels, self.expands, strict=True)
        ]
        return {"resolution": self.resolution, "width": self.width, "stages": stages}


@dataclass(frozen=True)
class BlockPlan:
    """One block with all its sizes.

    Attributes:
        name: Path of the block's module.
        op: ``stem``, ``separable`` (the first block: no expansion), ``mbconv`` or ``head``.
        in_channels: Channels read.
        mid_channels: Channels of the depthwise convolution; of the final expansion in the head.
        out_channels: Channels written; of the feature mix in the head.
        kernel: Side of the window.
        stride: Stride of the window.
        activation: ``relu`` or ``hswish``.
        squeeze: Squeeze width; 0 without squeeze-and-excitation.
        side: Side of the input in pixels.
        residual: Whether the input is added to the output.
        classes: Classes of the classifier (head only, else 0).
    """

    name: str
    op: str
    in_channels: int
    mid_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: str
    squeeze: int
    side: int
    residual: bool
    classes: int = 0

    @property
    def key(self) -> str:
        """Everything the block's latency depends on, as ``op:field=value,...``."""
        text = (
            f"{self.op}:in={self.in_channels},mid={self.mid_channels},out={self.out_channels},kernel={self.kernel},"
            f"stride={self.stride},act={self.activation},se={self.squeeze},side={self.side},residual={int(self.residual)}"
        )
        return f"{text},classes={self.classes}" if self.op == "head" else text

    @property
    def out_side(self) -> int:
        """Side of the output in pixels."""
        return -(-self.side // self.stride)


def plan_network(settings: MobileNetV3Settings, architecture: MobileNetV3Architecture) -> tuple[BlockPlan, ...]:
    """Return the blocks of an architecture in order of execution: stem, first block, layers present, head."""
    width, side = architecture.width, architecture.resolution
    stem, first = make_divisible(settings.stem_channels * width), make_divisible(settings.first_channels * width)
    plans = [
        BlockPlan("stem", "stem", settings.in_channels, 0, stem, 3, settings.stem_stride, "hswish", 0, side, False)
    ]
    side = plans[-1].out_side
    plans.append(BlockPlan("first", "separable", stem, stem, first, 3, 1, "relu", 0, side, stem == first))
    for index in range(len(settings.stages)):
        plans += _plan_stage(settings, architecture, index, plans[-1].out_channels, plans[-1].out_side)
    mid, out = (make_divisible(channels * width) for channels in settings.head_channels)
    channels, side = plans[-1].out_channels, plans[-1].out_side
    plans.append(BlockPlan("head", "head", channels, mid, out, 1, 1, "hswish", 0, side, False, settings.classes))
    return tuple(plans)


def _plan_stage(
    settings: MobileNetV3Settings, architecture: MobileNetV3Architecture, index: int, channels: int, side: int
) -> list[BlockPlan]:
    stage, plans = settings.stages[index], []
    out = make_divisible(stage.channels * architecture.width)
    pairs = zip(architecture.kernels[index], architecture.expands[index], strict=True)
    for position, (kernel, expand) in enumerate(pairs):
        stride = stage.stride if position == 0 else 1
        mid = mid_channels(channels, expand)
        squeeze = squeeze_channels(mid) if stage.se else 0
        residual = stride == 1 and channels == out
        name, act = f"stages.{index}.{position}", stage.activation
        plans.append(BlockPlan(name, "mbconv", channels, mid, out, kernel, stride, act, squeeze, side, residual))
        channels, side = out, plans[-1].out_side
    return plans

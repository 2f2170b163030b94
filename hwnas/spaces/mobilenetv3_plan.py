"""Architectures of the MobileNetV3 space and the blocks they are made of, with every size worked out.

The layer graph, the blocks of the lookup table and the torch network are all made from these plans.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hwnas.spaces.base import Architecture
from hwnas.spaces.mobilenetv3_codes import BOTTLENECK, spell_branches
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
        kernels: Kernel side of every layer present, one tuple per stage. In a space with early exits there are as many
            stages as the exit leaves: a network of three stages ends with the third exit.
        expands: Expansion ratio of every layer present, one tuple per stage.
        branches: Which branches of every layer present are on, as bits, one tuple per stage (parallel blocks only); a
            layer without the bottleneck branch names the smallest kernel and expansion, which then decide nothing.
        exits: Numbers of the exits whose logits are summed, ascending, the network's last stage among them; empty where it
            speaks with its own exit alone, as every network that is searched does.
    """

    resolution: int
    width: float
    kernels: tuple[tuple[int, ...], ...]
    expands: tuple[tuple[float, ...], ...]
    branches: tuple[tuple[int, ...], ...] = ()
    exits: tuple[int, ...] = ()

    @property
    def encodable(self) -> bool:
        """Whether an encoding stands for it: with one exit."""
        return not self.exits

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers per stage."""
        return tuple(len(stage) for stage in self.kernels)

    @property
    def layers(self) -> tuple[tuple[tuple[int, float, int], ...], ...]:
        """Kernel, expansion and branches of every layer present, one tuple per stage."""
        plain = tuple((BOTTLENECK,) * len(stage) for stage in self.kernels)
        parts = zip(self.kernels, self.expands, self.branches or plain, strict=True)
        return tuple(tuple(zip(*stage, strict=True)) for stage in parts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data that names every choice."""
        stages: list[dict[str, Any]] = [
            {"kernels": list(kernels), "expands": list(expands)}
            for kernels, expands in zip(self.kernels, self.expands, strict=True)
        ]
        for stage, branches in zip(stages, self.branches, strict=False):
            stage["branches"] = [spell_branches(layer) for layer in branches]
        kept = {"exits": list(self.exits)} if self.exits else {}
        return {"resolution": self.resolution, "width": self.width, "stages": stages, **kept}


@dataclass(frozen=True)
class BlockPlan:
    """One block with all its sizes.

    Attributes:
        name: Path of the block's module.
        op: ``stem``, ``separable`` (the first block: no expansion), ``mbconv``, ``parallel`` or ``head``.
        in_channels: Channels read.
        mid_channels: Channels of the depthwise convolution; of the final expansion in the head.
        out_channels: Channels written; of the feature mix in the head.
        kernel: Side of the window.
        stride: Stride of the window.
        activation: ``relu`` or ``hswish``.
        squeeze: Squeeze width; 0 without squeeze-and-excitation.
        side: Side of the input in pixels.
        residual: Whether the input is added to the output (of the bottleneck, in a parallel block).
        classes: Classes of the classifier (head only, else 0).
        branches: Branches that are on, as bits (parallel only, else 0); without the bottleneck, what belongs to it is 0.
        skips: How many outputs of earlier layers of the stage, from its first on, are added to this layer's; 1 in a head to
            which the sum of the earlier exits' logits is added.
        exit: Number of an early exit, from 1 (head only, else 0).
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
    branches: int = 0
    skips: int = 0
    exit: int = 0

    @property
    def stage(self) -> int | None:
        """The stage of a layer; None for stem, first block and head."""
        return int(self.name.split(".")[1]) if self.op in ("mbconv", "parallel") else None

    @property
    def bottleneck(self) -> BlockPlan:
        """The bottleneck branch of a parallel block as a block of its own."""
        return dataclasses.replace(self, name=f"{self.name}.bottleneck", op="mbconv", branches=0, skips=0)

    @property
    def key(self) -> str:
        """Everything the block's latency depends on, as ``op:field=value,...``."""
        text = (
            f"{self.op}:in={self.in_channels},mid={self.mid_channels},out={self.out_channels},kernel={self.kernel},"
            f"stride={self.stride},act={self.activation},se={self.squeeze},side={self.side},residual={int(self.residual)}"
        )
        if self.branches:
            text += f",branches={spell_branches(self.branches)}"
        if self.skips:
            text += f",skips={self.skips}"
        return f"{text},classes={self.classes}" if self.op == "head" else text

    @property
    def out_side(self) -> int:
        """Side of the output in pixels."""
        return -(-self.side // self.stride)


def plan_network(settings: MobileNetV3Settings, architecture: MobileNetV3Architecture) -> tuple[BlockPlan, ...]:
    """Return the blocks of an architecture in order of execution: stem, first block, layers present, head.

    Of several exits each head follows its stage.
    """
    width, side = architecture.width, architecture.resolution
    stem, first = make_divisible(settings.stem_channels * width), make_divisible(settings.first_channels * width)
    plans = [
        BlockPlan("stem", "stem", settings.in_channels, 0, stem, 3, settings.stem_stride, "hswish", 0, side, False)
    ]
    side = plans[-1].out_side
    plans.append(BlockPlan("first", "separable", stem, stem, first, 3, 1, "relu", 0, side, stem == first))
    last = plans[-1]
    for index in range(len(architecture.kernels)):
        plans += _plan_stage(settings, architecture, index, last.out_channels, last.out_side)
        last = plans[-1]
        if index + 1 in architecture.exits:
            head = _plan_head(settings, width, f"exits.{index}", last)
            plans.append(dataclasses.replace(head, skips=int(index + 1 > architecture.exits[0])))
    if not architecture.exits:
        plans.append(_plan_head(settings, width, "head", last))
    return tuple(plans)


def _plan_head(settings: MobileNetV3Settings, width: float, name: str, last: BlockPlan) -> BlockPlan:
    channels, side, number = last.out_channels, last.out_side, 0
    if settings.early:
        assert last.stage is not None
        number = last.stage + 1
        sizes = [channels * size / settings.stages[-1].channels for size in settings.head_channels]
    else:
        sizes = [size * width for size in settings.head_channels]
    mid, out = (make_divisible(size) for size in sizes)
    return BlockPlan(name, "head", channels, mid, out, 1, 1, "hswish", 0, side, False, settings.classes, exit=number)


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
        # y_d + sum of y_k over k = 1 .. d - 2 for the d-th layer (OFAv2's dense blocks)
        skips = max(0, position - 1) if settings.dense else 0
        plan = BlockPlan(name, "mbconv", channels, mid, out, kernel, stride, act, squeeze, side, residual, skips=skips)
        if settings.parallel:
            plan = _with_branches(plan, architecture.branches[index][position])
        plans.append(plan)
        channels, side = out, plan.out_side
    return plans


def _with_branches(plan: BlockPlan, branches: int) -> BlockPlan:
    plan = dataclasses.replace(plan, op="parallel", branches=branches)
    if branches & BOTTLENECK:
        return plan
    return dataclasses.replace(plan, mid_channels=0, kernel=0, squeeze=0, residual=False)

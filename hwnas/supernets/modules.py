"""The torch modules of a MobileNetV3 network; their paths are the names of the layer graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwnas.spaces.mobilenetv3_codes import BOTTLENECK, POINTWISE, TRANSFORM
from hwnas.spaces.mobilenetv3_plan import BlockPlan
from hwnas.supernets.normalisation import BatchNorm


def activation(name: str) -> nn.Module:
    """Return the module of an activation: ``relu`` or ``hswish``."""
    return nn.Hardswish() if name == "hswish" else nn.ReLU()


class Add(nn.Module):
    """Adds two tensors; a module so that the sum has a path."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left + right``."""
        return left + right


class Mul(nn.Module):
    """Multiplies two tensors; a module so that the product has a path."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left * right``."""
        return left * right


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and, where named, an activation."""

    act: nn.Module | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, act: str | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = BatchNorm(out_channels)
        self.act = activation(act) if act else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, in, h, w]`` to ``[b, out, h/stride, w/stride]``."""
        x = self.bn(self.conv(x))
        return x if self.act is None else self.act(x)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the channel means (Hu et al., CVPR 2018; hard sigmoid)."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(squeeze, channels, 1)
        self.gate = nn.Hardsigmoid()
        self.mul = Mul()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[b, c, h, w]``, each channel scaled."""
        gate = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        scaled: Tensor = self.mul(x, gate)
        return scaled


class StageLayer(nn.Module):
    """A layer of a stage, with the sums of its dense skips.

    Args:
        plan: The layer.
    """

    skips: nn.ModuleList | None

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.skips = nn.ModuleList(Add() for _ in range(plan.skips)) if plan.skips else None

    def skip(self, output: Tensor, outputs: list[Tensor] | None) -> Tensor:
        """Append this layer's output to those of the stage's layers so far; return it with the skipped ones added."""
        if outputs is None:
            return output
        outputs.append(output)
        for add, earlier in zip(self.skips or (), outputs, strict=False):
            output = add(output, earlier)
        return output


def run_stage(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Run the layers of a stage on ``[b, c, h, w]``, with their dense skips.

    With y_k the output of the k-th layer, what the next layer or stage reads after d layers is y_d plus the sum of y_k over
    k = 1 .. d - 2 (Sarti et al., "OFAv2", 2023); the stage's input is never added.
    """
    dense = any(layer.skips is not None for layer in layers)
    outputs: list[Tensor] = []
    for layer in layers:
        x = layer(x, outputs) if dense else layer(x)
    return x


class Bottleneck(StageLayer):
    """Inverted bottleneck: expansion (absent in the first block), depthwise, squeeze-and-excitation, projection, sum."""

    expand: ConvNorm | None
    se: SqueezeExcite | None
    add: Add | None

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__(plan)
        mid, act = plan.mid_channels, plan.activation
        self.expand = ConvNorm(plan.in_channels, mid, 1, act=act) if plan.op == "mbconv" else None
        self.depth = ConvNorm(mid, mid, plan.kernel, plan.stride, groups=mid, act=act)
        self.se = SqueezeExcite(mid, plan.squeeze) if plan.squeeze else None
        self.project = ConvNorm(mid, plan.out_channels, 1)
        self.add = Add() if plan.residual else None

    def forward(self, x: Tensor, outputs: list[Tensor] | None = None) -> Tensor:
        """Map ``[b, in, h, w]`` to ``[b, out, h/stride, w/stride]``; see :meth:`skip` for ``outputs``."""
        hidden = self.depth(x if self.expand is None else self.expand(x))
        if self.se is not None:
            hidden = self.se(hidden)
        hidden = self.project(hidden)
        return self.skip(hidden if self.add is None else self.add(hidden, x), outputs)


class Transform(ConvNorm):
    """A parallel block's input made to fit its output: pooled, with its number of channels, normalised, activated.

    The 1x1 convolution changes the number of channels. Where that stays it scales each channel, from 1 on: before batch
    normalisation that changes nothing, but runtimes fuse the two, which they do not do with a normalisation alone.
    """

    pool: nn.Module | None

    def __init__(self, plan: BlockPlan) -> None:
        groups = 1 if plan.in_channels != plan.out_channels else plan.out_channels
        super().__init__(plan.in_channels, plan.out_channels, 1, groups=groups, act=plan.activation)
        self.pool = nn.MaxPool2d(plan.stride, plan.stride, ceil_mode=True) if plan.stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, in, h, w]`` to ``[b, out, ceil(h/stride), ceil(w/stride)]``."""
        return super().forward(x if self.pool is None else self.pool(x))


class Parallel(StageLayer):
    """Up to three branches whose outputs are summed (Sarti et al., "OFAv2", 2023).

    An inverted bottleneck, a 1x1 convolution, and the transformed input.

    Args:
        plan: The layer; ``plan.branches`` says which branches there are.
    """

    bottleneck: Bottleneck | None
    pointwise: ConvNorm | None
    transform: Transform | None

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__(plan)
        channels, out, on = plan.in_channels, plan.out_channels, plan.branches
        self.bottleneck = self.make_bottleneck(plan.bottleneck) if on & BOTTLENECK else None
        self.pointwise = ConvNorm(channels, out, 1, plan.stride, act=plan.activation) if on & POINTWISE else None
        self.transform = Transform(plan) if on & TRANSFORM else None
        self.sums = nn.ModuleList(Add() for _ in range(on.bit_count() - 1))

    def make_bottleneck(self, plan: BlockPlan) -> Bottleneck:
        """Return the module of the bottleneck branch."""
        return Bottleneck(plan)

    def forward(self, x: Tensor, outputs: list[Tensor] | None = None) -> Tensor:
        """Map ``[b, in, h, w]`` to ``[b, out, h/stride, w/stride]``; see :meth:`skip` for ``outputs``."""
        parts = [branch(x) for branch in (self.bottleneck, self.pointwise, self.transform) if branch is not None]
        result = parts[0]
        for add, part in zip(self.sums, parts[1:], strict=True):
            result = add(result, part)
        return self.skip(result, outputs)


class Mix(nn.Module):
    """The feature mix of the head: 1x1 convolution on pooled features, no batch normalisation, h-swish."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, in, 1, 1]`` to ``[b, out, 1, 1]``."""
        mixed: Tensor = self.act(self.conv(x))
        return mixed


class Head(nn.Module):
    """Final expansion, global average pool, feature mix, classifier; the sum with earlier exits where the plan has one."""

    skips: nn.ModuleList | None

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.expand = ConvNorm(plan.in_channels, plan.mid_channels, 1, act=plan.activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mix = Mix(plan.mid_channels, plan.out_channels)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(plan.out_channels, plan.classes)
        self.skips = nn.ModuleList([Add()]) if plan.skips else None

    def forward(self, x: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Map ``[b, c, h, w]`` to logits ``[b, classes]``, with the sum of the ``earlier`` exits' logits added if given."""
        logits: Tensor = self.classifier(self.flatten(self.mix(self.pool(self.expand(x)))))
        if earlier is None:
            return logits
        assert self.skips is not None
        summed: Tensor = self.skips[0](logits, earlier)
        return summed


def make_block(plan: BlockPlan) -> nn.Module:
    """Return the module of a block."""
    if plan.op == "stem":
        return ConvNorm(plan.in_channels, plan.out_channels, plan.kernel, plan.stride, act=plan.activation)
    if plan.op == "head":
        return Head(plan)
    return Parallel(plan) if plan.op == "parallel" else Bottleneck(plan)


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Fill every convolution (He, fan-out; scales of channels with 1), batch normalisation (1, 0) and linear layer.

    Args:
        module: Changed in place.
        seed: Seed of a generator of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups > 1:
            nn.init.ones_(part.weight)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", generator=generator)
        elif isinstance(part, nn.Linear):
            bound = part.in_features**-0.5
            nn.init.uniform_(part.weight, -bound, bound, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
            continue
        bias = getattr(part, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)

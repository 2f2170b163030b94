"""The layers a runtime sees of each block of a MobileNetV3 network.

A layer's name is the path of the module that computes it in the torch network, for example ``stages.1.0.expand.conv``.
"""

from __future__ import annotations

import functools

from hwnas.spaces.graph import Layer
from hwnas.spaces.mobilenetv3_codes import BOTTLENECK, POINTWISE, TRANSFORM
from hwnas.spaces.mobilenetv3_plan import BlockPlan


class _Writer:
    """Collects the layers of one block; each call adds a layer that reads the last one unless told otherwise."""

    def __init__(self, block: str, source: str, channels: int, side: int) -> None:
        self.block = block
        self.source = source
        self.channels = channels
        self.side = side
        self.layers: list[Layer] = []

    def conv(
        self, path: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        before, self.channels, self.side = self.channels, channels, -(-self.side // stride)
        name, shape = f"{self.block}.{path}", (channels, self.side, self.side)
        layer = Layer(name, "conv", (self.source,), shape, self.block, kernel, stride, groups, before, bias)
        self._add(layer)

    def simple(self, path: str, op: str, *others: str) -> None:
        shape = (self.channels,) if op == "flatten" else (self.channels, self.side, self.side)
        self._add(Layer(f"{self.block}.{path}", op, (self.source, *others), shape, self.block))

    def add(self, path: str, other: str) -> None:
        """Add ``other`` to the last layer, maps or features."""
        shape = self.layers[-1].shape
        self._add(Layer(f"{self.block}.{path}", "add", (self.source, other), shape, self.block))

    def pool(self, path: str) -> None:
        self.side = 1
        self.simple(path, "global_pool")

    def max_pool(self, path: str, stride: int) -> None:
        self.side = -(-self.side // stride)
        name, shape = f"{self.block}.{path}", (self.channels, self.side, self.side)
        self._add(Layer(name, "max_pool", (self.source,), shape, self.block, stride, stride, ceil=True))

    def branch(self, source: str, channels: int, side: int) -> None:
        """Go back to ``source``: the next layer reads it."""
        self.source, self.channels, self.side = source, channels, side

    def linear(self, path: str, features: int) -> None:
        name, before, self.channels = f"{self.block}.{path}", self.channels, features
        self._add(Layer(name, "linear", (self.source,), (features,), self.block, in_channels=before))

    def squeeze_excite(self, path: str, squeeze: int) -> None:
        scaled, channels, side = self.source, self.channels, self.side
        self.pool(f"{path}.pool")
        self.conv(f"{path}.reduce", squeeze)
        self.simple(f"{path}.act", "relu")
        self.conv(f"{path}.expand", channels)
        self.simple(f"{path}.gate", "hsigmoid")
        gate, self.source, self.side = self.source, scaled, side
        self.simple(f"{path}.mul", "mul", gate)

    def _add(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.source = layer.name


@functools.lru_cache(maxsize=8192)
def block_layers(plan: BlockPlan, source: str, skipped: tuple[str, ...] = ()) -> tuple[Layer, ...]:
    """Return the layers of one block that reads layer ``source``, batch normalisation folded; the last is its output.

    Args:
        plan: The block.
        source: The layer it reads.
        skipped: Outputs that are added in the end, as many as ``plan.skips``: of earlier layers of its stage, or the sum of
            earlier exits' logits.
    """
    writer = _Writer(plan.name, source, plan.in_channels, plan.side)
    if plan.op == "stem":
        writer.conv("conv", plan.out_channels, plan.kernel, plan.stride)
        writer.simple("act", plan.activation)
    elif plan.op == "head":
        _write_head(writer, plan)
    elif plan.op == "parallel":
        _write_branches(writer, plan, source)
    else:
        _write_bottleneck(writer, plan, source)
    for index, earlier in enumerate(skipped):
        writer.add(f"skips.{index}", earlier)
    return tuple(writer.layers)


def _write_bottleneck(writer: _Writer, plan: BlockPlan, source: str, under: str = "") -> None:
    if plan.op == "mbconv":
        writer.conv(f"{under}expand.conv", plan.mid_channels)
        writer.simple(f"{under}expand.act", plan.activation)
    writer.conv(f"{under}depth.conv", plan.mid_channels, plan.kernel, plan.stride, groups=plan.mid_channels)
    writer.simple(f"{under}depth.act", plan.activation)
    if plan.squeeze:
        writer.squeeze_excite(f"{under}se", plan.squeeze)
    writer.conv(f"{under}project.conv", plan.out_channels)
    if plan.residual:
        writer.simple(f"{under}add", "add", source)


def _write_branches(writer: _Writer, plan: BlockPlan, source: str) -> None:
    outputs = []
    if plan.branches & BOTTLENECK:
        _write_bottleneck(writer, plan.bottleneck, source, "bottleneck.")
        outputs.append(writer.source)
    if plan.branches & POINTWISE:
        writer.branch(source, plan.in_channels, plan.side)
        writer.conv("pointwise.conv", plan.out_channels, 1, plan.stride)
        writer.simple("pointwise.act", plan.activation)
        outputs.append(writer.source)
    if plan.branches & TRANSFORM:
        writer.branch(source, plan.in_channels, plan.side)
        if plan.stride > 1:
            writer.max_pool("transform.pool", plan.stride)
        # a scale per channel where their number stays: what batch normalisation alone would do, in a form runtimes fuse
        groups = 1 if plan.in_channels != plan.out_channels else plan.out_channels
        writer.conv("transform.conv", plan.out_channels, groups=groups)
        writer.simple("transform.act", plan.activation)
        outputs.append(writer.source)
    writer.source = outputs[0]
    for index, output in enumerate(outputs[1:]):
        writer.simple(f"sums.{index}", "add", output)


def _write_head(writer: _Writer, plan: BlockPlan) -> None:
    writer.conv("expand.conv", plan.mid_channels)
    writer.simple("expand.act", plan.activation)
    writer.pool("pool")
    writer.conv("mix.conv", plan.out_channels, bias=False)
    writer.simple("mix.act", plan.activation)
    writer.simple("flatten", "flatten")
    writer.linear("classifier", plan.classes)

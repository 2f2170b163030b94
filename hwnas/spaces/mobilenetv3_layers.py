"""The layers a runtime sees of each block of a MobileNetV3 network.

A layer's name is the path of the module that computes it in the torch network, for example ``stages.1.0.expand.conv``.
"""

from __future__ import annotations

import functools

from hwnas.spaces.graph import Layer
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

    def pool(self, path: str) -> None:
        self.side = 1
        self.simple(path, "global_pool")

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
def block_layers(plan: BlockPlan, source: str) -> tuple[Layer, ...]:
    """Return the layers of one block that reads layer ``source``, batch normalisation folded; the last is its output."""
    writer = _Writer(plan.name, source, plan.in_channels, plan.side)
    if plan.op == "stem":
        writer.conv("conv", plan.out_channels, plan.kernel, plan.stride)
        writer.simple("act", plan.activation)
    elif plan.op == "head":
        _write_head(writer, plan)
    else:
        _write_bottleneck(writer, plan, source)
    return tuple(writer.layers)


def _write_bottleneck(writer: _Writer, plan: BlockPlan, source: str) -> None:
    if plan.op == "mbconv":
        writer.conv("expand.conv", plan.mid_channels)
        writer.simple("expand.act", plan.activation)
    writer.conv("depth.conv", plan.mid_channels, plan.kernel, plan.stride, groups=plan.mid_channels)
    writer.simple("depth.act", plan.activation)
    if plan.squeeze:
        writer.squeeze_excite("se", plan.squeeze)
    writer.conv("project.conv", plan.out_channels)
    if plan.residual:
        writer.simple("add", "add", source)


def _write_head(writer: _Writer, plan: BlockPlan) -> None:
    writer.conv("expand.conv", plan.mid_channels)
    writer.simple("expand.act", plan.activation)
    writer.pool("pool")
    writer.conv("mix.conv", plan.out_channels, bias=False)
    writer.simple("mix.act", plan.activation)
    writer.simple("flatten", "flatten")
    writer.linear("classifier", plan.classes)

"""Layer graphs as they are drawn: a cursor that appends layers, and the motifs that published networks repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwnas.spaces.graph import Layer, LayerGraph

ACTIVATIONS = ("relu", "relu", "relu6", "hswish", "swish")
GATES = ("hsigmoid", "sigmoid")
_WINDOWS = (3, 3, 5, 7)


@dataclass
class Draft:
    """Layers so far, and the tensor that the next one reads.

    Attributes:
        layers: The layers.
        at: Name of the tensor.
        channels: Its channels.
        side: Its side, pixels; 0 once it is flat.
        blocks: Blocks begun.
        activation: Activation of the network, drawn with the first one.
        product: Channels times side that blocks tend to, as published networks keep it while they halve the side.
        oddness: Share of layers whose channels are no multiple of 8.
    """

    layers: list[Layer]
    at: str
    channels: int
    side: int
    blocks: int = 0
    activation: str = ""
    product: float = 2000.0
    oddness: float = 0.0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, channels: int, side: int) -> Draft:
        """Begin with an image."""
        layer = Layer("input", "input", (), (channels, side, side), "input")
        return cls([layer], "input", channels, side, shapes={"input": layer.shape})

    def copy(self) -> Draft:
        """Return a draft that grows on its own."""
        return replace(self, layers=list(self.layers), shapes=dict(self.shapes))

    @property
    def graph(self) -> LayerGraph:
        """The network so far."""
        return LayerGraph(tuple(self.layers))

    @property
    def largest(self) -> int:
        """Elements of the largest tensor so far."""
        return max(layer.elements for layer in self.layers)

    def begin(self) -> None:
        """Begin a block."""
        self.blocks += 1

    def odd(self, rng: np.random.Generator, channels: float) -> int:
        """Return channels near a number: a multiple of 8, or now and then, in networks that have odd ones, any."""
        if rng.random() < self.oddness:
            return max(round(channels * rng.uniform(0.8, 1.2)), 4)
        return max(round(channels / 8) * 8, 8)

    def go(self, name: str) -> None:
        """Put the cursor on a tensor."""
        self.at = name
        self.channels, *sides = self.shapes[name]
        self.side = sides[0] if sides else 0

    def add(self, op: str, shape: tuple[int, ...], inputs: tuple[str, ...] | None = None, **fields: Any) -> str:
        """Append a layer and put the cursor on it; returns its name."""
        block = f"b{self.blocks}"
        name = f"{block}.{op}{len(self.layers)}"
        layer = Layer(name, op, inputs or (self.at,), shape, block, **fields)
        self.layers.append(layer)
        self.shapes[name] = shape
        self.go(name)
        return name

    def conv(self, channels: int, window: int, *, stride: int = 1, groups: int = 1, bias: bool = True) -> str:
        """Append a convolution."""
        side = self._side_after(window, stride)
        fields: dict[str, Any] = {"kernel": window, "stride": stride, "groups": groups, "in_channels": self.channels}
        return self.add("conv", (channels, side, side), bias=bias, **fields)

    def _side_after(self, window: int, stride: int) -> int:
        return (self.side + 2 * ((window - 1) // 2) - window) // stride + 1

    def act(self, rng: np.random.Generator) -> str:
        """Append the network's activation."""
        self.activation = self.activation or str(rng.choice(ACTIVATIONS))
        return self.same(self.activation)

    def same(self, op: str) -> str:
        """Append an operation that keeps the shape."""
        return self.add(op, self.shapes[self.at])

    def pool(self, op: str, window: int, stride: int) -> str:
        """Append a pool over windows."""
        side = self._side_after(window, stride)
        return self.add(op, (self.channels, side, side), kernel=window, stride=stride)

    def join(self, *names: str) -> str:
        """Append the sum of tensors of one shape."""
        return self.add("add", self.shapes[names[0]], names)

    def shortcut(self, width: int, stride: int) -> str:
        """Return the tensor that is added behind a block: this one, or a convolution of it where shapes change."""
        source = self.at
        if stride == 1 and width == self.channels:
            return source
        name = self.conv(width, 1, stride=stride)
        self.go(source)
        return name

    def concat(self, *names: str) -> str:
        """Append tensors one after the other."""
        channels = sum(self.shapes[name][0] for name in names)
        return self.add("concat", (channels, self.side, self.side), names)

    def excite(self, rng: np.random.Generator) -> str:
        """Append a squeeze-and-excitation."""
        source, channels = self.at, self.channels
        self.add("global_pool", (channels, 1, 1))
        self.conv(self.odd(rng, max(channels / rng.choice([4, 8, 16]), 8)), 1)
        self.same("relu" if rng.random() < 0.5 else self.activation or "relu")
        self.conv(channels, 1)
        gate = self.same(str(rng.choice(GATES)))
        return self.add("mul", self.shapes[source], (source, gate))

    def head(self, rng: np.random.Generator, *, wide: bool = False) -> None:
        """Append pooling and a linear layer; with ``wide`` at times no pooling, and at times a wide one before it (VGG)."""
        self.begin()
        features = self.channels
        if wide and rng.random() < 0.3:
            features *= self.side**2
        else:
            self.add("global_pool", (self.channels, 1, 1))
        self.add("flatten", (features,))
        if wide and rng.random() < 0.3:
            self.linear(int(rng.choice([512, 1024, 1280, 4096])))
            self.act(rng)
        self.linear(int(rng.choice([10, 100, 1000])))

    def linear(self, features: int) -> str:
        """Append a linear layer behind a flat tensor."""
        return self.add("linear", (features,), in_channels=self.shapes[self.at][0])


def _width(draft: Draft, rng: np.random.Generator, low: float = 0.5, high: float = 2.0, *, of: int = 0) -> int:
    """Return how many channels a block gives, from a share to a multiple of what it reads (``of``)."""
    channels = of or draft.channels
    pull = float(np.clip((draft.product / (channels * max(draft.side, 1))) ** 0.5, 0.6, 2.0))
    grown = channels * pull * float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return draft.odd(rng, float(np.clip(grown, 8, 2048)))


def _stride(draft: Draft, rng: np.random.Generator) -> int:
    return 2 if draft.side >= 8 and rng.random() < 0.3 else 1


def _plain(draft: Draft, rng: np.random.Generator) -> None:
    """Convolution, activation, at times a pool (VGG, AlexNet)."""
    draft.conv(_width(draft, rng), int(rng.choice([1, 3, 3, 3, 5, 7])), stride=1)
    draft.act(rng)
    if draft.side >= 8 and rng.random() < 0.3:
        draft.pool("max_pool", int(rng.choice([2, 3])), 2)


def _basic(draft: Draft, rng: np.random.Generator) -> None:
    """Two convolutions and a shortcut (ResNet-18)."""
    stride = _stride(draft, rng)
    width = draft.channels if stride == 1 and rng.random() < 0.7 else _width(draft, rng, 1.0, 2.0)
    shortcut = draft.shortcut(width, stride)
    draft.conv(width, 3, stride=stride)
    draft.act(rng)
    draft.conv(width, 3)
    draft.join(draft.at, shortcut)
    draft.act(rng)


def _bottleneck(draft: Draft, rng: np.random.Generator) -> None:
    """Down, grouped or full 3 x 3, up, and a shortcut (ResNet-50, ResNeXt, RegNet)."""
    stride = _stride(draft, rng)
    per_group = int(rng.choice([4, 8, 16, 24, 48, 64]))
    inner = draft.odd(rng, float(np.clip(draft.channels * rng.uniform(0.25, 1.0), 8, 1024)))
    groups = 1
    if rng.random() < 0.5:
        groups = max(inner // per_group, 1)
        inner = groups * per_group
    width = draft.channels if rng.random() < 0.6 else _width(draft, rng, 1.0, 2.0)
    shortcut = draft.shortcut(width, stride)
    draft.conv(inner, 1)
    draft.act(rng)
    draft.conv(inner, 3, stride=stride, groups=groups)
    draft.act(rng)
    if rng.random() < 0.3:
        draft.excite(rng)
    draft.conv(width, 1)
    draft.join(draft.at, shortcut)
    draft.act(rng)


def _inverted(draft: Draft, rng: np.random.Generator) -> None:
    """Up, depthwise, at times excited, down (MobileNetV2 and V3, MnasNet, EfficientNet)."""
    source, stride = draft.at, _stride(draft, rng)
    expand = float(rng.choice([1, 3, 4, 6]))
    if expand > 1:
        draft.conv(draft.odd(rng, draft.channels * expand), 1)
        draft.act(rng)
    draft.conv(draft.channels, int(rng.choice(_WINDOWS)), stride=stride, groups=draft.channels)
    draft.act(rng)
    if rng.random() < 0.4:
        draft.excite(rng)
    channels = draft.shapes[source][0]
    same = stride == 1 and rng.random() < 0.6
    draft.conv(channels if same else _width(draft, rng, 0.8, 1.4, of=channels), 1)
    if same:
        draft.join(draft.at, source)


def _fused(draft: Draft, rng: np.random.Generator) -> None:
    """Full 3 x 3 upwards, then down (EfficientNetV2)."""
    source, stride = draft.at, _stride(draft, rng)
    draft.conv(draft.odd(rng, draft.channels * float(rng.choice([1, 2, 4]))), 3, stride=stride)
    draft.act(rng)
    channels = draft.shapes[source][0]
    draft.conv(channels if stride == 1 else _width(draft, rng, 0.8, 1.4, of=channels), 1)
    if draft.channels == channels and stride == 1:
        draft.join(draft.at, source)


def _separable(draft: Draft, rng: np.random.Generator) -> None:
    """Depthwise, then pointwise (MobileNetV1)."""
    draft.conv(draft.channels, int(rng.choice(_WINDOWS)), stride=_stride(draft, rng), groups=draft.channels)
    draft.act(rng)
    draft.conv(_width(draft, rng, 0.8, 2.0), 1)
    draft.act(rng)


def _dense(draft: Draft, rng: np.random.Generator) -> None:
    """Layers that add to what all before them gave, then a transition (DenseNet)."""
    growth = draft.odd(rng, float(rng.choice([12, 16, 24, 32, 48])))
    for _ in range(int(rng.integers(1, 4))):
        source = draft.at
        draft.same("batch_norm")
        draft.same("relu")
        draft.conv(4 * growth, 1)
        draft.same("relu")
        draft.conv(growth, 3, bias=False)
        draft.concat(source, draft.at)
    if draft.side >= 8 and rng.random() < 0.5:
        draft.same("batch_norm")
        draft.same("relu")
        draft.conv(max(draft.channels // 2, 8), 1, bias=False)
        draft.pool("avg_pool", 2, 2)


def _branches(draft: Draft, rng: np.random.Generator) -> None:
    """Branches of different windows side by side (SqueezeNet, GoogLeNet)."""
    if rng.random() < 0.5:
        draft.conv(draft.odd(rng, max(draft.channels / 4, 8)), 1)
        draft.act(rng)
    source, ends = draft.at, []
    for window in rng.choice([1, 3, 5], size=int(rng.integers(2, 4)), replace=False):
        draft.go(source)
        if window > 1 and rng.random() < 0.5:
            draft.conv(_width(draft, rng, 0.2, 0.6), 1)
            draft.act(rng)
        draft.conv(_width(draft, rng, 0.3, 1.5), int(window))
        ends.append(draft.act(rng))
    if rng.random() < 0.5:
        draft.go(source)
        draft.pool(str(rng.choice(["max_pool", "avg_pool"])), 3, 1)
        draft.conv(_width(draft, rng, 0.2, 0.6), 1)
        ends.append(draft.act(rng))
    draft.concat(*ends)
    if draft.side >= 8 and rng.random() < 0.3:
        draft.pool("max_pool", 3, 2)


def _shuffled(draft: Draft, rng: np.random.Generator) -> None:
    """Half of the channels through a branch, then shuffled (ShuffleNetV2)."""
    if draft.channels % 2:
        draft.conv(draft.channels + 1, 1)
        draft.act(rng)
    source, half = draft.at, draft.channels // 2
    draft.add("slice", (half, draft.side, draft.side), start=0)
    left = draft.at
    draft.go(source)
    draft.add("slice", (half, draft.side, draft.side), start=half)
    draft.conv(half, 1)
    draft.act(rng)
    draft.conv(half, int(rng.choice(_WINDOWS)), groups=half)
    draft.conv(half, 1)
    draft.act(rng)
    draft.concat(left, draft.at)
    draft.add("shuffle", draft.shapes[draft.at], groups=2)


def _perceptron(draft: Draft, rng: np.random.Generator) -> None:
    """Convolutions of single pixels: large products with few positions (heads, classifiers)."""
    if draft.side > 1:
        draft.add("global_pool", (draft.channels, 1, 1))
    draft.conv(draft.odd(rng, float(np.exp(rng.uniform(np.log(64), np.log(4096))))), 1)
    draft.act(rng)


MOTIFS: dict[str, Callable[[Draft, np.random.Generator], None]] = {
    "plain": _plain,
    "basic": _basic,
    "bottleneck": _bottleneck,
    "inverted": _inverted,
    "fused": _fused,
    "separable": _separable,
    "dense": _dense,
    "branches": _branches,
    "shuffled": _shuffled,
    "perceptron": _perceptron,
}
"""Family -> what appends one of its blocks."""

"""The network of an architecture as a list of layers: what is counted, built for profiling, and mapped to blocks.

A layer graph is what a runtime gets to see: batch normalisation is already folded into the convolution before it.
``supernets`` builds the same network in torch; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OPS = (
    *("input", "conv", "linear", "batch_norm", "relu", "relu6", "hswish", "hsigmoid", "sigmoid", "swish", "add", "mul"),
    *("max_pool", "avg_pool", "global_pool", "flatten", "concat", "slice", "shuffle"),
)
"""Operations a layer graph may hold. ``batch_norm`` is one that no convolution can take in; ``shuffle`` interleaves channels
of ``groups`` groups (Zhang et al., "ShuffleNet", 2018), ``slice`` takes the channels from ``start`` on."""

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of one weight or activation at each precision."""

_INT32_BYTES = 4


@dataclass(frozen=True)
class Layer:
    """One operation.

    Attributes:
        name: Path of the layer, unique in the graph; a block's layers start with the block's name and a dot.
        op: One of :data:`OPS`.
        inputs: Names of the layers it reads.
        shape: Output shape without the batch, ``(channels, height, width)`` or ``(features,)``.
        block: Name of the block it belongs to.
        kernel: Side of a convolution's or pool's window.
        stride: Stride of a convolution or pool.
        groups: Groups of a convolution or shuffle.
        in_channels: Channels (features) read by a convolution or linear layer.
        bias: Whether a convolution or linear layer has a bias (folded batch normalisation counts).
        start: First channel of a slice.
        ceil: Whether a pool rounds its output side up, so that an odd side loses no pixel.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    block: str
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    in_channels: int = 0
    bias: bool = True
    start: int = 0
    ceil: bool = False

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"op={self.op!r} must be one of {OPS}")

    @property
    def padding(self) -> int:
        """Symmetric padding of a convolution or pool; none for windows of 2."""
        return (self.kernel - 1) // 2

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight of a convolution ``(out, in/groups, k, k)`` or linear layer ``(out, in)``; else ``()``."""
        if self.op == "conv":
            return (self.shape[0], self.in_channels // self.groups, self.kernel, self.kernel)
        if self.op == "linear":
            return (self.shape[0], self.in_channels)
        return ()

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        if self.op == "batch_norm":
            return 2 * self.shape[0]
        if not self.weight_shape:
            return 0
        return _product(self.weight_shape) + (self.shape[0] if self.bias else 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one image (convolutions and linear layers)."""
        if self.op == "conv":
            return _product(self.weight_shape) * self.shape[1] * self.shape[2]
        return _product(self.weight_shape) if self.op == "linear" else 0

    @property
    def elements(self) -> int:
        """Elements of the output for one image."""
        return _product(self.shape)


def _product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


@dataclass(frozen=True)
class LayerGraph:
    """The layers of one network in an order in which they can run; the first is the input, the last the output."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for layer in self.layers:
            missing = [name for name in layer.inputs if name not in seen]
            if missing or layer.name in seen:
                raise ValueError(f"layer {layer.name!r} is repeated or reads unknown layers {missing}")
            seen.add(layer.name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape ``(channels, height, width)`` of the input."""
        return self.layers[0].shape

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights and biases (batch normalisation folded)."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def peak_activation_elements(self) -> int:
        """Largest number of activation elements alive at once for one image, in this order of execution."""
        last_use = {name: index for index, layer in enumerate(self.layers) for name in layer.inputs}
        alive: dict[str, int] = {}
        peak = 0
        for index, layer in enumerate(self.layers):
            alive[layer.name] = layer.elements
            peak = max(peak, sum(alive.values()))
            alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > index}
        return peak

    def peak_memory_bytes(self, precision: str, batch: int = 1) -> int:
        """Bytes of the activations alive at once, at the peak, for ``batch`` images; what a runtime needs beside them is its own."""
        return self.peak_activation_elements * ELEMENT_BYTES[precision] * batch

    def size_bytes(self, precision: str) -> int:
        """Bytes of weights and biases; biases and batch normalisation of an int8 network have 32 bits.

        Scales of quantised tensors and the structure of a model file come on top.
        """
        weights = sum(_product(layer.weight_shape) for layer in self.layers if layer.weight_shape)
        width = ELEMENT_BYTES[precision]
        others = _INT32_BYTES if precision == "int8" else width
        return weights * width + (self.parameters - weights) * others

"""An OpenVINO model straight from a layer graph, in float32 or quantised where NNCF would quantise.

NNCF takes seconds for a network; this takes hundredths of one. The structure is that of the IR which
:mod:`hwnas.backends.openvino` has NNCF make: FakeQuantize with 256 levels in front of convolutions, linear layers,
additions, multiplications and poolings, one per tensor and shared by its readers; int8 weight constants with one scale per
output channel; nothing between a convolution and its activation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.backends._openvino import import_openvino
from hwnas.backends.naming import INPUT, OUTPUT, tensor_names
from hwnas.backends.synthetic import (
    WeightPool,
    Weights,
    activation_ranges,
    float_weights,
    int8_weights,
    norm_statistics,
)
from hwnas.spaces.graph import Layer, LayerGraph

_QUANTISED = frozenset({"conv", "linear", "add", "mul", "global_pool"})
"""Operations that read quantised tensors."""
_PASSING = frozenset({"flatten", "max_pool"})
"""Operations through which quantisation moves towards their input."""


def _is_grouped(layer: Layer) -> bool:
    return layer.op == "conv" and layer.groups > 1


def _named(node: Any, name: str) -> Any:
    node.set_friendly_name(name)
    return node


def quantised_layers(graph: LayerGraph) -> frozenset[str]:
    """Return the layers of whose output some reader wants a quantised version."""
    readers: dict[str, list[Layer]] = {layer.name: [] for layer in graph.layers}
    for layer in graph.layers:
        for name in layer.inputs:
            readers[name].append(layer)
    wanted: set[str] = set()
    for layer in reversed(graph.layers):
        for reader in readers[layer.name]:
            if reader.op in _QUANTISED or (reader.op in _PASSING and reader.name in wanted):
                wanted.add(layer.name)
    return frozenset(wanted)


class _Writer:
    """Writes one graph; ``raw`` and ``quantised`` map a layer to the node its readers take."""

    def __init__(self, graph: LayerGraph, int8: bool, seed: int, weights: Weights | None) -> None:
        self.ov = import_openvino()
        self.ops: Any = self.ov.opset13
        self.graph = graph
        self.int8 = int8
        self.pool = WeightPool(seed)
        self.weights = weights
        self.ranges = activation_ranges(graph)
        self.wanted = quantised_layers(graph) if int8 else frozenset()
        self.raw: dict[str, Any] = {}
        self.quantised: dict[str, Any] = {}

    def constant(self, name: str, array: NDArray[Any]) -> Any:
        """Add a constant. Everything is named, or files of one network would differ by OpenVINO's running numbers."""
        return _named(self.ops.constant(array), name)

    def read(self, layer: Layer) -> list[Any]:
        """Return the nodes a layer reads, quantised where it wants them so."""
        quantising = layer.op in _QUANTISED or (layer.op in _PASSING and layer.name in self.wanted)
        source = self.quantised if self.int8 and quantising else self.raw
        return [source[name] for name in layer.inputs]

    def weight(self, layer: Layer) -> tuple[Any, NDArray[np.float32] | None]:
        """Return the weight node, in OpenVINO's layout, and the bias."""
        shape, name = layer.weight_shape, f"{layer.name}.weight"
        outer = 1
        if _is_grouped(layer):
            shape, outer = (layer.groups, shape[0] // layer.groups, *shape[1:]), 2
        if not self.int8:
            weight, bias = float_weights(layer, self.pool, self.weights)
            return self.constant(name, weight.reshape(shape)), bias
        found = int8_weights(layer, self.pool, self.weights)
        scale = found.scale.reshape(shape[:outer] + (1,) * (len(shape) - outer))
        steps = self.ops.convert(self.constant(f"{name}.steps", found.steps.reshape(shape)), np.float32)
        scaled = self.ops.multiply(_named(steps, f"{name}.float"), self.constant(f"{name}.scale", scale))
        return _named(scaled, name), found.bias

    def compute(self, layer: Layer, source: Any) -> Any:
        """Add a convolution or linear layer with its bias; the sum carries the layer's name."""
        weight, bias = self.weight(layer)
        if layer.op == "linear":
            node = self.ops.matmul(source, weight, False, True)
        else:
            pads = [layer.padding] * 2
            convolution = self.ops.group_convolution if _is_grouped(layer) else self.ops.convolution
            node = convolution(source, weight, [layer.stride] * 2, pads, pads, [1, 1])
        if bias is None:
            return node
        shape = (1, -1, 1, 1) if layer.op == "conv" else (1, -1)
        node = _named(node, f"{layer.name}/WithoutBiases")
        return self.ops.add(node, self.constant(f"{layer.name}.bias", bias.reshape(shape)))

    def operation(self, layer: Layer, inputs: list[Any]) -> Any:
        """Add the node of a layer."""
        ops, name = self.ops, layer.name
        if layer.op in ("conv", "linear"):
            return self.compute(layer, inputs[0])
        if layer.op == "hsigmoid":
            alpha = self.constant(f"{name}.alpha", np.array(1 / 6, dtype=np.float32))
            return ops.hard_sigmoid(inputs[0], alpha, self.constant(f"{name}.beta", np.array(0.5, dtype=np.float32)))
        if layer.op == "relu6":
            return ops.clamp(inputs[0], 0.0, 6.0)
        if layer.op == "global_pool":
            return ops.reduce_mean(inputs[0], self.constant(f"{name}.axes", np.array([2, 3], dtype=np.int64)), True)
        if layer.op == "flatten":
            return ops.reshape(inputs[0], self.constant(f"{name}.shape", np.array([0, -1], dtype=np.int64)), True)
        if layer.op in ("max_pool", "avg_pool"):
            return self.pool_over(layer, inputs[0])
        if layer.op in ("slice", "shuffle"):
            return self.move(layer, inputs[0])
        if layer.op == "batch_norm":
            scale, shift, mean, variance = norm_statistics(layer, self.pool)
            factor = (scale / np.sqrt(variance + np.float32(1e-5))).reshape(1, -1, 1, 1)
            offset = shift.reshape(factor.shape) - mean.reshape(factor.shape) * factor
            scaled = _named(ops.multiply(inputs[0], self.constant(f"{name}.factor", factor)), f"{name}/scaled")
            return ops.add(scaled, self.constant(f"{name}.offset", offset))
        if layer.op == "concat":
            return ops.concat(inputs, 1)
        plain = {"relu": ops.relu, "hswish": ops.hswish, "sigmoid": ops.sigmoid, "swish": ops.swish, "add": ops.add}
        return {**plain, "mul": ops.multiply}[layer.op](*inputs)

    def pool_over(self, layer: Layer, source: Any) -> Any:
        """Add a pool over windows."""
        strides, window, pads = [layer.stride] * 2, [layer.kernel] * 2, [layer.padding] * 2
        rounding = "ceil" if layer.ceil else "floor"
        if layer.op == "max_pool":
            return self.ops.max_pool(source, strides, [1, 1], pads, pads, window, rounding_type=rounding)
        return self.ops.avg_pool(source, strides, pads, pads, window, False, rounding_type=rounding)

    def move(self, layer: Layer, source: Any) -> Any:
        """Add a slice or shuffle of channels."""
        ops, name = self.ops, layer.name

        def integers(what: str, values: list[int]) -> Any:
            return self.constant(f"{name}.{what}", np.array(values, dtype=np.int64))

        if layer.op == "slice":
            ends = integers("start", [layer.start]), integers("stop", [layer.start + layer.shape[0]])
            return ops.slice(source, *ends, integers("step", [1]), integers("axis", [1]))
        channels, *sides = layer.shape
        shape = integers("groups", [0, layer.groups, channels // layer.groups, *sides])
        split = _named(ops.reshape(source, shape, True), f"{name}/groups")
        turned = _named(ops.transpose(split, integers("order", [0, 2, 1, 3, 4])), f"{name}/turned")
        return ops.reshape(turned, integers("joined", [0, *layer.shape]), True)

    def finish(self, layer: Layer, node: Any, name: str) -> None:
        """Name a layer's output and quantise it where its readers want that."""
        output = _named(node, name).output(0)
        output.set_names({name})
        self.raw[layer.name] = output
        if layer.name not in self.wanted:
            return
        if layer.op in _PASSING:
            self.quantised[layer.name] = output
            return
        found = self.ranges[layer.name]
        low = self.constant(f"{name}/fq_output_0/low", np.array(found.low, dtype=np.float32))
        high = self.constant(f"{name}/fq_output_0/high", np.array(found.high, dtype=np.float32))
        converted = self.ops.fake_quantize(output, low, high, low, high, 256)
        self.quantised[layer.name] = _named(converted, f"{name}/fq_output_0").output(0)


def build_model(
    graph: LayerGraph, precision: str, *, batch: int = 1, seed: int = 0, weights: Weights | None = None
) -> Any:
    """Return the ``openvino.Model`` of a layer graph.

    Args:
        graph: Layers; the first is the input (float32 ``[batch, channels, height, width]``), the last the output.
        precision: ``fp32`` or ``int8``.
        batch: Images per inference, fixed in the file.
        seed: Seed of the random weights.
        weights: Weights by layer name instead of random ones; activation ranges stay synthetic.

    Raises:
        ModelFileError: Weights are missing or have another shape.
    """
    writer = _Writer(graph, precision == "int8", seed, weights)
    names = tensor_names(graph)
    first, last = graph.layers[0], graph.layers[-1]
    parameter = writer.ops.parameter([batch, *first.shape], np.float32)
    writer.finish(first, parameter, INPUT)
    for layer in graph.layers[1:]:
        writer.finish(layer, writer.operation(layer, writer.read(layer)), names[layer.name])
    result = _named(writer.ops.result(writer.raw[last.name]), f"{OUTPUT}/sink_port_0")
    return writer.ov.Model([result], [parameter], "hwnas")

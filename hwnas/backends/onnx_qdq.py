"""An int8 ONNX model straight from a layer graph, quantised where ONNX Runtime's static quantiser would quantise.

For ONNX Runtime: uint8 asymmetric activations, int8 symmetric weights per output channel, int32 biases with scale = input
scale x weight scale. The placement of QuantizeLinear/DequantizeLinear follows ``onnxruntime.quantization.quantize_static``
(QDQ format): inputs and outputs of every operation it knows; a ReLU behind such an operation disappears into its output
range; h-swish and hard sigmoid stay in float between two conversions. Other runtimes want another :class:`Scheme` of the same
quantiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from hwnas.backends.naming import OUTPUT, tensor_names
from hwnas.backends.onnx_graph import GraphParts, add_layer_node, finish_model
from hwnas.backends.synthetic import Range, WeightPool, Weights, activation_ranges, int8_weights
from hwnas.spaces.graph import Layer, LayerGraph

_QUANTISED = frozenset({"conv", "linear", "add", "mul", "global_pool"})
"""Operations whose inputs and output are quantised."""
_PASSING = frozenset({"flatten", "max_pool"})
"""Operations that keep the scale of their input, and are quantised only where it is."""


@dataclass(frozen=True)
class Scheme:
    """What a runtime wants quantised, and how. Weights are int8, symmetric, per output channel in any case.

    Attributes:
        symmetric: Activations are int8 around zero; else uint8 with a zero point.
        outputs: Outputs of operations are quantised, too; else only their inputs, and no ReLU disappears.
        bias: Biases are int32; else they stay in float.
    """

    symmetric: bool = False
    outputs: bool = True
    bias: bool = True


ONNX_RUNTIME = Scheme()
TENSORRT = Scheme(symmetric=True, outputs=False, bias=False)
"""TensorRT knows neither zero points nor int32 to dequantise, and fuses an activation into the convolution before it only if
nothing is quantised between them (NVIDIA, "Working with Quantized Types", on the placement of Q/DQ layers)."""


@dataclass(frozen=True)
class Placement:
    """Where activations are quantised.

    Attributes:
        quantised: Layers whose output goes through QuantizeLinear and DequantizeLinear.
        removed: ReLU layers that need no node -> the layer whose node produces their output.
    """

    quantised: frozenset[str]
    removed: dict[str, str]


def place(graph: LayerGraph, scheme: Scheme = ONNX_RUNTIME) -> Placement:
    """Return what the static quantiser quantises, deciding layer by layer in order of execution as it does."""
    if not scheme.outputs:
        inputs = {name for layer in graph.layers if layer.op in _QUANTISED for name in layer.inputs}
        return Placement(frozenset(inputs), {})
    readers: dict[str, int] = {}
    for layer in graph.layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    marked: set[str] = set()
    removed: dict[str, str] = {}
    for layer in graph.layers[1:]:
        source = layer.inputs[0]
        if layer.op in _QUANTISED:
            marked.update((*layer.inputs, layer.name))
        elif layer.op in _PASSING and source in marked:
            marked.add(layer.name)
        elif layer.op in ("relu", "relu6") and source in marked:
            if readers[source] == 1 and source != graph.layers[0].name:
                marked.discard(source)
                removed[layer.name] = source
            marked.add(layer.name)
    return Placement(frozenset(marked), removed)


class _Writer:
    """Writes one graph; ``reads`` maps a layer to the tensor its readers see."""

    def __init__(self, graph: LayerGraph, seed: int, weights: Weights | None, scheme: Scheme) -> None:
        self.parts = GraphParts()
        self.graph = graph
        self.scheme = scheme
        self.placement = place(graph, scheme)
        self.ranges = activation_ranges(graph)
        # no two scales of a calibrated network are equal; where they are, TensorRT-RTX leaves conversions and kernels out
        self.stretch = {layer.name: 1 + 0.25 * index / len(graph.layers) for index, layer in enumerate(graph.layers)}
        self.pool = WeightPool(seed)
        self.weights = weights
        self.reads: dict[str, str] = {}
        self.produces = {source: name for name, source in self.placement.removed.items()}

    def _quantisation(self, name: str, quantisation: Range) -> list[str]:
        scale, zero = quantisation.scale, np.array(quantisation.zero_point, dtype=np.uint8)
        if self.scheme.symmetric:
            scale = max(-quantisation.low, quantisation.high) / 127 * self.stretch[name]
            zero = np.array(0, dtype=np.int8)
        return [
            self.parts.constant(f"{name}.scale", np.array(scale, dtype=np.float32)),
            self.parts.constant(f"{name}.zero_point", zero),
        ]

    def _weight(self, name: str, steps: np.ndarray[tuple[int, ...], np.dtype[np.generic]], scale: object) -> str:
        parameters = [
            self.parts.constant(f"{name}.steps", steps),
            self.parts.constant(f"{name}.scale", np.asarray(scale, dtype=np.float32)),
            self.parts.constant(f"{name}.zero_point", np.zeros(steps.shape[0], dtype=steps.dtype)),
        ]
        return self.parts.node("DequantizeLinear", parameters, name, axis=0)

    def parameters(self, layer: Layer) -> list[str]:
        """Add weight and bias of a layer; return the tensors its node reads."""
        if not layer.weight_shape:
            return []
        quantised = int8_weights(layer, self.pool, self.weights)
        names = [self._weight(f"{layer.name}.weight", quantised.steps, quantised.scale)]
        if quantised.bias is not None and not self.scheme.bias:
            names.append(self.parts.constant(f"{layer.name}.bias", quantised.bias))
        elif quantised.bias is not None:
            # the runtime fuses a convolution only if the bias scale is exactly this product
            scale = np.float32(self.ranges[layer.inputs[0]].scale) * quantised.scale
            limit = np.iinfo(np.int32).max
            steps = np.clip(np.rint(quantised.bias / scale.astype(np.float64)), -limit, limit).astype(np.int32)
            names.append(self._weight(f"{layer.name}.bias", steps, scale))
        return names

    def write(self, layer: Layer) -> None:
        """Add a layer and, where they belong, the conversions behind its output."""
        if layer.name in self.placement.removed:
            return
        result = self.produces.get(layer.name, layer.name)
        tensor, output = result, tensor_names(self.graph)[result]
        quantised = result in self.placement.quantised
        if not quantised:
            tensor = output
        elif output == OUTPUT:
            tensor = f"{result}.float"
        inputs = [self.reads[name] for name in layer.inputs]
        parameters = self.parameters(layer)
        add_layer_node(self.parts, layer, inputs, parameters, tensor)
        self.reads[result] = self.convert(result, tensor, output) if quantised else tensor

    def convert(self, name: str, tensor: str, output: str) -> str:
        """Quantise and dequantise ``tensor``; return what its readers see."""
        parameters = self._quantisation(name, self.ranges[name])
        quantised = self.parts.node("QuantizeLinear", [tensor, *parameters], f"{name}.quantize")
        result = output if output == OUTPUT else f"{name}.dequantize"
        return self.parts.node("DequantizeLinear", [quantised, *parameters], result, f"{name}.dequantize")


def build_int8(
    graph: LayerGraph,
    *,
    batch: int = 1,
    seed: int = 0,
    weights: Weights | None = None,
    scheme: Scheme = ONNX_RUNTIME,
) -> onnx.ModelProto:
    """Return the quantised model of a layer graph; input and output stay float32.

    Args:
        graph: Layers; the first is the input, the last the output.
        batch: Images per inference, fixed in the file.
        seed: Seed of the random weights.
        weights: Weights by layer name instead of random ones; activation ranges stay synthetic.
        scheme: What the runtime wants quantised.

    Raises:
        ModelFileError: Weights are missing or have another shape.
    """
    writer = _Writer(graph, seed, weights, scheme)
    first = graph.layers[0].name
    names = tensor_names(graph)
    quantised = first in writer.placement.quantised
    writer.reads[first] = writer.convert(first, names[first], names[first]) if quantised else names[first]
    for layer in graph.layers[1:]:
        writer.write(layer)
    return finish_model(writer.parts, graph, batch)

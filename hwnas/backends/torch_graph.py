"""A plain torch module from a layer graph: any graph runs in torch, whatever space it comes from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hwnas.backends.synthetic import WeightPool, Weights, float_weights, norm_statistics
from hwnas.spaces.graph import Layer, LayerGraph


class Add(nn.Module):
    """Sum of two tensors."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``a + b``."""
        return a + b


class Concat(nn.Module):
    """Tensors one after the other along the channels."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Return ``[b, sum of channels, ...]``."""
        return torch.cat(parts, dim=1)


class Slice(nn.Module):
    """Some of the channels.

    Args:
        start: The first.
        channels: How many.
    """

    def __init__(self, start: int, channels: int) -> None:
        super().__init__()
        self.start, self.channels = start, channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[b, channels, ...]``."""
        return x.narrow(1, self.start, self.channels)


class Mul(nn.Module):
    """Product of two tensors, the second broadcast."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``a * b``."""
        return a * b


_SIMPLE: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "hsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "swish": nn.SiLU,
    "concat": Concat,
    "global_pool": lambda: nn.AdaptiveAvgPool2d(1),
    "flatten": nn.Flatten,
    "add": Add,
    "mul": Mul,
}


def _module(layer: Layer, pool: WeightPool, weights: Weights | None) -> nn.Module:
    if layer.op in _SIMPLE:
        return _SIMPLE[layer.op]()
    if layer.op == "max_pool":
        return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil)
    if layer.op == "avg_pool":
        return nn.AvgPool2d(layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil)
    if layer.op == "slice":
        return Slice(layer.start, layer.shape[0])
    if layer.op == "shuffle":
        return nn.ChannelShuffle(layer.groups)
    if layer.op == "batch_norm":
        return _norm(layer, pool)
    module: nn.Conv2d | nn.Linear
    if layer.op == "conv":
        module = nn.Conv2d(
            layer.in_channels,
            layer.shape[0],
            layer.kernel,
            layer.stride,
            layer.padding,
            groups=layer.groups,
            bias=layer.bias,
        )
    else:
        module = nn.Linear(layer.in_channels, layer.shape[0], bias=layer.bias)
    weight, bias = float_weights(layer, pool, weights)
    module.weight = nn.Parameter(torch.from_numpy(weight.copy()))
    if bias is not None:
        module.bias = nn.Parameter(torch.from_numpy(bias.copy()))
    return module


def _norm(layer: Layer, pool: WeightPool) -> nn.Module:
    module = nn.BatchNorm2d(layer.shape[0]).eval()
    scale, shift, mean, variance = map(torch.from_numpy, norm_statistics(layer, pool))
    module.weight, module.bias = nn.Parameter(scale), nn.Parameter(shift)
    module.running_mean, module.running_var = mean, variance
    return module


class GraphModule(nn.Module):
    """The network of a layer graph; layer ``L`` is computed by the submodule at path ``L``.

    Args:
        graph: Layers; the first is the input, the last the output.
        seed: Seed of random weights.
        weights: Weights by layer name instead of random ones.

    Raises:
        ModelFileError: Weights are missing or have another shape.
    """

    def __init__(self, graph: LayerGraph, *, seed: int = 0, weights: Weights | None = None) -> None:
        super().__init__()
        self.graph = graph
        pool = WeightPool(seed)
        for layer in graph.layers[1:]:
            parent: nn.Module = self
            *path, name = layer.name.split(".")
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(name, _module(layer, pool, weights))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, channels, height, width]`` to the output of the last layer."""
        values = {self.graph.layers[0].name: x}
        for layer in self.graph.layers[1:]:
            values[layer.name] = self.get_submodule(layer.name)(*(values[name] for name in layer.inputs))
        return values[self.graph.layers[-1].name]

"""Weights and scales out of nothing: random but well scaled, so that a network times as a trained one does.

A float network whose activations vanish would be timed on denormal numbers, which are slow; an int8 network whose scales
contradict each other (bias scale is not input scale x weight scale) loses the runtime's fusions and times several times
slower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import ModelFileError
from hwnas.spaces.graph import Layer, LayerGraph

FloatArray = NDArray[np.float32]
Weights = Mapping[str, tuple[NDArray[Any], NDArray[Any] | None]]
"""Layer name -> (weight, bias), in the shapes of ``Layer.weight_shape`` and ``(out,)``."""

INT8_STEPS = 48
"""int8 steps in one standard deviation of a random weight: 127 steps are then about 2.6 deviations, clipped there."""


class WeightPool:
    """Random weights cut from one array of standard normal numbers, so that building a network draws none.

    Args:
        seed: Seed of the pool; equal seeds give equal weights for equal layers in equal order.
    """

    size = 262_139  # a prime, so that rows of a large weight do not repeat

    def __init__(self, seed: int) -> None:
        values = np.random.default_rng(seed).standard_normal(self.size, dtype=np.float32)
        steps = np.clip(np.rint(values * INT8_STEPS), -127, 127).astype(np.int8)
        self._float = np.concatenate([values, values])
        self._int8 = np.concatenate([steps, steps])
        self._offset = 0

    def _take(self, values: NDArray[Any], count: int) -> NDArray[Any]:
        start, self._offset = self._offset, (self._offset + count) % self.size
        ring = values[start : start + self.size]
        return ring[:count] if count <= self.size else np.resize(ring, count)

    def floats(self, count: int) -> FloatArray:
        """Return ``count`` values of unit variance, float32 ``[count]``; the next call goes on behind them."""
        return self._take(self._float, count)

    def steps(self, count: int) -> NDArray[np.int8]:
        """Return ``count`` values of standard deviation :data:`INT8_STEPS`, int8 ``[count]``."""
        return self._take(self._int8, count)


def _deviation(layer: Layer) -> float:
    """Standard deviation that keeps the variance of activations through a ReLU (He et al. 2015, section 2.2)."""
    return math.sqrt(2 / math.prod(layer.weight_shape[1:]))


def _given(layer: Layer, weights: Weights) -> tuple[FloatArray, FloatArray | None]:
    if layer.name not in weights:
        raise ModelFileError(f"weights of layer {layer.name!r} are missing; given: {', '.join(list(weights)[:5])}, ...")
    weight = np.ascontiguousarray(weights[layer.name][0], dtype=np.float32)
    if weight.shape != layer.weight_shape:
        raise ModelFileError(f"weight of layer {layer.name!r} has shape {weight.shape}, not {layer.weight_shape}.")
    bias = weights[layer.name][1]
    if (bias is not None) != layer.bias:
        raise ModelFileError(
            f"layer {layer.name!r} has bias={layer.bias} in the graph, but bias={bias is not None} given."
        )
    if bias is None:
        return weight, None
    bias = np.ascontiguousarray(bias, dtype=np.float32)
    if bias.shape != (layer.shape[0],):
        raise ModelFileError(f"bias of layer {layer.name!r} has shape {bias.shape}, not {(layer.shape[0],)}.")
    return weight, bias


def float_weights(layer: Layer, pool: WeightPool, weights: Weights | None) -> tuple[FloatArray, FloatArray | None]:
    """Return weight and bias of a convolution or linear layer: the given ones, else random ones.

    Raises:
        ModelFileError: Weights were given, but not this layer's, or in another shape.
    """
    if weights is not None:
        return _given(layer, weights)
    shape = layer.weight_shape
    weight = (pool.floats(math.prod(shape)) * np.float32(_deviation(layer))).reshape(shape)
    return weight, pool.floats(shape[0]) * np.float32(0.1) if layer.bias else None


def norm_statistics(layer: Layer, pool: WeightPool) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return random scale, shift, mean and variance of a batch normalisation, float32 ``[channels]`` each."""
    scale, shift, mean, spread = (pool.floats(layer.shape[0]) * np.float32(0.1) for _ in range(4))
    return 1 + scale, shift, mean, 1 + np.abs(spread)


@dataclass(frozen=True)
class Int8Weights:
    """A quantised weight: symmetric, one scale per output channel.

    Attributes:
        steps: int8, the layer's weight shape, within [-127, 127].
        scale: float32 ``[out]``.
        bias: float32 ``[out]``, or None.
    """

    steps: NDArray[np.int8]
    scale: FloatArray
    bias: FloatArray | None


def int8_weights(layer: Layer, pool: WeightPool, weights: Weights | None) -> Int8Weights:
    """Return the quantised weight of a layer; random ones are never computed in float.

    Raises:
        ModelFileError: Weights were given, but not this layer's, or in another shape.
    """
    shape = layer.weight_shape
    if weights is None:
        steps = pool.steps(math.prod(shape)).reshape(shape)
        scale = np.full(shape[0], _deviation(layer) / INT8_STEPS, dtype=np.float32)
        return Int8Weights(steps, scale, pool.floats(shape[0]) * np.float32(0.1) if layer.bias else None)
    weight, bias = _given(layer, weights)
    flat = weight.reshape(shape[0], -1)
    largest = np.abs(flat).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    steps = np.clip(np.rint(flat / scale[:, None]), -127, 127).astype(np.int8).reshape(shape)
    return Int8Weights(steps, scale, bias)


@dataclass(frozen=True)
class Range:
    """An asymmetric uint8 quantisation: real value = ``scale * (q - zero_point)``, zero is exact."""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """Return the quantisation that covers ``[low, high]``, which must hold 0."""
        scale = float(np.float32((high - low) / 255))
        return cls(scale, round(-low / scale))

    @property
    def low(self) -> float:
        """Smallest value it can express."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """Largest value it can express."""
        return (255 - self.zero_point) * self.scale


_RANGES = {
    "input": Range.of(-3, 3),
    "conv": Range.of(-6, 6),
    "linear": Range.of(-6, 6),
    "add": Range.of(-8, 8),
    "relu": Range.of(0, 6),
    "relu6": Range.of(0, 6),
    "hswish": Range.of(-0.375, 6),
    "hsigmoid": Range.of(0, 1),
}


def activation_ranges(graph: LayerGraph) -> dict[str, Range]:
    """Return a plausible range of every layer's output; pools, reshapes and scalings keep that of their first input."""
    ranges: dict[str, Range] = {}
    for layer in graph.layers:
        ranges[layer.name] = _RANGES[layer.op] if layer.op in _RANGES else ranges[layer.inputs[0]]
    return ranges

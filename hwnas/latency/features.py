"""Physical features of architectures: what the hardware has to do, counted per block and summed.

Feature list after ``MACs by op class, bytes moved, weight bytes, kernels launched``; per-stage sums and totals.
"""

from __future__ import annotations

import numpy as np

from hwnas.latency.indexing import ABSENT, BlockIndexer, Ids
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.spaces.graph import Layer

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of one activation or weight."""

PHYSICAL = (
    "macs_pointwise",
    "macs_depthwise",
    "macs_dense",
    "macs_fc",
    "depthwise_outputs",
    "depthwise5_outputs",
    "depthwise7_outputs",
    "activation_bytes",
    "elementwise_bytes",
    "weight_bytes",
    "kernels",
    "elementwise_kernels",
    "squeeze_excites",
    "padded_macs",
    "input_elements",
)
"""Names of the physical features of a block. Each grows, or stays, when a block gets a larger window, more channels or more
pixels: the outputs of depthwise convolutions are counted again for windows of at least 5 and of at least 7."""

STAGE_SUMS = ("macs", "activation_bytes", "depth")
"""Names of the features summed per stage."""

_DEPTHWISE = {"depthwise_outputs": 0, "depthwise5_outputs": 5, "depthwise7_outputs": 7}
"""Feature -> smallest window that counts."""
_ELEMENTWISE = ("add", "mul", "hswish", "hsigmoid", "sigmoid", "swish", "batch_norm", "concat", "slice", "shuffle")
_VECTOR_WIDTH = 16


def _op_class(layer: Layer) -> str:
    if layer.op == "linear" or (layer.op == "conv" and layer.elements == layer.shape[0] and layer.groups == 1):
        return "macs_fc"
    if layer.groups > 1 and layer.groups == layer.in_channels:
        return "macs_depthwise"
    return "macs_pointwise" if layer.kernel == 1 else "macs_dense"


def _padded(channels: int) -> int:
    return -(-channels // _VECTOR_WIDTH) * _VECTOR_WIDTH


def _padded_macs(layer: Layer) -> float:
    channels = _padded(layer.shape[0])
    if layer.groups == 1:
        return layer.macs * (channels / layer.shape[0]) * (_padded(layer.in_channels) / layer.in_channels)
    return layer.macs * channels / layer.shape[0]


def _read_elements(layer: Layer, elements: dict[str, int]) -> int:
    if layer.op == "conv":
        return layer.in_channels * layer.shape[1] * layer.shape[2] * layer.stride**2
    if layer.op == "linear":
        return layer.in_channels
    # a pool reads more than it writes; what other operations read has the size of what they write
    return sum(elements.get(name, layer.elements * layer.stride**2) for name in layer.inputs)


def block_features(layers: tuple[Layer, ...], precision: str) -> FloatArray:
    """Return the :data:`PHYSICAL` features of one block for one image, ``[features]``.

    Args:
        layers: The block's layers; ReLU is taken to be free, since every runtime fuses it.
        precision: Decides the bytes of an element.
    """
    width = BYTES[precision]
    counts = dict.fromkeys(PHYSICAL, 0.0)
    elements = {layer.name: layer.elements for layer in layers}
    for layer in layers:
        traffic = width * (layer.elements + _read_elements(layer, elements))
        if layer.op == "input":
            counts["input_elements"] += layer.elements
        elif layer.op in ("conv", "linear"):
            kind = _op_class(layer)
            counts[kind] += layer.macs
            if kind == "macs_depthwise":
                for name, window in _DEPTHWISE.items():
                    counts[name] += layer.elements * (layer.kernel >= window)
            counts["padded_macs"] += _padded_macs(layer)
            counts["weight_bytes"] += width * layer.parameters
        if layer.op in ("conv", "linear", "global_pool", "max_pool", "avg_pool"):
            counts["activation_bytes"] += traffic
            counts["kernels"] += 1
        elif layer.op in _ELEMENTWISE:
            counts["elementwise_bytes"] += traffic
            counts["elementwise_kernels"] += 1
            counts["squeeze_excites"] += layer.op == "mul"
    return np.array([counts[name] for name in PHYSICAL])


def stage_of(block: str) -> str:
    """Return the stage of a block's name: ``stages.1`` of ``stages.1.0``, the name itself of ``stem``."""
    head, dot, tail = block.rpartition(".")
    return head if dot and tail.isdigit() else block


class FeatureExtractor:
    """Features of many encodings, vectorised; what a block costs is worked out once per block key.

    Args:
        space: The space of the encodings.
        precision: Precision of the target.

    Attributes:
        names: Feature names, columns of :meth:`matrix`: totals, then sums per stage.
    """

    def __init__(self, space: SearchSpace[Architecture], precision: str) -> None:
        self.indexer = BlockIndexer(space)
        self.precision = precision
        stages = [stage_of(name) for name in self.indexer.positions]
        self.stages = tuple(dict.fromkeys(stages))
        self._stage_index = np.array([self.stages.index(stage) for stage in stages])
        self._physical = np.zeros((0, len(PHYSICAL)))
        per_stage = [f"{stage}:{name}" for stage in self.stages for name in STAGE_SUMS]
        self.names: tuple[str, ...] = (*PHYSICAL, "blocks", *per_stage)

    @property
    def schema(self) -> dict[str, object]:
        """What must be equal for a saved model to fit: names of features and block positions, precision."""
        return {"names": list(self.names), "positions": list(self.indexer.positions), "precision": self.precision}

    def physical(self) -> FloatArray:
        """Return the features of every block key met so far, ``[keys, len(PHYSICAL)]``."""
        done = len(self._physical)
        fresh = [block_features(layers, self.precision) for layers in self.indexer.layers[done:]]
        if fresh:
            self._physical = np.concatenate([self._physical, np.stack(fresh)])
        return self._physical

    def ids(self, X: IntArray) -> Ids:
        """Return block-key ids, ``[n, positions]`` (see :meth:`BlockIndexer.ids`)."""
        return self.indexer.ids(X)

    def from_ids(self, ids: Ids) -> FloatArray:
        """Return the features ``[n, len(names)]`` of architectures given as block-key ids ``[n, positions]``."""
        table = np.concatenate([self.physical(), np.zeros((1, len(PHYSICAL)))])
        blocks = table[np.where(ids == ABSENT, len(table) - 1, ids)]
        present = (ids != ABSENT).astype(np.float64)
        macs = blocks[:, :, [PHYSICAL.index(name) for name in PHYSICAL if name.startswith("macs_")]].sum(axis=2)
        traffic = blocks[:, :, PHYSICAL.index("activation_bytes")]
        stages = np.zeros((len(ids), len(self.stages), len(STAGE_SUMS)))
        for position, stage in enumerate(self._stage_index):
            stages[:, stage, 0] += macs[:, position]
            stages[:, stage, 1] += traffic[:, position]
            stages[:, stage, 2] += present[:, position]
        totals = np.column_stack([blocks.sum(axis=1), present.sum(axis=1)])
        return np.concatenate([totals, stages.reshape(len(ids), stages.shape[1] * stages.shape[2])], axis=1)

    def matrix(self, X: IntArray) -> FloatArray:
        """Return the features ``[n, len(names)]`` of encodings ``[n, n_genes]``.

        Raises:
            SpaceError: An encoding is outside the bounds of the space.
        """
        return self.from_ids(self.ids(X))

"""Kernels of many networks as columns of numbers: what the latency model of kernels reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import IntArray

KINDS = (
    "conv",
    "depthwise",
    "linear",
    "matmul",
    "elementwise",
    "add",
    "mul",
    "max_pool",
    "avg_pool",
    "global_pool",
    "concat",
    "split",
    "transpose",
    "resize",
    "softmax",
    "norm",
    "reduce",
    "copy",
    "reorder",
    "other",
)
"""Kinds of kernels. ``elementwise`` reads one tensor, ``copy`` moves data, ``reorder`` changes a layout that only the runtime
knows, ``other`` is what has no kind of its own."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One unit of work of a runtime, for one image unless the network has a batch.

    Attributes:
        kind: One of :data:`KINDS`.
        macs: Multiply-accumulate operations.
        read: Activation elements read.
        written: Activation elements written.
        weights: Weight elements read.
        in_channels: Channels (features) read.
        out_channels: Channels (features) written.
        in_pixels: Positions per channel read.
        out_pixels: Positions per channel written.
        window: Positions of a window (3 x 3: 9).
        stride: Stride.
        groups: Groups of a convolution.
        epilogue: Element-wise operations fused behind it.
        gates: Those of them that compute more than a comparison, such as h-swish and sigmoid.
        name: What the network calls it; not part of its price.
        nodes: The nodes of the network's file that it computes; not part of its price.
    """

    kind: str
    macs: float = 0.0
    read: float
    written: float
    weights: float = 0.0
    in_channels: int = 1
    out_channels: int = 1
    in_pixels: int = 1
    out_pixels: int = 1
    window: int = 1
    stride: int = 1
    groups: int = 1
    epilogue: int = 0
    gates: int = 0
    name: str = ""
    nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {', '.join(KINDS)}")
        for name in COLUMNS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} of {self.kind} must not be negative")

    @classmethod
    def conv(
        cls,
        channels: tuple[int, int],
        pixels: tuple[int, int],
        window: int,
        *,
        stride: int = 1,
        groups: int = 1,
        epilogue: int = 0,
        name: str = "",
    ) -> Kernel:
        """Return a convolution of ``channels`` (in, out) over ``pixels`` (in, out); one per channel is ``depthwise``."""
        in_channels, out_channels = channels
        per_output = window * in_channels / groups
        return cls(
            kind="depthwise" if groups == in_channels == out_channels and groups > 1 else "conv",
            macs=per_output * out_channels * pixels[1],
            read=float(in_channels * pixels[0]),
            written=float(out_channels * pixels[1]),
            weights=per_output * out_channels,
            in_channels=in_channels,
            out_channels=out_channels,
            in_pixels=pixels[0],
            out_pixels=pixels[1],
            window=window,
            stride=stride,
            groups=groups,
            epilogue=epilogue,
            name=name,
        )

    @classmethod
    def linear(
        cls, in_features: int, out_features: int, *, positions: int = 1, epilogue: int = 0, name: str = ""
    ) -> Kernel:
        """Return a matrix product of ``positions`` rows with a weight."""
        return cls(
            kind="linear",
            macs=float(in_features * out_features * positions),
            read=float(in_features * positions),
            written=float(out_features * positions),
            weights=float(in_features * out_features),
            in_channels=in_features,
            out_channels=out_features,
            in_pixels=positions,
            out_pixels=positions,
            epilogue=epilogue,
            name=name,
        )

    def with_epilogue(self, gate: bool = False) -> Self:
        """Return the kernel with one more element-wise operation fused behind it, which may be a ``gate``."""
        return replace(self, epilogue=self.epilogue + 1, gates=self.gates + gate)


COLUMNS = tuple(field.name for field in fields(Kernel) if field.name not in ("kind", "name", "nodes"))
"""Columns of :attr:`KernelBatch.values`."""


@dataclass(frozen=True)
class KernelBatch:
    """The kernels of ``n`` networks, one after the other.

    Attributes:
        kinds: Index into :data:`KINDS`, ``[kernels]``.
        values: Columns :data:`COLUMNS`, ``[kernels, columns]``.
        owner: Network of each kernel, ascending, ``[kernels]``.
        networks: ``n``.
    """

    kinds: IntArray
    values: FloatArray
    owner: IntArray
    networks: int

    def __post_init__(self) -> None:
        missing = np.setdiff1d(np.arange(self.networks), self.owner)
        if len(missing):
            raise ValueError(f"network {missing[0]} of {self.networks} has no kernel")

    @classmethod
    def of(cls, networks: Sequence[Sequence[Kernel]]) -> KernelBatch:
        """Gather the kernels of networks."""
        kernels = [kernel for network in networks for kernel in network]
        values = [[float(getattr(kernel, name)) for name in COLUMNS] for kernel in kernels]
        return cls(
            np.array([KINDS.index(kernel.kind) for kernel in kernels], dtype=np.int64),
            np.array(values, dtype=np.float64).reshape(len(kernels), len(COLUMNS)),
            np.repeat(np.arange(len(networks)), [len(network) for network in networks]),
            len(networks),
        )

    def __getitem__(self, name: str) -> FloatArray:
        """Return a column, ``[kernels]``."""
        return self.values[:, COLUMNS.index(name)]

    def __len__(self) -> int:
        """Return the number of networks."""
        return self.networks

    def take(self, networks: NDArray[np.integer] | Sequence[int]) -> KernelBatch:
        """Return some networks, in the order given."""
        chosen = np.asarray(networks, dtype=np.int64)
        start = np.searchsorted(self.owner, np.arange(self.networks + 1))
        lengths = np.diff(start)[chosen]
        rows = np.concatenate([np.arange(start[i], start[i + 1]) for i in chosen]) if len(chosen) else np.zeros(0, int)
        return KernelBatch(self.kinds[rows], self.values[rows], np.repeat(np.arange(len(chosen)), lengths), len(chosen))

    def joined(self, other: KernelBatch) -> KernelBatch:
        """Return these networks, then the other's."""
        return KernelBatch(
            np.concatenate([self.kinds, other.kinds]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.owner, other.owner + self.networks]),
            self.networks + other.networks,
        )

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the sum over each network's kernels of ``values``: ``[n]`` of ``[kernels]``, ``[n, c]`` of ``[kernels, c]``."""
        if values.ndim == 2:
            return np.column_stack([self.sums(column) for column in values.T])
        return np.asarray(np.bincount(self.owner, values, self.networks), dtype=np.float64)

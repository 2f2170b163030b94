"""Canaries: fixed reference networks measured in every round, to see and correct what the machine does meanwhile.

There are three, because slow phases of a shared host stretch networks unequally; the shift of a network in between is
interpolated. Two small ones live in a core's own caches; the weights of the third do not, so that it feels what neighbours do
to the shared cache and to memory, where the other two stand still. They never change: a change would cut old tables off from
new measurements. A table without one of them is compared by the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwnas.devices.models import ModelFiles
from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.targets import Target

CANARIES: dict[str, tuple[int, int, int]] = {
    "canary-small-1": (48, 8, 3),
    "canary-large-1": (128, 16, 6),
    "canary-memory-1": (128, 32, 10),
}
"""Name -> (side of the input, channels of the stem, inverted bottlenecks)."""

_SEED = 20


class _Chain:
    """Appends layers that each read the last one."""

    def __init__(self, side: int) -> None:
        self.layers = [Layer("input", "input", (), (3, side, side), "canary")]

    @property
    def last(self) -> Layer:
        return self.layers[-1]

    def add(self, name: str, op: str, shape: tuple[int, ...], *others: str, **fields: Any) -> None:
        self.layers.append(Layer(name, op, (self.last.name, *others), shape, "canary", **fields))

    def conv(self, name: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        before, side = self.last.shape[0], -(-self.last.shape[1] // stride)
        shape = (channels, side, side)
        self.add(name, "conv", shape, kernel=kernel, stride=stride, groups=groups, in_channels=before)

    def activate(self, name: str, op: str) -> None:
        self.add(name, op, self.last.shape)


def _bottleneck(chain: _Chain, index: int, channels: int) -> None:
    source, name = chain.last, f"canary.{index}"
    stride = 2 if index % 2 == 0 else 1
    wide = 4 * source.shape[0]
    op = "hswish" if index % 2 else "relu"
    chain.conv(f"{name}.expand", wide)
    chain.activate(f"{name}.expand_act", op)
    chain.conv(f"{name}.depth", wide, kernel=3 if index % 3 else 5, stride=stride, groups=wide)
    chain.activate(f"{name}.depth_act", op)
    chain.conv(f"{name}.project", channels)
    if chain.last.shape == source.shape:
        chain.add(f"{name}.add", "add", source.shape, source.name)


def canary_graph(name: str) -> LayerGraph:
    """Return the layer graph of one of :data:`CANARIES`."""
    side, stem, blocks = CANARIES[name]
    chain = _Chain(side)
    chain.conv("canary.stem", stem, kernel=3, stride=2)
    chain.activate("canary.stem_act", "hswish")
    for index in range(blocks):
        _bottleneck(chain, index, stem * (2 + index // 2 * 2))
    chain.add("canary.pool", "global_pool", (chain.last.shape[0], 1, 1))
    chain.add("canary.flatten", "flatten", (chain.last.shape[0],))
    chain.add("canary.classifier", "linear", (10,), in_channels=chain.last.shape[0])
    return LayerGraph(tuple(chain.layers))


def build_canaries(backend: Any, target: Target, folder: Path) -> dict[str, ModelFiles]:
    """Build every canary with the target's backend (its class or an instance) into ``folder``; name -> files."""
    maker = backend() if isinstance(backend, type) else backend
    return {
        name: maker.build_network(canary_graph(name), target.precision, folder / name, batch=target.batch, seed=_SEED)
        for name in CANARIES
    }

"""The MobileNetV3 space of Once-for-All with every size a setting, and the variants of OFAv2, in NATv2's encoding.

Sources: Cai et al., "Once-for-All" (ICLR 2020); dense skips, parallel blocks and early exits: Sarti et al., "OFAv2" (2023);
encoding, sampling and "fill" repair: Sarti et al., "NATv2" (2023).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.errors import SpaceError
from hwnas.spaces.base import Block, IntArray, SearchSpace
from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.spaces.mobilenetv3_checks import check_architecture, read_architecture
from hwnas.spaces.mobilenetv3_codes import LayerCodes
from hwnas.spaces.mobilenetv3_layers import block_layers
from hwnas.spaces.mobilenetv3_plan import BlockPlan, MobileNetV3Architecture, plan_network
from hwnas.spaces.mobilenetv3_settings import MobileNetV3Settings, Stage, read_settings

__all__ = ["MobileNetV3Architecture", "MobileNetV3Space"]

SKIP_PROBABILITY = 1 / 3
"""P(skip) at every position that may be skipped (NATv2's archive initialisation)."""

FIXED_GENES = 2
"""Resolution and width come first in every encoding, then the exit where there are several, then the layer codes."""


class MobileNetV3Space(SearchSpace[MobileNetV3Architecture]):
    """Stages of inverted bottlenecks with elastic resolution, width, depth, kernel and expansion.

    An encoding is ``[resolution index, width index, layer codes...]``, with early exits ``[resolution index, width index,
    exit index, layer codes...]``; code 0 skips the layer, the others are those of
    :mod:`~hwnas.spaces.mobilenetv3_codes`. Codes of stages behind the exit decide nothing: canonically they are at their
    lower bounds.

    Args:
        **settings: See :class:`~hwnas.spaces.mobilenetv3_settings.MobileNetV3Settings`; only ``classes`` is required.

    Raises:
        SpaceError: A setting is unknown, missing or cannot be used.
    """

    name = "mobilenetv3"

    def __init__(self, **settings: Any) -> None:
        self._settings: MobileNetV3Settings = read_settings(settings)
        self.classes: int = self._settings.classes
        self.in_channels: int = self._settings.in_channels
        self.resolutions: tuple[int, ...] = self._settings.resolutions
        self.widths: tuple[float, ...] = self._settings.widths
        self.kernels: tuple[int, ...] = self._settings.kernels
        self.expands: tuple[float, ...] = self._settings.expands
        self.depths: tuple[int, ...] = self._settings.depths
        self.stages: tuple[Stage, ...] = self._settings.stages
        self.stem_stride: int = self._settings.stem_stride
        self.parallel: bool = self._settings.parallel
        self.early: bool = self._settings.early
        self.codes = LayerCodes(self.kernels, self.expands, self.parallel)
        self._layer_shape = (len(self.stages), self.depths[-1])
        self._fixed = ("resolution", "width", *(["exit"] if self.early else []))

    def settings(self) -> dict[str, Any]:
        """Return every setting as plain data, defaults written out; ``blocks`` and ``exits`` only where they say more."""
        return self._settings.model_dump(mode="json")

    @property
    def n_codes(self) -> int:
        """Number of (expansion, kernel) pairs of a layer."""
        return self.codes.pairs

    @property
    def exits(self) -> tuple[int, ...]:
        """After how many stages a network may end, ascending."""
        last = len(self.stages)
        return tuple(range(1, last + 1)) if self.early else (last,)

    @functools.cached_property
    def _bounds(self) -> tuple[IntArray, IntArray]:
        lowest = np.zeros(self._layer_shape, dtype=np.int64)
        lowest[:, : self.depths[0]] = 1
        highest = np.full(lowest.size, self.codes.highest, dtype=np.int64)
        most = {"resolution": len(self.resolutions), "width": len(self.widths), "exit": len(self.exits)}
        ends = np.array([most[name] - 1 for name in self._fixed], dtype=np.int64)
        return np.concatenate([0 * ends, lowest.ravel()]), np.concatenate([ends, highest])

    @property
    def lower(self) -> IntArray:
        """Smallest value of each gene, shape ``[n_genes]``."""
        return self._bounds[0].copy()

    @property
    def upper(self) -> IntArray:
        """Largest value of each gene, shape ``[n_genes]``."""
        return self._bounds[1].copy()

    @functools.cached_property
    def gene_names(self) -> tuple[str, ...]:
        """``resolution``, ``width``, with early exits ``exit``, and the block name of every layer position."""
        stages, positions = self._layer_shape
        layers = (f"stages.{stage}.{position}" for stage in range(stages) for position in range(positions))
        return (*self._fixed, *layers)

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw ``count`` canonical encodings, shape ``[count, n_genes]``, nearly uniform in stage depth.

        A position that may be skipped is skipped with probability 1/3, everything else is uniform; then "fill" repair.
        """
        lower, upper = self._bounds
        encodings = rng.integers(np.maximum(lower, 0), upper + 1, size=(count, self.n_genes), dtype=np.int64)
        elastic = np.flatnonzero((lower == 0) & (np.arange(self.n_genes) >= len(self._fixed)))
        codes = rng.integers(1, self.codes.highest + 1, size=(count, elastic.size), dtype=np.int64)
        skipped = rng.random((count, elastic.size)) < SKIP_PROBABILITY
        encodings[:, elastic] = np.where(skipped, 0, codes)
        return self.repair(encodings)

    def repair(self, encodings: IntArray) -> IntArray:
        """Return the canonical form of each encoding, shape ``[n, n_genes]``.

        Genes are clipped into their bounds; after the first skipped layer of a stage all later ones are skipped too; what
        decides nothing (kernel and expansion of a bottleneck that is off, stages behind the exit) is as small as can be.

        Raises:
            SpaceError: Rows of another length.
        """
        array = np.atleast_2d(np.asarray(encodings, dtype=np.int64))
        if array.shape[1] != self.n_genes:
            raise SpaceError(f"an encoding of {self.name} has {self.n_genes} genes, not {array.shape[1]}.")
        repaired = np.clip(array, *self._bounds)
        fixed, layers = repaired[:, : len(self._fixed)], repaired[:, len(self._fixed) :]
        codes = self.codes.canonical(layers.reshape(len(repaired), *self._layer_shape))
        codes = codes * np.minimum.accumulate(codes > 0, axis=2)
        if self.early:
            behind = np.arange(len(self.stages)) > fixed[:, -1:]
            lowest = self._bounds[0][len(self._fixed) :].reshape(self._layer_shape)
            codes = np.where(behind[:, :, None], lowest, codes)
        return np.concatenate([fixed, codes.reshape(len(repaired), -1)], axis=1)

    def encode(self, architecture: MobileNetV3Architecture) -> IntArray:
        """Return the canonical encoding, shape ``[n_genes]``.

        Raises:
            SpaceError: The architecture is not of this space, or it has several exits.
        """
        check_architecture(self, architecture)
        if not architecture.encodable:
            raise SpaceError(
                f"a network with the exits {list(architecture.exits)} has no encoding; those searched have one."
            )
        codes = self._bounds[0][len(self._fixed) :].reshape(self._layer_shape).copy()
        codes[: len(architecture.kernels)] = 0
        for stage, layers in enumerate(architecture.layers):
            codes[stage, : len(layers)] = [self.codes.encode(*layer) for layer in layers]
        fixed = [self.resolutions.index(architecture.resolution), self.widths.index(architecture.width)]
        if self.early:
            fixed.append(self.exits.index(len(architecture.kernels)))
        return np.concatenate([np.array(fixed, dtype=np.int64), codes.ravel()])

    def decode(self, encoding: IntArray) -> MobileNetV3Architecture:
        """Return the architecture of an encoding; one that is not canonical is repaired first.

        Raises:
            SpaceError: The encoding is not within the bounds.
        """
        self.check_bounds(encoding)
        row = self.repair(encoding)[0]
        stages = row[len(self._fixed) :].reshape(self._layer_shape).tolist()
        last = self.exits[int(row[2])] if self.early else len(self.stages)
        layers = [tuple(self.codes.decode(code) for code in codes if code) for codes in stages[:last]]
        return self.assemble(self.resolutions[int(row[0])], self.widths[int(row[1])], tuple(layers))

    def assemble(
        self, resolution: int, width: float, layers: tuple[tuple[tuple[int, float, int], ...], ...]
    ) -> MobileNetV3Architecture:
        """Return the architecture of the given layers, per stage (kernel, expansion, branches).

        The branches are dropped in a space without parallel blocks.
        """
        kernels, expands, branches = (
            tuple(tuple(layer[part] for layer in stage) for stage in layers) for part in range(3)
        )
        return MobileNetV3Architecture(resolution, width, kernels, expands, branches if self.parallel else ())  # type: ignore[arg-type]

    def from_dict(self, value: dict[str, Any]) -> MobileNetV3Architecture:
        """Read what ``MobileNetV3Architecture.as_dict`` gave.

        Raises:
            SpaceError: A key is missing or a choice is not of this space.
        """
        architecture = read_architecture(self, value)
        check_architecture(self, architecture)
        return architecture

    def plan(self, architecture: MobileNetV3Architecture) -> tuple[BlockPlan, ...]:
        """Return the blocks in order of execution with all their sizes.

        Raises:
            SpaceError: The architecture is not of this space.
        """
        check_architecture(self, architecture)
        return plan_network(self._settings, architecture)

    def with_exits(
        self, architecture: MobileNetV3Architecture, kept: Sequence[int] | None = None
    ) -> MobileNetV3Architecture:
        """Return the network that speaks with several exits, the stages behind the last of them dropped.

        Args:
            architecture: A network of this space.
            kept: Numbers of the exits, ascending, from 1 to the architecture's last stage; None: all of them. With a single
                one it is an ordinary network.

        Raises:
            SpaceError: The architecture is not of this space, an exit is not among its stages, or the space has no early
                exits.
        """
        check_architecture(self, architecture)
        if not self.early:
            raise SpaceError(f"space {self.name} has one exit; early exits need the setting exits: early.")
        numbers = tuple(range(1, len(architecture.kernels) + 1)) if kept is None else tuple(kept)
        if not numbers or numbers[-1] > len(architecture.kernels):
            raise SpaceError(f"exits {list(numbers)}: the network has those from 1 to {len(architecture.kernels)}.")
        parts = {name: getattr(architecture, name)[: numbers[-1]] for name in ("kernels", "expands", "branches")}
        exits = numbers if len(numbers) > 1 else ()
        changed = dataclasses.replace(architecture, **parts, exits=exits)
        check_architecture(self, changed)
        return changed

    def blocks(self, architecture: MobileNetV3Architecture) -> tuple[Block, ...]:
        """Return ``stem``, ``first``, every layer present (``stages.S.P``) and ``head``, in order of execution.

        A layer's block holds the sum of its branches and the dense skips that are added to its output, so that its key
        depends on no other layer; the head is that of the exit the network ends with. Of several exits (``exits.S``) each
        holds the addition of its logits to those of the exits before it.
        """
        return tuple(Block(plan.name, plan.key) for plan in self.plan(architecture))

    def graph(self, architecture: MobileNetV3Architecture) -> LayerGraph:
        """Return the network as the runtime sees it, batch normalisation folded."""
        side = architecture.resolution
        layers = [Layer("input", "input", (), (self.in_channels, side, side), "stem")]
        source, logits = layers[0].name, ""
        outputs: dict[int | None, list[str]] = {}
        for plan in self.plan(architecture):
            if plan.op == "head":
                layers += block_layers(plan, source, (logits,) * plan.skips)
                logits = layers[-1].name
                continue
            earlier = outputs.setdefault(plan.stage, [])
            layers += block_layers(plan, source, tuple(earlier[: plan.skips]))
            earlier.append(layers[-1 - plan.skips].name)
            source = layers[-1].name
        return LayerGraph(tuple(layers))

    @functools.cached_property
    def smallest(self) -> MobileNetV3Architecture:
        """Every gene at its lower bound, but the exit, which is the one with the fewest MACs.

        A head at many pixels may cost more than the layers to the next one.
        """
        lowest = self.decode(self._bounds[0])
        if not self.early:
            return lowest
        ends = [self._bounds[0] + (np.array(self.gene_names) == "exit") * index for index in range(len(self.exits))]
        return min((self.decode(end) for end in ends), key=lambda end: self.graph(end).macs)

    @property
    def largest(self) -> MobileNetV3Architecture:
        """Every gene at its upper bound."""
        return self.decode(self._bounds[1])

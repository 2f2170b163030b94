"""The MobileNetV3 space of Once-for-All with every size a setting, in NATv2's encoding.

Sources: Cai et al., "Once-for-All" (ICLR 2020); NATv2's encoding, sampling and "fill" repair (Sarti et al., 2023).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from hwnas.errors import SpaceError
from hwnas.spaces.base import Block, IntArray, SearchSpace
from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.spaces.mobilenetv3_layers import block_layers
from hwnas.spaces.mobilenetv3_plan import BlockPlan, MobileNetV3Architecture, plan_network
from hwnas.spaces.mobilenetv3_settings import MobileNetV3Settings, Stage, read_settings

__all__ = ["MobileNetV3Architecture", "MobileNetV3Space"]

SKIP_PROBABILITY = 1 / 3
"""P(skip) at every position that may be skipped (NATv2's archive initialisation)."""

FIXED_GENES = 2
"""Resolution and width come before the layer codes."""


class MobileNetV3Space(SearchSpace[MobileNetV3Architecture]):
    """Stages of inverted bottlenecks with elastic resolution, width, depth, kernel and expansion.

    An encoding is ``[resolution index, width index, layer codes...]``: code 0 skips the layer, else it is
    ``len(kernels) * expand index + kernel index + 1``.

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
        self._layer_shape = (len(self.stages), self.depths[-1])

    def settings(self) -> dict[str, Any]:
        """Return every setting as plain data, defaults written out."""
        return self._settings.model_dump(mode="json")

    @property
    def n_codes(self) -> int:
        """Number of (expansion, kernel) pairs of a layer."""
        return len(self.kernels) * len(self.expands)

    @functools.cached_property
    def _bounds(self) -> tuple[IntArray, IntArray]:
        lowest = np.zeros(self._layer_shape, dtype=np.int64)
        lowest[:, : self.depths[0]] = 1
        highest = np.full(lowest.size, self.n_codes, dtype=np.int64)
        lower = np.concatenate([np.zeros(FIXED_GENES, dtype=np.int64), lowest.ravel()])
        upper = np.concatenate([np.array([len(self.resolutions) - 1, len(self.widths) - 1], dtype=np.int64), highest])
        return lower, upper

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
        """``resolution``, ``width`` and the block name of every layer position."""
        stages, positions = self._layer_shape
        layers = (f"stages.{stage}.{position}" for stage in range(stages) for position in range(positions))
        return ("resolution", "width", *layers)

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw ``count`` canonical encodings, shape ``[count, n_genes]``, nearly uniform in stage depth.

        A position that may be skipped is skipped with probability 1/3, everything else is uniform; then "fill" repair.
        """
        lower, upper = self._bounds
        encodings = rng.integers(np.maximum(lower, 0), upper + 1, size=(count, self.n_genes), dtype=np.int64)
        elastic = np.flatnonzero((lower == 0) & (np.arange(self.n_genes) >= FIXED_GENES))
        codes = rng.integers(1, self.n_codes + 1, size=(count, elastic.size), dtype=np.int64)
        skipped = rng.random((count, elastic.size)) < SKIP_PROBABILITY
        encodings[:, elastic] = np.where(skipped, 0, codes)
        return self.repair(encodings)

    def repair(self, encodings: IntArray) -> IntArray:
        """Return the canonical form of each encoding, shape ``[n, n_genes]``.

        Genes are clipped into their bounds; after the first skipped layer of a stage all later ones are skipped too.

        Raises:
            SpaceError: Rows of another length.
        """
        array = np.atleast_2d(np.asarray(encodings, dtype=np.int64))
        if array.shape[1] != self.n_genes:
            raise SpaceError(f"an encoding of {self.name} has {self.n_genes} genes, not {array.shape[1]}.")
        repaired = np.clip(array, *self._bounds)
        codes = repaired[:, FIXED_GENES:].reshape(len(repaired), *self._layer_shape)
        codes *= np.minimum.accumulate(codes > 0, axis=2)
        repaired[:, FIXED_GENES:] = codes.reshape(len(repaired), -1)
        return repaired

    def encode(self, architecture: MobileNetV3Architecture) -> IntArray:
        """Return the canonical encoding, shape ``[n_genes]``.

        Raises:
            SpaceError: The architecture is not of this space.
        """
        self._check(architecture)
        codes = np.zeros(self._layer_shape, dtype=np.int64)
        for stage, (kernels, expands) in enumerate(zip(architecture.kernels, architecture.expands, strict=True)):
            for position, (kernel, expand) in enumerate(zip(kernels, expands, strict=True)):
                index = len(self.kernels) * self.expands.index(expand) + self.kernels.index(kernel)
                codes[stage, position] = index + 1
        fixed = [self.resolutions.index(architecture.resolution), self.widths.index(architecture.width)]
        return np.concatenate([np.array(fixed, dtype=np.int64), codes.ravel()])

    def decode(self, encoding: IntArray) -> MobileNetV3Architecture:
        """Return the architecture of an encoding; one that is not canonical is repaired first.

        Raises:
            SpaceError: The encoding is not within the bounds.
        """
        self.check_bounds(encoding)
        row = self.repair(encoding)[0]
        kernels: list[tuple[int, ...]] = []
        expands: list[tuple[float, ...]] = []
        for codes in row[FIXED_GENES:].reshape(self._layer_shape).tolist():
            pairs = [divmod(code - 1, len(self.kernels)) for code in codes if code]
            kernels.append(tuple(self.kernels[kernel] for _, kernel in pairs))
            expands.append(tuple(self.expands[expand] for expand, _ in pairs))
        width = self.widths[int(row[1])]
        return MobileNetV3Architecture(self.resolutions[int(row[0])], width, tuple(kernels), tuple(expands))

    def from_dict(self, value: dict[str, Any]) -> MobileNetV3Architecture:
        """Read what ``MobileNetV3Architecture.as_dict`` gave.

        Raises:
            SpaceError: A key is missing or a choice is not of this space.
        """
        try:
            kernels = tuple(tuple(int(kernel) for kernel in stage["kernels"]) for stage in value["stages"])
            expands = tuple(tuple(float(expand) for expand in stage["expands"]) for stage in value["stages"])
            architecture = MobileNetV3Architecture(int(value["resolution"]), float(value["width"]), kernels, expands)
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(
                f"an architecture of {self.name} needs resolution, width and stages (each with kernels and expands); "
                f"{error!r} in {value!r}."
            ) from error
        self._check(architecture)
        return architecture

    def _check(self, architecture: MobileNetV3Architecture) -> None:
        checks: list[tuple[str, Any, tuple[Any, ...]]] = [
            ("resolution", architecture.resolution, self.resolutions),
            ("width", architecture.width, self.widths),
            ("number of stages", len(architecture.kernels), (len(self.stages),)),
            ("number of stages", len(architecture.expands), (len(self.stages),)),
        ]
        for stage, (kernels, expands) in enumerate(zip(architecture.kernels, architecture.expands, strict=False)):
            checks.append((f"layers of stage {stage}", len(kernels), self.depths))
            checks.append((f"expands of stage {stage}", len(expands), (len(kernels),)))
            checks.extend((f"kernel in stage {stage}", kernel, self.kernels) for kernel in kernels)
            checks.extend((f"expand in stage {stage}", expand, self.expands) for expand in expands)
        for what, value, allowed in checks:
            if value not in allowed:
                raise SpaceError(f"{what} {value!r} is not in space {self.name}; allowed: {list(allowed)}.")

    def plan(self, architecture: MobileNetV3Architecture) -> tuple[BlockPlan, ...]:
        """Return the blocks in order of execution with all their sizes.

        Raises:
            SpaceError: The architecture is not of this space.
        """
        self._check(architecture)
        return plan_network(self._settings, architecture)

    def blocks(self, architecture: MobileNetV3Architecture) -> tuple[Block, ...]:
        """Return ``stem``, ``first``, every layer present (``stages.S.P``) and ``head``, in order of execution."""
        return tuple(Block(plan.name, plan.key) for plan in self.plan(architecture))

    def graph(self, architecture: MobileNetV3Architecture) -> LayerGraph:
        """Return the network as the runtime sees it, batch normalisation folded."""
        side = architecture.resolution
        layers = [Layer("input", "input", (), (self.in_channels, side, side), "stem")]
        for plan in self.plan(architecture):
            layers += block_layers(plan, layers[-1].name)
        return LayerGraph(tuple(layers))

    @property
    def smallest(self) -> MobileNetV3Architecture:
        """Every gene at its lower bound."""
        return self.decode(self._bounds[0])

    @property
    def largest(self) -> MobileNetV3Architecture:
        """Every gene at its upper bound."""
        return self.decode(self._bounds[1])

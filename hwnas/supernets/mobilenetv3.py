"""The supernet of the MobileNetV3 space: one engine (set of weights) per width multiplier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwnas.config import ExitWeights
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.spaces.mobilenetv3_plan import BlockPlan
from hwnas.supernets.base import Supernet
from hwnas.supernets.elastic import ElasticBottleneck, ElasticLayer, make_elastic
from hwnas.supernets.exits import ExitNetwork, exit_network_from_tensors, exit_weights
from hwnas.supernets.modules import initialise, make_block
from hwnas.supernets.sorting import sort_bottleneck
from hwnas.supernets.static import StaticNetwork, network_from_tensors


class Engine(nn.Module):
    """The weights of one width multiplier: the widest network with elastic stages; paths as in the static network.

    Args:
        space: The space.
        width: The width multiplier.
    """

    def __init__(self, space: MobileNetV3Space, width: float) -> None:
        super().__init__()
        widest = dataclasses.replace(space.largest, width=width)
        stages: list[list[nn.Module]] = [[] for _ in space.stages]
        for plan in space.plan(widest):
            if plan.stage is not None:
                stages[plan.stage].append(make_elastic(plan, space.kernels))
            elif not plan.exit:
                self.add_module(plan.name, make_block(plan))
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)
        if space.early:
            heads = (plan for plan in space.plan(space.with_exits(widest)) if plan.op == "head")
            self.exits = nn.ModuleList(make_block(plan) for plan in heads)

    def block(self, plan: BlockPlan) -> nn.Module:
        """Return the module that holds the weights of a block."""
        return self.get_submodule(f"exits.{plan.exit - 1}" if plan.exit else plan.name)

    def run(self, x: Tensor, plans: tuple[BlockPlan, ...]) -> Tensor:
        """Run the network of ``plans`` on images ``[b, c, h, w]``; the logits of several exits are summed."""
        first, *others = self.run_exits(x, plans)
        return sum(others, start=first)

    def run_exits(self, x: Tensor, plans: tuple[BlockPlan, ...]) -> list[Tensor]:
        """Run the network of ``plans`` on images ``[b, c, h, w]``; returns the logits of each of its heads."""
        logits: list[Tensor] = []
        outputs: list[Tensor] = []  # of the layers of the present stage, before their skips
        stage: int | None = None
        for plan in plans:
            block = self.block(plan)
            if plan.op == "head":
                logits.append(block(x))
                continue
            if plan.stage != stage:
                stage, outputs = plan.stage, []
            x = block.run(x, plan) if isinstance(block, ElasticLayer) else block(x)
            outputs.append(x)
            for earlier in outputs[: plan.skips]:
                x = x + earlier
        return logits

    def tensors(self, plans: tuple[BlockPlan, ...]) -> dict[str, Tensor]:
        """Return views of the tensors of the network of ``plans`` by their names in the static network."""
        found: dict[str, Tensor] = {}
        for plan in plans:
            block = self.block(plan)
            part = block.tensors(plan) if isinstance(block, ElasticLayer) else block.state_dict()
            found.update({f"{plan.name}.{name}": tensor for name, tensor in part.items()})
        return found


class MobileNetV3Supernet(Supernet[MobileNetV3Architecture]):
    """OFAMobileNetV3 with every size of the space a setting.

    Args:
        space: The space.
        seed: Seed of the initial weights.
    """

    name = "mobilenetv3"
    space: MobileNetV3Space

    def __init__(self, space: MobileNetV3Space, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        with torch.device("meta"):
            engines = nn.ModuleList(Engine(space, width) for width in space.widths)
        self.engines = engines.to_empty(device="cpu")
        for index, engine in enumerate(self.engines):
            initialise(engine, seed * len(space.widths) + index)
        _identity_matrices(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.set_active(space.largest)

    @property
    def active(self) -> MobileNetV3Architecture:
        """The architecture that :meth:`forward` runs."""
        return self._active

    def set_active(self, architecture: MobileNetV3Architecture) -> None:
        """Choose the architecture that :meth:`forward` runs.

        Raises:
            SpaceError: The architecture is not of the space.
        """
        self._plans = self.space.plan(architecture)
        self._active = architecture

    def forward(self, x: Tensor) -> Tensor:
        """Run the active architecture: images ``[b, c, h, w]`` to logits ``[b, classes]``."""
        return self._engine(self._active).run(x, self._plans)

    def exit_logits(self, x: Tensor) -> list[Tensor]:
        """Run the active architecture with its exits, or every one up to its own; returns logits ``[b, classes]`` of each."""
        active = self._active if self._active.exits else self.space.with_exits(self._active)
        return self._engine(active).run_exits(x, self.space.plan(active))

    @torch.no_grad()
    def extract(self, architecture: MobileNetV3Architecture) -> StaticNetwork:
        """Return a static network with its own copy of the architecture's weights.

        Raises:
            SpaceError: The architecture is not of the space.
        """
        tensors = self._copies(architecture, self.space.plan(architecture))
        return network_from_tensors(self.space, architecture, tensors).train(self.training)

    @torch.no_grad()
    def extract_exits(self, architecture: MobileNetV3Architecture, weights: Sequence[float]) -> ExitNetwork:
        """Return a static network like :meth:`extract` whose output weighs the logits of its exits.

        Args:
            architecture: What to extract; it has several exits (``space.with_exits``).
            weights: Share of each exit in the output.

        Raises:
            SpaceError: The architecture is not of the space.
        """
        tensors = self._copies(architecture, self.space.plan(architecture))
        return exit_network_from_tensors(self.space, architecture, tensors, weights).train(self.training)

    def teacher(self, exit_ensemble: ExitWeights = "ascending") -> StaticNetwork:
        """Return the largest network; with early exits it keeps all, and its output is their weighted logits."""
        largest = self.space.largest
        if not self.space.early:
            return self.extract(largest)
        largest = self.space.with_exits(largest)
        return self.extract_exits(largest, exit_weights(exit_ensemble, len(largest.exits)))

    def _copies(self, architecture: MobileNetV3Architecture, plans: tuple[BlockPlan, ...]) -> dict[str, Tensor]:
        tensors = self._engine(architecture).tensors(plans)
        return {name: _copy(tensor) for name, tensor in tensors.items()}

    @torch.no_grad()
    def sort_channels(self, expand_ratio_stage: int = 0) -> None:
        """Sort the channels of every elastic layer by importance; see :mod:`hwnas.supernets.sorting`."""
        for engine in self.engines:
            for block in engine.modules():
                if isinstance(block, ElasticBottleneck):
                    sort_bottleneck(block, self.space.expands, expand_ratio_stage)

    def _engine(self, architecture: MobileNetV3Architecture) -> Engine:
        engine = self.engines[self.space.widths.index(architecture.width)]
        assert isinstance(engine, Engine)
        return engine


def _copy(tensor: Tensor) -> Tensor:
    layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
    return tensor.detach().clone(memory_format=layout)


@torch.no_grad()
def _identity_matrices(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if ".matrix_" in name:
            parameter.copy_(torch.eye(len(parameter)))

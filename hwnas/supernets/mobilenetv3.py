"""The supernet of the MobileNetV3 space: one engine (set of weights) per width multiplier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.spaces.mobilenetv3_plan import BlockPlan
from hwnas.supernets.base import Supernet
from hwnas.supernets.elastic import ElasticBottleneck
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
        largest = space.largest
        widest = MobileNetV3Architecture(largest.resolution, width, largest.kernels, largest.expands)
        stages: list[list[nn.Module]] = [[] for _ in space.stages]
        for plan in space.plan(widest):
            if plan.op == "mbconv":
                stages[int(plan.name.split(".")[1])].append(ElasticBottleneck(plan, space.kernels))
            else:
                self.add_module(plan.name, make_block(plan))
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)

    def block(self, name: str) -> nn.Module:
        """Return the block at path ``name``."""
        return self.get_submodule(name)

    def run(self, x: Tensor, plans: tuple[BlockPlan, ...]) -> Tensor:
        """Run the network of ``plans`` on images ``[b, c, h, w]``."""
        for plan in plans:
            block = self.block(plan.name)
            x = block.run(x, plan) if isinstance(block, ElasticBottleneck) else block(x)
        return x

    def tensors(self, plans: tuple[BlockPlan, ...]) -> dict[str, Tensor]:
        """Return views of the tensors of the network of ``plans`` by their names in the static network."""
        found: dict[str, Tensor] = {}
        for plan in plans:
            block = self.block(plan.name)
            part = block.tensors(plan) if isinstance(block, ElasticBottleneck) else block.state_dict()
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

    @torch.no_grad()
    def extract(self, architecture: MobileNetV3Architecture) -> StaticNetwork:
        """Return a static network with its own copy of the architecture's weights.

        Raises:
            SpaceError: The architecture is not of the space.
        """
        plans = self.space.plan(architecture)
        tensors = self._engine(architecture).tensors(plans)
        copies = {name: _copy(tensor) for name, tensor in tensors.items()}
        network = network_from_tensors(self.space, architecture, copies)
        return network.train(self.training)

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

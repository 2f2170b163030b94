"""One architecture as a plain ``nn.Module``: nothing elastic left in it, module paths equal to the layer graph's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.mobilenetv3_plan import MobileNetV3Architecture
from hwnas.supernets.folding import fold
from hwnas.supernets.modules import ConvNorm, initialise, make_block, run_stage

FloatArray = NDArray[np.float32]


class StaticNetwork(nn.Module):
    """The network of one architecture.

    Every layer ``L`` of ``space.graph(architecture)`` but the input is computed by the module at path ``L``. Of several exits
    the head of exit ``n`` is at ``exits.{n - 1}``, and the output is the sum of their logits.

    Attributes:
        space: The space the architecture belongs to.
        architecture: What the network is.
    """

    def __init__(self, space: MobileNetV3Space, architecture: MobileNetV3Architecture) -> None:
        super().__init__()
        self.space = space
        self.architecture = architecture
        stages: list[list[nn.Module]] = [[] for _ in architecture.kernels]
        exits: dict[str, nn.Module] = {}
        for plan in space.plan(architecture):
            block = make_block(plan)
            if plan.stage is not None:
                stages[plan.stage].append(block)
            elif plan.name in ("stem", "first", "head"):
                self.add_module(plan.name, block)
            else:
                exits[plan.name.rpartition(".")[2]] = block
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)
        if exits:
            self.exits = nn.ModuleDict(exits)

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output ``[b, c, h, w]`` of every stage on images ``[b, c, r, r]``."""
        x = self.get_submodule("first")(self.get_submodule("stem")(x))
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            x = run_stage(stage, x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[b, c, r, r]`` to logits ``[b, classes]``; any side of at least one pixel runs."""
        logits: Tensor | None = None
        for number, output in enumerate(self.stage_outputs(x), start=1):
            x = output
            if number in self.architecture.exits:
                logits = self.exits[str(number - 1)](x, logits)
        if logits is None:
            logits = self.get_submodule("head")(x)
        return logits

    def exit_logits(self, x: Tensor) -> list[Tensor]:
        """Return the logits ``[b, classes]`` of every exit the network has, first exit first."""
        if not self.architecture.exits:
            return [self(x)]
        outputs = enumerate(self.stage_outputs(x), start=1)
        return [self.exits[str(number - 1)](output) for number, output in outputs if number in self.architecture.exits]


def build_network(space: MobileNetV3Space, architecture: MobileNetV3Architecture, seed: int = 0) -> StaticNetwork:
    """Return the network of ``architecture`` with fresh weights drawn from ``seed``, in the channels-last format.

    Raises:
        SpaceError: The architecture is not of the space.
    """
    with torch.device("meta"):
        network = StaticNetwork(space, architecture)
    network = network.to_empty(device="cpu")
    initialise(network, seed)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def network_from_tensors(
    space: MobileNetV3Space, architecture: MobileNetV3Architecture, tensors: Mapping[str, Tensor]
) -> StaticNetwork:
    """Return the network of ``architecture`` that owns ``tensors`` (state-dict names), without a copy."""
    with torch.device("meta"):
        network = StaticNetwork(space, architecture)
    network.load_state_dict(dict(tensors), assign=True)
    return network.requires_grad_(True)


@torch.no_grad()
def folded_weights(module: nn.Module) -> dict[str, tuple[FloatArray, FloatArray | None]]:
    """Return weight and bias of every convolution and linear layer by path, batch normalisation folded in.

    Folding is done in float64. Weights are ``[out, in/groups, k, k]`` or ``[out, in]``; the bias is None where the layer
    graph says there is none.
    """
    folded: dict[str, tuple[FloatArray, FloatArray | None]] = {}
    for path, part in module.named_modules():
        if isinstance(part, ConvNorm):
            weight, shift = fold(part)
            folded[f"{path}.conv" if path else "conv"] = (_array(weight), _array(shift))
        elif isinstance(part, (nn.Conv2d, nn.Linear)) and path not in folded:
            bias = None if part.bias is None else _array(part.bias)
            folded[path] = (_array(part.weight), bias)
    return folded


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().float().contiguous().cpu().numpy().copy()

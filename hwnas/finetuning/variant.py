"""What is fine-tuned of an architecture: the network as searched, or the ensemble of its exits.

Source: NATv2's two variants of post-processing (Sarti et al., 2023; public code ``finetune_natnet.py`` and
``finetune_natnet_ens.py``). The second attaches the exits before the network's own again, as the supernet has them, trains
them together and lets them speak together ("Anticipate, Ensemble and Prune", 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hwnas.config import FinetuneSection
from hwnas.errors import ConfigError
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.exits import ExitNetwork, exit_weights
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet


@dataclass(frozen=True)
class Variant:
    """A network to fine-tune.

    Attributes:
        architecture: What is extracted, trained and exported.
        exits: Numbers of its exits, ascending, the first stage's being 1; empty: the network as searched.
        loss: Weight of each exit's loss; they sum to 1.
        output: Weight of each exit's logits; they sum to 1.
    """

    architecture: Any
    exits: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    output: tuple[float, ...] = ()

    @property
    def several(self) -> bool:
        """Whether more than one exit is trained."""
        return len(self.exits) > 1

    def extract(self, supernet: AnySupernet) -> nn.Module:
        """Return the network with the supernet's weights."""
        if not self.several:
            return supernet.extract(self.architecture)
        assert isinstance(supernet, MobileNetV3Supernet)
        return supernet.extract_exits(self.architecture, self.output)

    def pruned(self, space: SearchSpace[Any], kept: Sequence[int]) -> Variant:
        """Return the variant that keeps some of the exits; stages behind the last of them are dropped."""
        positions = [self.exits.index(number) for number in kept]
        return Variant(
            early_space(space).with_exits(self.architecture, kept),
            tuple(kept),
            shares([self.loss[position] for position in positions]),
            shares([self.output[position] for position in positions]),
        )


def early_space(space: SearchSpace[Any]) -> MobileNetV3Space:
    """Return a space that :func:`check_exits` let pass as what it is."""
    assert isinstance(space, MobileNetV3Space)
    return space


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Return weights divided by their sum."""
    return tuple(weight / sum(weights) for weight in weights)


def finished(module: nn.Module) -> nn.Module:
    """Return a trained network as it is shipped: the weights of several exits in their classifiers."""
    return module.merged() if isinstance(module, ExitNetwork) else module


def check_exits(section: FinetuneSection, space: SearchSpace[Any]) -> None:
    """Raise where an ensemble of exits is asked for and networks have but one.

    Raises:
        ConfigError: They do; both keys are named.
    """
    if section.exits == "ensemble" and not (isinstance(space, MobileNetV3Space) and space.early):
        raise ConfigError(
            f"finetune.exits: ensemble needs networks with several exits; those of space {space.name} have one "
            "(space.settings.exits: single). Set space.settings.exits: early, or finetune.exits: single."
        )


def with_every_exit(section: FinetuneSection, space: SearchSpace[Any], architecture: Any) -> Any:
    """Return the architecture as fine-tuning attaches exits to it, before any is pruned.

    Raises:
        ConfigError: Exits are asked for that the space does not have.
    """
    check_exits(section, space)
    return architecture if section.exits == "single" else early_space(space).with_exits(architecture)


def variant_of(section: FinetuneSection, space: SearchSpace[Any], architecture: Any) -> Variant:
    """Return what the first step of fine-tuning trains.

    Raises:
        ConfigError: Exits are asked for that the space does not have.
        SpaceError: The architecture is not of the space.
    """
    variant = Variant(with_every_exit(section, space, architecture))
    if section.exits == "single":
        return variant
    count = len(architecture.kernels)
    loss = "descending" if section.exit_weights == "mixed" else section.exit_weights
    output = "ascending" if section.exit_weights == "mixed" else section.exit_weights
    return dataclasses.replace(
        variant,
        exits=tuple(range(1, count + 1)),
        loss=exit_weights(loss, count),
        output=exit_weights(output, count),
    )

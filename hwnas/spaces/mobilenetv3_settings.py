"""Settings of the MobileNetV3 space: what they are, and which of them cannot work together."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from hwnas.config import GrownSection, Section, explain_validation
from hwnas.errors import SpaceError

Activation = Literal["relu", "hswish"]
Blocks = Literal["base", "dense", "parallel", "dense-parallel"]
Exits = Literal["single", "early"]

FIRST_SKIP = 3
"""Layers a stage must have before a dense skip exists."""


class Stage(Section):
    """One stage: layers of equal width, the first of which may halve the side.

    Attributes:
        channels: Output channels at width 1.0.
        stride: Stride of the first layer.
        activation: ``relu`` or ``hswish``.
        se: Whether the layers carry squeeze-and-excitation.
    """

    channels: int = Field(ge=1)
    stride: Literal[1, 2] = 1
    activation: Activation = "relu"
    se: bool = False


OFA_STAGES = (
    Stage(channels=24, stride=2, activation="relu", se=False),
    Stage(channels=40, stride=2, activation="relu", se=True),
    Stage(channels=80, stride=2, activation="hswish", se=False),
    Stage(channels=112, stride=1, activation="hswish", se=True),
    Stage(channels=160, stride=2, activation="hswish", se=True),
)
"""The five stages of OFAMobileNetV3 (Cai et al., ICLR 2020)."""


class MobileNetV3Settings(GrownSection):
    """Everything that makes one MobileNetV3 space different from another.

    Attributes:
        classes: Classes of the classifier.
        in_channels: Channels of an input image.
        resolutions: Input sides in pixels, ascending.
        widths: Width multipliers, ascending; the supernet keeps one set of weights for each.
        kernels: Sides of the depthwise kernels, ascending, from {3, 5, 7}.
        expands: Expansion ratios, ascending.
        depths: Layers per stage, consecutive.
        stages: The stages in order.
        stem_channels: Output channels of the stem at width 1.0.
        stem_stride: Stride of the stem.
        first_channels: Output channels of the fixed first block at width 1.0.
        head_channels: Channels of the final expansion and of the feature mix at width 1.0.
        blocks: ``base`` (Once-for-All), or OFAv2's variants: ``dense`` adds skips between the layers of a stage,
            ``parallel`` gives every layer three branches of which any may be off, ``dense-parallel`` does both.
        exits: ``single``, or ``early``: a head after every stage, one of which a network ends with. Their channels are
            in the proportion that ``head_channels`` have to the last stage's, 6 and 8 times the stage's by default.
    """

    later: ClassVar[tuple[str, ...]] = ("blocks", "exits")

    classes: int = Field(default=1000, ge=2)
    in_channels: int = Field(default=3, ge=1)
    resolutions: tuple[int, ...] = Field(default=(128, 160, 192, 224))
    widths: tuple[float, ...] = Field(default=(1.0, 1.2))
    kernels: tuple[Literal[3, 5, 7], ...] = Field(default=(3, 5, 7))
    expands: tuple[float, ...] = Field(default=(3.0, 4.0, 6.0))
    depths: tuple[int, ...] = Field(default=(2, 3, 4))
    stages: tuple[Stage, ...] = Field(default=OFA_STAGES)
    stem_channels: int = Field(default=16, ge=1)
    stem_stride: Literal[1, 2] = 2
    first_channels: int = Field(default=16, ge=1)
    head_channels: tuple[int, int] = (960, 1280)
    blocks: Blocks = "base"
    exits: Exits = "single"

    @field_validator("resolutions", "widths", "kernels", "expands", "depths")
    @classmethod
    def _ascending(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if not value:
            raise ValueError(f"{info.field_name} must hold at least one value")
        if value[0] <= 0 or any(low >= high for low, high in itertools.pairwise(value)):
            raise ValueError(f"{info.field_name} must be positive, ascending and without repeats")
        return value

    @field_validator("expands")
    @classmethod
    def _expanding(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] < 1:
            raise ValueError("expands must be 1 or more")
        return value

    @field_validator("depths")
    @classmethod
    def _consecutive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value != tuple(range(value[0], value[-1] + 1)):
            raise ValueError("depths must be consecutive, for example [2, 3, 4]")
        return value

    @model_validator(mode="after")
    def _enough_pixels(self) -> MobileNetV3Settings:
        if not self.stages:
            raise ValueError("stages must hold at least one stage")
        if min(self.head_channels) < 1:
            raise ValueError(f"head_channels={list(self.head_channels)} must be 1 or more")
        if self.resolutions[0] < self.total_stride:
            raise ValueError(
                f"resolutions={list(self.resolutions)}: {self.resolutions[0]} pixels are too few for the total stride "
                f"{self.total_stride} (stem_stride x strides of stages); raise resolutions or lower stem_stride or "
                "a stage's stride"
            )
        return self

    @model_validator(mode="after")
    def _variants_exist(self) -> MobileNetV3Settings:
        if self.early and len(self.stages) < 2:
            raise ValueError(
                "exits='early' needs two stages or more to leave between; add a stage or say exits: single"
            )
        if self.dense and self.depths[-1] < FIRST_SKIP:
            raise ValueError(
                f"blocks={self.blocks!r} skips over layers from depth {FIRST_SKIP} on, but "
                f"depths={list(self.depths)}; raise depths or say blocks: {'parallel' if self.parallel else 'base'}"
            )
        return self

    @property
    def dense(self) -> bool:
        """Whether stages have dense skips."""
        return "dense" in self.blocks

    @property
    def parallel(self) -> bool:
        """Whether layers have parallel branches."""
        return "parallel" in self.blocks

    @property
    def early(self) -> bool:
        """Whether there is an exit after every stage."""
        return self.exits == "early"

    @property
    def total_stride(self) -> int:
        """Product of all strides."""
        result: int = self.stem_stride
        for stage in self.stages:
            result *= stage.stride
        return result


def read_settings(settings: dict[str, Any]) -> MobileNetV3Settings:
    """Return checked settings.

    Raises:
        SpaceError: A key is unknown, missing or cannot be used; every problem is named in one message.
    """
    try:
        return MobileNetV3Settings.model_validate(settings)
    except ValidationError as error:
        raise SpaceError(explain_validation(error, MobileNetV3Settings, "settings of space mobilenetv3")) from error

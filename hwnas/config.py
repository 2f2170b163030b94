"""The run file: its schema and nothing else. Names of spaces, runtimes or strategies are resolved by those who own them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from hwnas.errors import ConfigError
from hwnas.files import digest
from hwnas.presets import PRESETS


class Section(BaseModel):
    """Base of every section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GrownSection(Section):
    """A section that got keys after its first files were written.

    At their defaults the keys in ``later`` are left out of what is written, so that older digests stay what they are.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        unused = {key for key in self.later if getattr(self, key) == fields[key].default}
        return {key: value for key, value in written.items() if key not in unused}


Statistic = Literal["p50", "p90", "p99"]


class Budget(Section):
    """A hard limit on a target: absolute (``max_ms``) or relative to the largest network (``relative: -30%``)."""

    max_ms: float | None = Field(default=None, gt=0)
    relative: str | None = Field(default=None, pattern=r"^-\d+(\.\d+)?%$")
    statistic: Statistic = "p50"

    @model_validator(mode="after")
    def _one_of(self) -> Budget:
        if (self.max_ms is None) == (self.relative is None):
            raise ValueError("give exactly one of max_ms and relative")
        return self


class TargetEntry(Section):
    """A target of the run and its budget (none: latency is only an objective)."""

    target: str
    budget: Budget | None = None


class SpaceSection(Section):
    """A search space by name and its settings."""

    name: str = "mobilenetv3"
    settings: dict[str, Any] = Field(default_factory=dict)


class DataSection(Section):
    """Where images come from and how they are split.

    ``source`` is ``digits``, ``fashion-mnist[:FOLDER]``, ``imagefolder:FOLDER_OR_ARCHIVE``, ``torchvision:NAME`` or
    ``pkg.mod:function`` (returns a ``torch.utils.data.Dataset``, or a train/test pair of them).
    """

    source: str
    root: str | None = None
    download: bool = False
    image_size: int = Field(default=32, ge=4)
    validation: float = Field(default=0.15, gt=0, lt=1)
    gate: float = Field(default=0.05, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    max_train: int | None = Field(default=None, ge=2)
    augment: Literal["none", "shift", "shift-flip"] = "shift"
    seed: int = 0


class ProfileSection(Section):
    """How a target's table and latency model are made.

    With ``interval``, ``networks`` is the most: measuring ends when the prediction intervals' median half-width, as a share of
    the latency, is at most that. With ``reuse``, a run takes a table of this machine, target and space from the user's data
    folder or those shipped, if there is one, instead of profiling.
    """

    reuse: bool = True

    networks: int = Field(default=120, ge=10)
    held_out: int = Field(default=20, ge=0)
    interval: float | None = Field(default=None, gt=0, lt=1)
    budget_minutes: float | None = Field(default=None, gt=0)
    rounds: int = Field(default=12, ge=3)
    coverage: float = Field(default=0.9, gt=0.5, lt=1)
    seed: int = 0


class PhaseSection(GrownSection):
    """One phase of progressive shrinking: the choices allowed in it and how long it trains.

    ``level`` is how many branches of parallel blocks may be on, ``exit`` after how many stages a network may end; they are
    for spaces with parallel blocks and with early exits.
    """

    later: ClassVar[tuple[str, ...]] = ("level", "exit", "warmup_epochs")

    name: str
    epochs: float = Field(gt=0)
    kernel: tuple[int, ...] | None = None
    expand: tuple[int, ...] | None = None
    depth: tuple[int, ...] | None = None
    level: tuple[int, ...] | None = None
    exit: tuple[int, ...] | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    subnets: int = Field(default=1, ge=1)
    warmup_epochs: float | None = Field(default=None, ge=0)


ExitWeights = Literal["uniform", "ascending", "descending"]
"""How several exits count: all alike, later ones more, earlier ones more."""


Precision = Literal["fp32", "bf16"]
"""In what convolutions compute while training."""


class TrainSection(GrownSection):
    """Supernet training: progressive shrinking with distillation (Cai et al., "Once-for-All", 2020).

    Spaces with early exits: until they shrink, networks train with all exits at once, ``exit_loss`` weighs the losses, and a
    teacher speaks with all of them, ``exit_ensemble`` weighs their logits. From scratch descending losses won, with an
    output weighed either way (Sarti et al., "Anticipate, Ensemble and Prune", 2023).

    ``pretrained`` names an entry of the zoo, or the folder of one (a path with a separator): its weights take the place of
    training, or with ``phases`` are where training starts; ``epochs`` is for training from scratch.

    ``device`` is where training computes (``auto``: a GPU where torch sees one); with ``precision: bf16`` convolutions compute
    in bfloat16, weights and what is accumulated stay fp32.

    ``preset`` sets phases and every key that the run file does not name; see :mod:`hwnas.presets`.
    """

    later: ClassVar[tuple[str, ...]] = ("exit_loss", "exit_ensemble", "pretrained", "device", "precision", "preset")

    pretrained: str | None = Field(default=None, min_length=1)
    phases: tuple[PhaseSection, ...] = ()
    epochs: float = Field(default=30, gt=0)
    sampling: Literal["uniform", "sandwich"] = "uniform"
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=0.05, gt=0)
    weight_decay: float = Field(default=3e-5, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    distillation: float = Field(default=1.0, ge=0)
    warmup_epochs: float = Field(default=1, ge=0)
    exit_loss: ExitWeights = "descending"
    exit_ensemble: ExitWeights = "ascending"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "fp32"
    preset: Literal["paper", "gpu-30min", "cpu-60min"] | None = None
    bn_images: int = Field(default=512, ge=16)
    checkpoint_minutes: float = Field(default=10, gt=0, le=10)
    time_budget_minutes: float | None = Field(default=None, gt=0)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, raw: Any) -> Any:
        preset = PRESETS.get(str(raw.get("preset"))) if isinstance(raw, dict) else None
        return {**preset.section, **raw} if preset else raw

    @model_validator(mode="after")
    def _one_recipe(self) -> TrainSection:
        if self.preset and self.phases:
            raise ValueError(f"preset={self.preset} has phases of its own: take out preset, or phases")
        if self.preset and self.pretrained:
            raise ValueError(
                f"preset={self.preset} trains from scratch, pretrained={self.pretrained} does not: take out preset, and give "
                "phases if training should go on"
            )
        return self


Amount = float | str | None
"""A positive number, or a share below the largest network such as ``-30%``."""


def _amount(value: Any) -> Any:
    """Return an amount as a number or as text with ``%``; YAML reads ``8.0e6`` as text, which is meant as a number.

    Raises:
        ValueError: It is neither a positive number nor a share.
    """
    if value is None:
        return None
    text = "" if isinstance(value, bool) else str(value).strip()
    if re.fullmatch(r"-\d+(\.\d+)?%", text) and 0.0 < float(text[1:-1]) < 100.0:
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError("give a number above 0, or a share below the largest network, such as -30%")
    return number


class CostBudgets(GrownSection):
    """Hard limits on what is counted on a network: absolute, or relative to the largest network (``-30%``).

    ``peak_memory_bytes`` (activations alive at once) and ``size_bytes`` (weights) hold for every target at its precision.
    Latency has its budget beside its target.
    """

    later: ClassVar[tuple[str, ...]] = ("macs", "parameters", "peak_memory_bytes", "size_bytes")

    macs: Amount = None
    parameters: Amount = None
    peak_memory_bytes: Amount = None
    size_bytes: Amount = None

    @model_validator(mode="before")
    @classmethod
    def _no_latency(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "latency" in raw:
            raise ValueError("latency belongs to a target; write it there, as targets.0.budget: {max_ms: 3}")
        return raw

    @field_validator("*", mode="before")
    @classmethod
    def _one_amount(cls, value: Any) -> Any:
        return _amount(value)

    @property
    def given(self) -> dict[str, float | str]:
        """Cost -> its limit, of those that have one."""
        return self.model_dump()


class SearchSection(GrownSection):
    """The search: strategy by name and its sizes (NATv2's names).

    ``reevaluate`` says which members are evaluated again after the supernet adapted: ``all``, as published, or ``needed``,
    those that may still be on a front. ``validation_images`` limits what an evaluation reads; in the end members that may be on
    a front are then read on more images, until all have decided, unless ``confirm`` is off.

    ``objectives`` are ``accuracy`` and any of ``latency`` (of every target), a target (its latency alone), ``macs``,
    ``parameters``, ``peak_memory_bytes`` and ``size_bytes``. What has a budget need not be an objective.
    """

    later: ClassVar[tuple[str, ...]] = ("reevaluate", "adapt_subnets", "budgets", "confirm")

    strategy: str = "natv2"
    metric: str = "top1"
    objectives: tuple[str, ...] = ("accuracy", "latency")
    budgets: CostBudgets = CostBudgets()
    initial: int = Field(default=60, ge=4)
    oversample: int = Field(default=3, ge=1)
    archive: int = Field(default=60, ge=4)
    iterations: int = Field(default=6, ge=1)
    candidates: int = Field(default=8, ge=1)
    adapt_epochs: float = Field(default=0.5, ge=0)
    adapt_top: int = Field(default=30, ge=1)
    adapt_subnets: int = Field(default=2, ge=1)
    adapt_learning_rate: float = Field(default=2.5e-3, gt=0)
    inner_population: int = Field(default=100, ge=4)
    inner_generations: int = Field(default=20, ge=1)
    reevaluate: Literal["needed", "all"] = "needed"
    validation_images: int | None = Field(default=None, ge=10)
    confirm: bool = True
    time_budget_minutes: float | None = Field(default=None, gt=0)
    seed: int = 0


class FinetuneSection(GrownSection):
    """Two-step post-processing of winners.

    Of each target's ``candidates``, the first step is done for all and the second only for the best on validation
    (``export.winners`` of them): a supernet ranks close networks less well than a few epochs of training do.

    ``exits: ensemble`` (spaces with early exits) attaches the exits before a network's own again; they train and speak
    together, weighed by ``exit_weights`` (``mixed``: losses descending, output ascending). ``exit_pruning`` keeps those whose
    output is best on validation (Sarti et al., "NATv2" and "Anticipate, Ensemble and Prune", 2023).
    """

    later: ClassVar[tuple[str, ...]] = ("exits", "exit_weights", "exit_pruning")

    candidates: int = Field(default=1, ge=1)
    epochs: int = Field(default=20, ge=0)
    patience: int = Field(default=8, ge=1)
    batch_size: int = Field(default=64, ge=2)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    distillation: float = Field(default=0.0, ge=0)
    exits: Literal["single", "ensemble"] = "single"
    exit_weights: Literal["uniform", "ascending", "descending", "mixed"] = "uniform"
    exit_pruning: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _exits_of_an_ensemble(self) -> FinetuneSection:
        if self.exits == "single" and (self.exit_pruning or self.exit_weights != "uniform"):
            key = "exit_pruning" if self.exit_pruning else "exit_weights"
            raise ValueError(f"finetune.{key} is for finetune.exits: ensemble; set that, or leave {key} out")
        return self


class ExportSection(Section):
    """Export and verification of winners."""

    winners: int = Field(default=1, ge=1)
    calibration_images: int = Field(default=128, ge=8)
    max_int8_drop: float = Field(default=0.01, ge=0)
    rounds: int = Field(default=30, ge=5)


class RunConfig(Section):
    """A whole run file.

    ``seed`` is the seed of every section that names none, except ``data``: the splits stay the same.
    ``threads`` is the number of threads torch trains and evaluates with; by default one for small networks, which more
    threads only slow down, else all cores. The same number gives the same bits.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = 0
    threads: int | None = Field(default=None, ge=1)
    targets: tuple[TargetEntry, ...] = Field(min_length=1)
    data: DataSection
    space: SpaceSection = Field(default_factory=SpaceSection)
    profile: ProfileSection = Field(default_factory=ProfileSection)
    train: TrainSection = Field(default_factory=TrainSection)
    search: SearchSection = Field(default_factory=SearchSection)
    finetune: FinetuneSection = Field(default_factory=FinetuneSection)
    export: ExportSection = Field(default_factory=ExportSection)

    @model_validator(mode="before")
    @classmethod
    def _spread_seed(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("seed"), int):
            return raw
        names = ("profile", "train", "search", "finetune")
        sections: dict[str, Any] = {name: raw.get(name) if raw.get(name) is not None else {} for name in names}
        spread = {name: {"seed": raw["seed"], **entry} for name, entry in sections.items() if isinstance(entry, dict)}
        return {**raw, **spread}

    @property
    def digest(self) -> str:
        """The sha256 of the resolved configuration."""
        return digest(self.model_dump(mode="json"))


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        info = current.model_fields.get(part)
        if info is None:
            return []
        candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
        models = [entry for entry in candidates if isinstance(entry, type) and issubclass(entry, BaseModel)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)


def explain_validation(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return one message for a pydantic error: each bad key, what was expected, and the nearest known key."""
    lines = []
    for entry in error.errors():
        location = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            known = _known_keys(model, entry["loc"][:-1])
            near = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"unknown key {location!r}; {hint}")
        elif entry["type"] == "missing":
            lines.append(f"key {location!r} is missing")
        else:
            # A rule about several keys is told the whole section, which would bury what it says.
            whole = entry["type"] == "value_error" and isinstance(entry["input"], dict)
            given = "" if whole else f" (got {entry['input']!r})"
            lines.append(f"{location or 'the file'}: {entry['msg'].removeprefix('Value error, ')}{given}")
    return f"{where}: " + "; ".join(lines) + "."


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``raw`` with ``a.b=c`` overrides applied; values are read as YAML.

    Raises:
        ConfigError: An override has no ``=`` or goes through something that is not a mapping.
    """
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(raw))
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {override!r} must look like search.iterations=3.")
        node: Any = result
        parts = path.split(".")
        for part in parts[:-1]:
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
                continue
            if not isinstance(node, dict):
                raise ConfigError(f"--set {override!r}: {part!r} is not inside a mapping.")
            node = node.setdefault(part, {})
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not YAML.") from error
        if isinstance(node, list) and parts[-1].isdigit() and int(parts[-1]) < len(node):
            node[int(parts[-1])] = parsed
        elif isinstance(node, dict):
            node[parts[-1]] = parsed
        else:
            raise ConfigError(f"--set {override!r}: {parts[-1]!r} is not inside a mapping.")
    return result


SectionT = TypeVar("SectionT", bound=Section)


def parse_section(section: type[SectionT], raw: Any, where: str) -> SectionT:
    """Read one section from plain data.

    Raises:
        ConfigError: It breaks the schema; every problem is named.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, section, where)) from error


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file.

    Raises:
        ConfigError: The file is absent, not YAML, or breaks the schema; every problem is named in one message.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"run file {path} does not exist.") from error
    except OSError as error:
        raise ConfigError(f"run file {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"run file {path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"run file {path} must be a mapping of keys, for example 'name: demo'.")
    return parse_section(RunConfig, apply_overrides(raw, overrides), str(path))

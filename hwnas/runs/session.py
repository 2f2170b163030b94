"""One run in progress: its configuration and the objects that its stages share, each made when first needed."""

from __future__ import annotations

import difflib
from functools import cached_property
from pathlib import Path
from typing import Any

from hwnas import registry
from hwnas.config import Budget, RunConfig, load_run_config
from hwnas.datasets.data import ImageData, load_data
from hwnas.errors import ConfigError
from hwnas.finetuning.variant import check_exits
from hwnas.latency.networks import make_backend
from hwnas.runs.folder import SUPERNET, RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.costs import COUNTS
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.evaluation import resolve_metric
from hwnas.supernets.phases import phases_of
from hwnas.supernets.placing import training_device
from hwnas.supernets.threads import use_threads
from hwnas.targets import Device, Target, find_device
from hwnas.zoo.entry import Entry, find_entry
from hwnas.zoo.starting import LOADED, check_images, check_start, with_settings


def check_objectives(names: tuple[str, ...], targets: tuple[Target, ...]) -> None:
    """Raise unless the objectives are known and accuracy is among them.

    Raises:
        ConfigError: They are not, or the latency of a target that the run does not have is asked for.
    """
    known = ("accuracy", "latency", *COUNTS)
    if "accuracy" not in names:
        raise ConfigError(f"search.objectives: accuracy is missing; choose accuracy and any of {', '.join(known[1:])}.")
    for name in names:
        if name in known:
            continue
        if "/" in name and Target.parse(name) not in targets:
            raise ConfigError(
                f"search.objectives: {name} is not a target of this run, so there is no latency model for it; "
                f"name it under targets, or choose of {', '.join(map(str, targets))}."
            )
        if "/" not in name:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"search.objectives: unknown objective {name!r}{hint}; choose accuracy and any of {', '.join(known[1:])}, "
                "or a target for its latency alone."
            )


class Run:
    """A run file, its folder, and what both lead to.

    Args:
        config: The run file as resolved.
        runs: Folder that holds run folders.

    Raises:
        ConfigError: A target is malformed, unknown, or named twice.
        MissingRuntimeError: A target's runtime is not installed.
    """

    def __init__(self, config: RunConfig, runs: Path) -> None:
        self.path = runs / config.name
        self.config = config
        self.config = self._with_space_of_entry()
        self.targets = tuple(Target.parse(entry.target) for entry in config.targets)
        if len(set(self.targets)) != len(self.targets):
            raise ConfigError("every target of a run file must be named once.")
        self.devices: dict[str, Device] = {target.device: find_device(target.device) for target in self.targets}
        for target in self.targets:
            make_backend(target)
        registry.load("space", config.space.name)
        registry.load("strategy", config.search.strategy)
        resolve_metric(config.search.metric)
        check_objectives(config.search.objectives, self.targets)

    @property
    def entry(self) -> Entry | None:
        """The pretrained supernet to start from; None without one, and once the run's folder has its weights."""
        name = self.config.train.pretrained
        return None if name is None or (self.path / SUPERNET / LOADED).exists() else find_entry(name)

    def _with_space_of_entry(self) -> RunConfig:
        """Return the run file with the space's settings written out, where a pretrained supernet gives them."""
        config = self.config
        if config.train.pretrained is None:
            return config
        if self.entry is not None:
            space = with_settings(config.space, self.entry.card)
        else:
            stored = load_run_config(self.path / "run.yaml").space
            space = stored.model_copy(update={"settings": {**stored.settings, **config.space.settings}})
        return config.model_copy(update={"space": space})

    @cached_property
    def folder(self) -> RunFolder:
        """The run's folder; claimed only once data, space, phases and device of training were found to be usable."""
        if isinstance(self.space, MobileNetV3Space):
            phases_of(self.config.train, self.space)
        if not (self.path / SUPERNET / "training.json").exists():
            training_device(self.config.train)
        return RunFolder(self.path, self.config)

    @cached_property
    def data(self) -> ImageData:
        """The images, split."""
        return load_data(self.config.data)

    @cached_property
    def space(self) -> SearchSpace[Any]:
        """The search space; classes and channels follow the data unless the run file sets them."""
        if self.entry is not None:
            check_images(self.entry, self.data)
        settings = {
            "classes": len(self.data.classes),
            "in_channels": self.data.channels,
            **self.config.space.settings,
        }
        space: SearchSpace[Any] = registry.load("space", self.config.space.name)(**settings)
        if not space.compositional:
            raise ConfigError(
                f"space.name={space.name!r} is for hwnas profile --kernels; there is nothing to search in it."
            )
        check_exits(self.config.finetune, space)
        if self.entry is not None:
            check_start(self.entry, self.config, space, self.data)
        return space

    def new_supernet(self) -> AnySupernet:
        """Return a supernet of the space with fresh weights."""
        supernet: AnySupernet = registry.load("supernet", self.config.space.name)(
            self.space, seed=self.config.train.seed
        )
        return supernet

    def budget(self, target: Target) -> Budget | None:
        """Return the budget of a target as the run file has it."""
        return self.config.targets[self.targets.index(target)].budget

    def use_threads(self) -> int:
        """Set the number of threads torch works with, and return it."""
        return use_threads(self.space, self.config.train.batch_size, self.config.threads)

    @staticmethod
    def state(finished: Path) -> str:
        """Return ``done`` if a step's last file is there, else ``to do``."""
        return "done" if finished.exists() else "to do"

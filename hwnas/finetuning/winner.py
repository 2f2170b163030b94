"""A fine-tuned architecture: the network, how it came about, and its folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwnas import registry
from hwnas.errors import ModelFileError, RunFolderError
from hwnas.files import read_json, write_bytes, write_json
from hwnas.finetuning.loop import EpochRecord
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.storage import load_tensors, read_tensors, settings_differences, tensor_bytes

DESCRIPTION = "winner.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Winner:
    """A fine-tuned architecture.

    Attributes:
        architecture: What it is; it names its resolution.
        module: Static network with the final weights, in evaluation mode; the weights of several exits are in its
            classifiers.
        epochs: E*, the epochs it was trained on train + validation.
        metric: Name of the metric.
        history: Step 1, epoch 0 (as extracted) first; its validation figures are the only honest ones, because step 2
            trains on the validation images.
        final_history: Step 2; training losses only.
        identity: What the fine-tuning depends on: space, architecture as searched, data, settings, starting weights.
        exits: Number of each exit of an ensemble and its weight in the output; empty for a network as searched.
    """

    architecture: Any
    module: nn.Module
    epochs: int
    metric: str
    history: tuple[EpochRecord, ...]
    final_history: tuple[EpochRecord, ...]
    identity: dict[str, Any]
    exits: dict[int, float] = field(default_factory=dict)

    @property
    def resolution(self) -> int:
        """Side of the input, pixels."""
        return int(self.architecture.resolution)

    @property
    def validation_accuracy(self) -> float:
        """Metric on the validation split after E* epochs of step 1 (trained on train alone), of the exits that are kept."""
        return float(self.history[self.epochs].accuracy)

    @property
    def extracted_accuracy(self) -> float:
        """Metric on the validation split before any fine-tuning."""
        return float(self.history[0].validation_accuracy or 0.0)


def save_winner(winner: Winner, supernet: AnySupernet, folder: Path) -> None:
    """Write ``weights.safetensors`` and then ``winner.json``; only with the latter the winner exists.

    Raises:
        StorageError: Writing failed.
    """
    data = tensor_bytes(winner.module.state_dict())
    write_bytes(folder / WEIGHTS, data)
    searched = supernet.space.from_dict(winner.identity["architecture"])
    exits = [{"exit": number, "weight": weight} for number, weight in winner.exits.items()]
    description = {
        "format": FORMAT,
        "supernet": supernet.name,
        "space": {"name": supernet.space.name, "digest": supernet.space.digest, "settings": supernet.space.settings()},
        "architecture": winner.architecture.as_dict(),
        "encoding": supernet.space.encode(searched).tolist(),
        **({"exits": exits} if exits else {}),
        "epochs": winner.epochs,
        "metric": winner.metric,
        "validation_accuracy": winner.validation_accuracy,
        "extracted_accuracy": winner.extracted_accuracy,
        "history": [record.as_dict() for record in winner.history],
        "final_history": [record.as_dict() for record in winner.final_history],
        "identity": winner.identity,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    write_json(folder / DESCRIPTION, description)


def _network(supernet_name: str, space: SearchSpace[Any], architecture: Architecture) -> nn.Module:
    supernet: AnySupernet = registry.load("supernet", supernet_name)(space)
    return supernet.extract(architecture)


def load_winner(folder: Path, space: SearchSpace[Any]) -> Winner:
    """Return the winner kept in ``folder``.

    Raises:
        RunFolderError: There is none, or its description is damaged.
        ModelFileError: Its weights are damaged, or it belongs to another space (what differs is named).
    """
    path = folder / DESCRIPTION
    try:
        raw = read_json(path)
    except RunFolderError as error:
        raise RunFolderError(f"{folder} holds no finished winner: {error} Run hwnas finetune.") from error
    try:
        stored = raw["space"]
        if stored["digest"] != space.digest:
            detail = settings_differences(stored["settings"], space.settings()) or str(stored["name"])
            raise ModelFileError(f"the winner in {folder} belongs to another space ({detail}). Use the same settings.")
        architecture = space.from_dict(raw["architecture"])
        module = _network(raw["supernet"], space, architecture)
        load_tensors(module, read_tensors(folder / WEIGHTS, raw["weights_sha256"]), folder / WEIGHTS)
        return Winner(
            architecture=architecture,
            module=module.to(memory_format=torch.channels_last).eval(),  # type: ignore[call-overload]
            epochs=int(raw["epochs"]),
            metric=str(raw["metric"]),
            history=tuple(EpochRecord.from_dict(record) for record in raw["history"]),
            final_history=tuple(EpochRecord.from_dict(record) for record in raw["final_history"]),
            identity=dict(raw["identity"]),
            exits={int(entry["exit"]): float(entry["weight"]) for entry in raw.get("exits", ())},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path} is not the description of a winner ({error!r}). Delete it to make it anew."
        ) from error

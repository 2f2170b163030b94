"""Training checkpoints that a kill at any time cannot spoil: tensors first, then the one JSON file that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.errors import RunFolderError
from hwnas.files import read_json, write_bytes, write_json
from hwnas.supernets.storage import read_tensors, remove_others, settings_differences, tensor_bytes

STATE = "checkpoint.json"
TENSORS = "checkpoint-{}.safetensors"


@dataclass
class Counters:
    """Where training stands.

    Attributes:
        phase: Index of the phase in progress.
        step: Steps done in that phase.
        done: Steps done in all.
        seconds: Time spent so far, over all starts.
        loss_sum: Sum of losses since the last entry of ``history``.
        loss_count: Their number.
        history: ``[steps done, mean loss]``, about twenty entries a phase.
        complete: Every phase is done.
        accuracies: Of networks of each finished phase, by the phase's index.
    """

    phase: int = 0
    step: int = 0
    done: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    history: list[list[float]] = field(default_factory=list)
    complete: bool = False
    accuracies: dict[str, dict[str, float]] = field(default_factory=dict)


def save_checkpoint(folder: Path, identity: dict[str, Any], counters: Counters, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint; the former one is valid until the new one is whole.

    Raises:
        StorageError: Writing failed; the former checkpoint is intact.
    """
    data = tensor_bytes(tensors)
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / TENSORS.format(sha256[:12])
    write_bytes(path, data)
    state = {"identity": identity, "counters": asdict(counters), "tensors": path.name, "tensors_sha256": sha256}
    write_json(folder / STATE, state)
    remove_others(folder, TENSORS.format("*"), path)


def load_checkpoint(folder: Path, identity: dict[str, Any]) -> tuple[Counters, dict[str, Tensor]] | None:
    """Return the checkpoint in ``folder``, or None.

    Args:
        folder: Where checkpoints are kept.
        identity: What makes a training run what it is; the checkpoint must be of the same.

    Raises:
        RunFolderError: The checkpoint is of another training run (what differs is named) or not readable.
        ModelFileError: Its tensors are damaged.
    """
    path = folder / STATE
    if not path.exists():
        return None
    state = read_json(path)
    try:
        stored, counters = state["identity"], Counters(**state["counters"])
        name, sha256 = Path(state["tensors"]).name, state["tensors_sha256"]
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is not a training checkpoint ({error!r}). Delete it to train anew.") from error
    if stored != identity:
        raise RunFolderError(
            f"{folder} holds the training of another configuration ({settings_differences(stored, identity)}). "
            "Use that configuration again, or another run name."
        )
    return counters, read_tensors(folder / name, sha256)


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module, every name prefixed."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix`` and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(prefix: str, optimizer: torch.optim.SGD, module: nn.Module) -> dict[str, Tensor]:
    """Return the momentum of every parameter that has one, by parameter name."""
    found = {}
    for name, parameter in module.named_parameters():
        momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            found[f"{prefix}.{name}"] = momentum
    return found


def restore_optimizer(optimizer: torch.optim.SGD, module: nn.Module, momenta: Mapping[str, Tensor]) -> None:
    """Give every parameter back its momentum."""
    for name, parameter in module.named_parameters():
        if name in momenta:
            momentum = torch.empty_like(parameter).copy_(momenta[name])
            optimizer.state[parameter]["momentum_buffer"] = momentum


def unlike_folders(folder: Path) -> RunFolderError:
    """Return the error of processes that do not find the same files."""
    return RunFolderError(
        f"the processes of this training do not find the same files in {folder}. "
        "Put the runs folder (--runs) where every machine reads and writes it."
    )

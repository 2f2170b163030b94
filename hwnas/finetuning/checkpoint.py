"""Where fine-tuning stands, on the disk after every epoch: tensors first, then the one JSON file that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwnas.errors import RunFolderError
from hwnas.files import read_json, write_bytes, write_json
from hwnas.finetuning.loop import EpochRecord
from hwnas.supernets.storage import load_tensors, read_tensors, remove_others, settings_differences, tensor_bytes

STATE = "finetune.json"
TENSORS = "finetune-{}.safetensors"

Record = list[EpochRecord]


@dataclass
class Stand:
    """Where fine-tuning stands.

    Attributes:
        step: 1 (find the number of epochs) or 2 (train for it).
        histories: Records of step 1 and of step 2.
    """

    step: int = 1
    histories: dict[int, Record] = field(default_factory=lambda: {1: [], 2: []})

    @property
    def history(self) -> Record:
        """Records of the step in progress."""
        return self.histories[self.step]


def refuse_foreign(stored: dict[str, Any], identity: dict[str, Any], folder: Path) -> None:
    """Raise unless two identities are the same.

    Raises:
        RunFolderError: They differ; what differs is named.
    """
    if stored != identity:
        raise RunFolderError(
            f"{folder} holds the fine-tuning of another configuration ({settings_differences(stored, identity)}). "
            "Use that configuration again, or another run name."
        )


def save(
    folder: Path, identity: dict[str, Any], stand: Stand, module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint; the former one is valid until the new one is whole.

    Raises:
        StorageError: Writing failed; the former checkpoint is intact.
    """
    tensors = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{key}/{name}"] = value
    data = tensor_bytes(tensors)
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / TENSORS.format(sha256[:12])
    write_bytes(path, data)
    histories = {str(step): [record.as_dict() for record in records] for step, records in stand.histories.items()}
    state = {"identity": identity, "step": stand.step, "histories": histories, "tensors_sha256": sha256}
    write_json(folder / STATE, state)
    remove_others(folder, TENSORS.format("*"), path)


def load(folder: Path, identity: dict[str, Any]) -> tuple[Stand, str] | None:
    """Return where fine-tuning stands and the digest of its tensors, or None if it never began.

    Raises:
        RunFolderError: The checkpoint is of another configuration or not readable.
    """
    path = folder / STATE
    if not path.exists():
        return None
    state = read_json(path)
    try:
        stored, sha256 = state["identity"], str(state["tensors_sha256"])
        histories = {
            int(k): [EpochRecord.from_dict(record) for record in records] for k, records in state["histories"].items()
        }
        stand = Stand(int(state["step"]), histories)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path} is not a fine-tuning checkpoint ({error!r}). Delete it to begin anew.") from error
    refuse_foreign(stored, identity, folder)
    return stand, sha256


def restore(folder: Path, sha256: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give module and optimiser back what :func:`save` wrote.

    Raises:
        ModelFileError: The tensors are absent, damaged or of another network.
    """
    path = folder / TENSORS.format(sha256[:12])
    tensors = read_tensors(path, sha256)
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, key = name.partition("/")
        kept.setdefault(kind, {})[key] = tensor
    load_tensors(module, kept.pop("module", {}), path)
    parameters = dict(module.named_parameters())
    for kind, values in kept.items():
        for key, value in values.items():
            if key in parameters:
                parameter = parameters[key]
                same = value.shape == parameter.shape
                # In the parameter's own memory format, or every later step pays for the mismatch.
                optimizer.state[parameter][kind] = torch.empty_like(parameter).copy_(value) if same else value.clone()


def remove(folder: Path) -> None:
    """Delete the checkpoint of a finished fine-tuning."""
    for path in [folder / STATE, *folder.glob(TENSORS.format("*"))]:
        path.unlink(missing_ok=True)

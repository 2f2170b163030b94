"""Supernets on disk: safetensors for weights, JSON for what they belong to; never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import Tensor

from hwnas import registry
from hwnas.errors import ModelFileError, RunFolderError
from hwnas.files import read_json, write_bytes, write_json
from hwnas.supernets.base import AnySupernet

WEIGHTS = "supernet-{}.safetensors"
DESCRIPTION = "supernet.json"
FORMAT = 1
REQUIRED = ("supernet", "space", "weights", "weights_sha256", "extra")


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return named tensors as the bytes of one safetensors file."""
    data: bytes = safetensors_save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    )
    return data


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file whose digest is known.

    Raises:
        ModelFileError: The file is absent or damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist. Restore it, or train the supernet again.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelFileError(
            f"{path} is damaged: its sha256 is not the one written beside it. Restore it, or delete its folder and "
            "train the supernet again."
        )
    try:
        tensors: dict[str, Tensor] = safetensors_load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} is not a safetensors file ({error}). Train the supernet again.") from error
    return tensors


def settings_differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return what differs between two settings as ``key: stored X, here Y``, or an empty text."""
    keys = sorted(set(stored) | set(here))
    return "; ".join(
        f"{key}: stored {stored.get(key)!r}, here {here.get(key)!r}" for key in keys if stored.get(key) != here.get(key)
    )


def save_supernet(supernet: AnySupernet, folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write weights and description into ``folder``; see :meth:`Supernet.save`."""
    data = tensor_bytes(supernet.state_dict())
    sha256 = hashlib.sha256(data).hexdigest()
    weights = folder / WEIGHTS.format(sha256[:12])
    write_bytes(weights, data)
    space = supernet.space
    description = {
        "format": FORMAT,
        "supernet": supernet.name,
        "space": {"name": space.name, "settings": space.settings(), "digest": space.digest},
        "weights": weights.name,
        "weights_sha256": sha256,
        "extra": extra or {},
    }
    write_json(folder / DESCRIPTION, description)
    remove_others(folder, WEIGHTS.format("*"), weights)


def remove_others(folder: Path, pattern: str, keep: Path) -> None:
    """Delete the files of ``folder`` that match ``pattern``, but not ``keep``; one that resists is left."""
    for path in folder.glob(pattern):
        if path.name != keep.name:
            with contextlib.suppress(OSError):
                path.unlink()


def read_description(folder: Path) -> dict[str, Any]:
    """Return the description of a saved supernet.

    Raises:
        ModelFileError: It is absent, damaged, or of an unknown format.
    """
    path = folder / DESCRIPTION
    try:
        description = read_json(path)
    except RunFolderError as error:
        raise ModelFileError(f"{folder} holds no readable supernet: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a supernet description of format {FORMAT}. Train the supernet again.")
    missing = [key for key in REQUIRED if key not in description]
    if missing:
        raise ModelFileError(f"{path} lacks {', '.join(missing)}. Restore it, or train the supernet again.")
    return description


def load_into(supernet: AnySupernet, folder: Path) -> dict[str, Any]:
    """Read weights into ``supernet``; see :meth:`Supernet.load`."""
    description = read_description(folder)
    stored = description["space"]
    if stored["digest"] != supernet.space.digest:
        detail = settings_differences(stored["settings"], supernet.space.settings())
        raise ModelFileError(
            f"the supernet in {folder} belongs to another space ({detail or stored['name']}). "
            "Use the same space settings, or train a supernet for this space."
        )
    path = folder / Path(description["weights"]).name
    tensors = read_tensors(path, description["weights_sha256"])
    load_tensors(supernet, tensors, path)
    extra: dict[str, Any] = description["extra"]
    return extra


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``tensors`` into ``module``.

    Raises:
        ModelFileError: Names or shapes do not fit; ``path`` is named.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ModelFileError(f"{path} does not fit the network: {str(error).splitlines()[-1].strip()}") from error


def load_supernet(folder: Path) -> AnySupernet:
    """Return the supernet saved in ``folder``, its space made from the stored settings.

    Raises:
        ModelFileError: The files are absent or damaged.
        ConfigError: The space or supernet is not installed here.
    """
    description = read_description(folder)
    space = registry.load("space", description["space"]["name"])(**description["space"]["settings"])
    supernet: AnySupernet = registry.load("supernet", description["supernet"])(space)
    supernet.load(folder)
    return supernet

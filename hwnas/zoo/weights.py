"""Weights of an entry: half precision, in files small enough for any host of repositories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from torch import Tensor

from hwnas import registry
from hwnas.errors import ConfigError, ModelFileError
from hwnas.files import sha256_file, write_bytes
from hwnas.spaces.base import SearchSpace
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.storage import load_tensors, settings_differences, tensor_bytes
from hwnas.zoo.card import Card, WeightFile
from hwnas.zoo.entry import Entry

SHARD_BYTES = 16_000_000
"""Most bytes of one file."""

_HEADER = 256
"""Room for what safetensors writes about one tensor, beside its name."""


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return floating-point tensors in half precision; one with a value beyond its range (65,504) stays as it is."""
    found = {}
    for name, tensor in tensors.items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        found[name] = half if bool(torch.isfinite(half).all()) else tensor
    return found


def split_tensors(tensors: Mapping[str, Tensor], limit: int = SHARD_BYTES) -> list[dict[str, Tensor]]:
    """Deal tensors, in the order of their names, to as few files of at most ``limit`` bytes as that order allows.

    Raises:
        ConfigError: One tensor alone is larger.
    """
    shards: list[dict[str, Tensor]] = []
    room = 0
    for name in sorted(tensors):
        size = tensors[name].nbytes + len(name) + _HEADER
        if size > limit:
            raise ConfigError(f"tensor {name} of {size} bytes does not fit into one file of {limit} bytes.")
        if size > room:
            shards.append({})
            room = limit
        shards[-1][name] = tensors[name]
        room -= size
    return shards


def write_weights(folder: Path, tensors: Mapping[str, Tensor], limit: int = SHARD_BYTES) -> tuple[WeightFile, ...]:
    """Write tensors into ``folder``; equal tensors give equal files.

    Raises:
        ConfigError: One tensor alone is larger than ``limit`` bytes.
        StorageError: Writing failed.
    """
    shards = split_tensors(tensors, limit)
    files = []
    for number, shard in enumerate(shards, start=1):
        path = folder / f"weights-{number}-of-{len(shards)}.safetensors"
        write_bytes(path, tensor_bytes(shard))
        files.append(WeightFile(file=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path)))
    return tuple(files)


def read_files(folder: Path, weights: Sequence[WeightFile]) -> dict[str, Tensor]:
    """Return the tensors of weight files, as they are stored.

    Raises:
        ModelFileError: A file is not what it claims to be.
    """
    tensors: dict[str, Tensor] = {}
    for weight in weights:
        path = folder / weight.file
        try:
            tensors |= safetensors_load(path.read_bytes())
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ModelFileError(
                f"{path} is not a readable safetensors file ({error}). Make the entry again."
            ) from error
    return tensors


def read_weights(entry: Entry) -> dict[str, Tensor]:
    """Return the tensors of an entry, every file checked first.

    Raises:
        ModelFileError: A file is absent, damaged or not what it claims to be.
    """
    entry.verify()
    return read_files(entry.folder, entry.card.weights)


def space_of(card: Card) -> SearchSpace[Any]:
    """Return the space of an entry.

    Raises:
        ConfigError: It is not installed here.
        ModelFileError: The space made of the card's settings is not the one the card names.
    """
    space: SearchSpace[Any] = registry.load("space", card.space.name)(**card.space.settings)
    if space.digest != card.space.digest:
        detail = settings_differences(card.space.settings, space.settings()) or "the digests differ"
        raise ModelFileError(
            f"zoo entry {card.name!r}: the settings in its card make another space than the one it was trained for ({detail}). "
            "Restore the card from where the entry came."
        )
    return space


def load_entry(entry: Entry) -> AnySupernet:
    """Return the supernet of an entry; see :func:`hwnas.zoo.load`."""
    supernet: AnySupernet = registry.load("supernet", entry.card.supernet)(space_of(entry.card))
    load_weights(supernet, entry)
    return supernet.eval()


def load_weights(supernet: AnySupernet, entry: Entry) -> None:
    """Give ``supernet`` the weights of an entry.

    Raises:
        ModelFileError: The files are damaged, or their tensors do not fit.
    """
    _fill(supernet, read_weights(entry), entry)


def _fill(supernet: AnySupernet, tensors: Mapping[str, Tensor], entry: Entry) -> None:
    try:
        load_tensors(supernet, tensors, entry.folder)
    except ModelFileError as error:
        raise ModelFileError(
            f"zoo entry {entry.name!r}: {error}. Its weights are not those of the space in its card: restore both from where "
            "the entry came, or make it again: hwnas zoo add RUN_FOLDER NAME --replace"
        ) from error


def classifier_tensors(supernet: AnySupernet) -> set[str]:
    """Return the names of the tensors of the layers that end in classes: those called ``classifier``."""
    return {name for name in supernet.state_dict() if "classifier" in name.split(".")}


def load_body(supernet: AnySupernet, entry: Entry) -> None:
    """Give ``supernet`` the weights of an entry, but for the classifiers, which stay as they are.

    Raises:
        ModelFileError: The files are damaged, or their tensors do not fit.
        ConfigError: The supernet names no classifier.
    """
    kept = classifier_tensors(supernet)
    if not kept:
        raise ConfigError(
            f"supernet {supernet.name!r} has no module called classifier, so its entry serves its own data set only."
        )
    fresh = {name: tensor for name, tensor in supernet.state_dict().items() if name in kept}
    body = {name: tensor for name, tensor in read_weights(entry).items() if name not in kept}
    _fill(supernet, body | fresh, entry)

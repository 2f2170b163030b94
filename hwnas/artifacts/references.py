"""ONNX files that come from outside: what they refer to, and whether it stays in their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwnas.artifacts.manifest import Manifest
from hwnas.artifacts.records import inside
from hwnas.errors import ArtifactError, ModelFileError


def external_files(path: Path) -> list[str]:
    """Return the files an ONNX file keeps weights in, by name, without loading them.

    Raises:
        ModelFileError: Not an ONNX file, or it refers to a path outside its folder.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the parser raises its own types and plain ones
        raise ModelFileError(f"{path} is not an ONNX file ({error}). Export it again.") from error
    found = set()
    for tensor in _tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                found.add(_location(path, entry.value))
    return sorted(found)


def _tensors(graph: Any) -> list[Any]:
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for nested in [attribute.g, *attribute.graphs]:
                tensors += _tensors(nested) if nested.node or nested.initializer else []
    return tensors


def _location(path: Path, value: str) -> str:
    try:
        return inside(value)
    except ValueError as error:
        raise ModelFileError(f"{path}: external weights: {error}: refused. Do not use this file.") from error


def check_onnx_references(folder: Path, manifest: Manifest) -> None:
    """Raise unless every file that the model refers to is in the manifest and so was checked.

    Raises:
        ArtifactError: It refers to something else.
    """
    main = folder / manifest.model.path
    if main.suffix != ".onnx":
        return
    try:
        needed = external_files(main)
    except ModelFileError as error:
        raise ArtifactError(str(error)) from error
    listed = {entry.path for entry in manifest.files if entry.role == "weights"}
    if missing := [name for name in needed if name not in listed]:
        raise ArtifactError(f"{main} refers to {missing[0]!r}, which is not among the checked files: refused.")

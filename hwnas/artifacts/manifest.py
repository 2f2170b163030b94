"""The manifest of an artifact: its schema, and how it is read and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from hwnas.artifacts.records import (
    Accuracy,
    BudgetEntry,
    Calibration,
    ExitEntry,
    FileEntry,
    FingerprintEntry,
    Licence,
    Measured,
    OutputParity,
    Predicted,
    Preprocessing,
    Record,
    Resources,
    RuntimeEntry,
    SpaceEntry,
    TensorEntry,
)
from hwnas.config import explain_validation
from hwnas.errors import ArtifactError
from hwnas.files import write_json

MANIFEST = "manifest.json"
SCHEMA_VERSION = "1.1"


class Manifest(Record):
    """Everything that is known of an artifact.

    ``request`` is the digest of what was asked for; ``exits`` are those of a network that was fine-tuned as an ensemble, whose
    weights are in the file's classifiers (empty: its own exit alone); ``canaries`` are the reference latencies of the table that
    prediction, measurement and budget stand for (empty: none, the measurement is raw).
    """

    schema_version: str = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    created: str
    request: str
    tools: dict[str, str]
    target: str
    runtime: RuntimeEntry
    fingerprint: FingerprintEntry
    architecture: dict[str, Any] | None = None
    exits: tuple[ExitEntry, ...] = ()
    space: SpaceEntry | None = None
    parameters: int | None = None
    macs: int | None = None
    files: tuple[FileEntry, ...] = Field(min_length=1)
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    quantisation: dict[str, Any] | None = None
    predicted: Predicted | None = None
    measured: Measured
    resources: Resources | None = None
    parity: dict[str, OutputParity]
    parity_reference: str = "torch"
    accuracy: Accuracy | None = None
    calibration: Calibration | None = None
    canaries: dict[str, float] = Field(default_factory=dict)
    budgets: tuple[BudgetEntry, ...] = ()
    licence: Licence

    @field_validator("files")
    @classmethod
    def _one_model(cls, value: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        paths = [entry.path for entry in value]
        if len(set(paths)) != len(paths) or MANIFEST in paths:
            raise ValueError("every file must be listed once, and the manifest not at all")
        if sum(entry.role == "model" for entry in value) != 1:
            raise ValueError("exactly one file must have the role 'model'")
        return value

    @property
    def size_bytes(self) -> int:
        """Bytes of the model and its weights."""
        return sum(entry.size_bytes for entry in self.files if entry.role in ("model", "weights"))

    @property
    def model(self) -> FileEntry:
        """The file the runtime opens."""
        return next(entry for entry in self.files if entry.role == "model")

    @property
    def kept(self) -> bool:
        """Whether no budget is broken."""
        return all(budget.verdict == "kept" for budget in self.budgets)


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write ``manifest.json`` into ``folder`` and return its path."""
    path = folder / MANIFEST
    write_json(path, manifest.model_dump(mode="json"))
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read and validate ``manifest.json`` of ``folder``; no other file is touched.

    Raises:
        ArtifactError: Absent, not JSON, of a newer schema, or breaking the schema.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(
            f"{folder} is no artifact: {MANIFEST} cannot be read ({error.strerror or error}). "
            "Give the folder that holds it, or export again."
        ) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not text ({error}). Export the artifact again.") from error
    return parse_manifest(text, str(path))


def _without_resources(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "resources": None}


UPGRADES: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {"1.0": ("1.1", _without_resources)}
"""Schema version -> the next one, and the function that turns a manifest of the one into one of the other."""


def upgraded(raw: Any, where: str) -> dict[str, Any]:
    """Return a manifest's plain data in the present schema, brought there version by version.

    Raises:
        ArtifactError: No manifest, or of a schema that this hwnas does not know.
    """
    if not isinstance(raw, dict):
        raise ArtifactError(f"{where} is no manifest: it holds no mapping. Export the artifact again.")
    found: dict[str, Any] = raw
    while (version := str(found.get("schema_version", ""))) != SCHEMA_VERSION:
        if version not in UPGRADES:
            raise ArtifactError(
                f"{where} has schema_version {version!r}; this hwnas reads {', '.join([*UPGRADES, SCHEMA_VERSION])}. "
                "Read it with the version of hwnas that wrote it, or export the artifact again."
            )
        version, step = UPGRADES[version]
        found = {**step(found), "schema_version": version}
    return found


def parse_manifest(text: str, where: str) -> Manifest:
    """Validate the text of a manifest; ``where`` names it in messages.

    Raises:
        ArtifactError: Not JSON, of a newer schema, or breaking the schema.
    """
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is not JSON ({error}). Export the artifact again.") from error
    raw = upgraded(raw, where)
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise ArtifactError(explain_validation(error, Manifest, where) + " Export the artifact again.") from error


def manifest_schema() -> dict[str, Any]:
    """Return the JSON schema of ``manifest.json``, as ``docs/manifest.schema.json`` holds it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}


def main() -> None:
    """Print the JSON schema: ``python -m hwnas.artifacts.manifest > docs/manifest.schema.json``."""
    print(json.dumps(manifest_schema(), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()

"""The manifest of an artifact: its schema, and how it is read and written."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hwnas.config import explain_validation
from hwnas.errors import ArtifactError
from hwnas.files import write_json

MANIFEST = "manifest.json"
SCHEMA_VERSION = "1.0"
Role = Literal["model", "weights", "samples", "script", "document", "data"]


class Record(BaseModel):
    """Base of every part: unknown keys and infinities are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(Record):
    """One file of the package.

    ``role`` is ``model`` (what the runtime opens), ``weights`` (what the model refers to), ``samples``, ``script``,
    ``document`` or ``data``.
    """

    path: str
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        return inside(value)


class TensorEntry(Record):
    """An input or output: shape with the batch first, numpy dtype name, and the meaning of the axes (``NCHW``, ``NC``)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str


class RuntimeEntry(Record):
    """What the model really ran on, as the runtime reported it."""

    name: str
    version: str
    provider: str
    device: str
    precision: str


class FingerprintEntry(Record):
    """Machine and setting of the measurements (see :class:`hwnas.targets.Fingerprint`)."""

    identity: dict[str, Any]
    context: dict[str, Any]


class SpaceEntry(Record):
    """The search space of the architecture."""

    name: str
    settings: dict[str, Any]
    digest: str


class Resize(Record):
    """How stored pixels become the resolution the network reads."""

    size: int = Field(ge=1)
    interpolation: str
    antialias: bool


class Preprocessing(Record):
    """How a picture becomes the input (see :class:`hwnas.datasets.preprocessing.Preprocessing`).

    In order: ``channels`` (gray or RGB), ``crop``, resize to ``stored_size`` as uint8, multiply by ``scale``,
    ``resize``, subtract ``mean``, divide by ``std``.
    """

    input_shape: tuple[int, int, int]
    layout: str
    dtype: str
    channels: Literal["gray", "RGB"]
    crop: str
    stored_size: int = Field(ge=1)
    scale: float = Field(gt=0)
    resize: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Predicted(Record):
    """The latency model's answer before anything was measured; the interval has ``coverage``."""

    value: float
    low: float
    high: float
    unit: str = "ms"
    coverage: float = Field(gt=0, le=1)


class Measured(Record):
    """Latency of the exported file on the target; ``low`` and ``high`` are its confidence interval."""

    value: float
    low: float
    high: float
    unit: str
    statistic: str
    percentiles: dict[str, float]
    grade: str
    disturbed: tuple[str, ...]
    rounds: int
    count: int


class OutputParity(Record):
    """How far one output of the exported file is from torch over ``images`` real images.

    ``tolerance`` limits ``relative_l2``; it is None where parity is decided by accuracy (int8).
    """

    relative_l2: float
    max_abs: float
    cosine: float
    argmax_agreement: float = Field(ge=0, le=1)
    tolerance: float | None
    images: int = Field(ge=1)


class GateEntry(Record):
    """Exported file against torch fp32 on the gate split, image by image (counts, not only shares)."""

    images: int = Field(ge=1)
    correct: int = Field(ge=0)
    fp32_correct: int = Field(ge=0)
    lost: int = Field(ge=0)
    gained: int = Field(ge=0)
    allowed: int = Field(ge=0)


class Accuracy(Record):
    """Accuracies in [0, 1] of the exported file, except ``validation`` and ``fp32_gate`` (torch fp32)."""

    metric: str
    data: str
    data_digest: str
    validation: float | None = None
    gate: float | None = None
    fp32_gate: float | None = None
    test: float | None = None
    test_images: int | None = None
    gate_counts: GateEntry | None = None


class Calibration(Record):
    """Images an int8 file was calibrated with."""

    digest: str
    images: int = Field(ge=1)
    split: str


class BudgetEntry(Record):
    """A budget and its verdict after ``tries`` measurements."""

    statistic: str
    max_ms: float = Field(gt=0)
    verdict: Literal["kept", "broken"]
    tries: int = Field(ge=1)


class Licence(Record):
    """Licence of the weights and where they come from."""

    weights: str
    note: str = ""


class Manifest(Record):
    """Everything that is known of an artifact; ``request`` is the digest of what was asked for."""

    schema_version: str = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    created: str
    request: str
    tools: dict[str, str]
    target: str
    runtime: RuntimeEntry
    fingerprint: FingerprintEntry
    architecture: dict[str, Any] | None = None
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
    parity: dict[str, OutputParity]
    accuracy: Accuracy | None = None
    calibration: Calibration | None = None
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


def inside(path: str) -> str:
    """Return ``path`` if it is a plain relative POSIX path that cannot leave its folder.

    Raises:
        ValueError: Absolute, with ``..``, a drive letter, a backslash or a control character.
    """
    parts = PurePosixPath(path).parts
    odd = "\\" in path or ":" in path or any(ord(letter) < 32 for letter in path)
    if not parts or odd or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path:
        raise ValueError(f"path {path!r} must be relative and stay in its folder")
    return path


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


def parse_manifest(text: str, where: str) -> Manifest:
    """Validate the text of a manifest; ``where`` names it in messages.

    Raises:
        ArtifactError: Not JSON, of a newer schema, or breaking the schema.
    """
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is not JSON ({error}). Export the artifact again.") from error
    version = str(raw.get("schema_version", "")) if isinstance(raw, dict) else ""
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise ArtifactError(
            f"{where} has schema_version {version!r}; this hwnas reads {SCHEMA_VERSION}. "
            "Read it with the version of hwnas that wrote it, or export the artifact again."
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise ArtifactError(explain_validation(error, Manifest, where) + " Export the artifact again.") from error

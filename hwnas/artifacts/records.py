"""The parts of a manifest."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Role = Literal["model", "weights", "samples", "script", "document", "data"]


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


class ExitEntry(Record):
    """One exit of an ensemble: its number, from 1 on, and its weight in the output."""

    exit: int = Field(ge=1)
    weight: float = Field(ge=0, le=1)


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
    """Latency of the exported file on the target; ``low`` and ``high`` are its interval at ``confidence``."""

    value: float
    low: float
    high: float
    confidence: float = Field(default=0.95, gt=0, lt=1)
    unit: str
    statistic: str
    percentiles: dict[str, float]
    grade: str
    disturbed: tuple[str, ...]
    rounds: int
    count: int


class Resources(Record):
    """What opening and running the file took on the target besides time.

    ``peak_memory_bytes`` is the growth of resident memory while the file was opened (None where the system does not tell);
    ``energy_mj`` that of one inference, of the whole package, board or GPU, by ``energy_sensor`` (``no sensor``: None).
    """

    load_ms: float
    first_run_ms: float
    peak_memory_bytes: int | None = None
    energy_mj: float | None = None
    energy_sensor: str = "no sensor"


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

    statistic: Literal["p50", "p90", "p99"]
    max_ms: float = Field(gt=0)
    verdict: Literal["kept", "broken"]
    tries: int = Field(ge=1)


class Licence(Record):
    """Licence of the weights and where they come from."""

    weights: str
    note: str = ""

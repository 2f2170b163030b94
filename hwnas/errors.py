"""Every error a person can meet, with the sentence that mends it.

A message says what was expected, what came, where, and the command or key that mends it. The command line prints
it without a traceback and leaves with ``exit_code``.
"""

from __future__ import annotations


class HwnasError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line leaves with."""

    exit_code = 2


class ConfigError(HwnasError):
    """A run file, flag or target string that cannot be used."""


class MissingRuntimeError(HwnasError):
    """An optional package is absent.

    Args:
        name: Runtime or feature that needs the package.
        install: The exact line that installs it.
    """

    def __init__(self, name: str, install: str) -> None:
        self.name = name
        self.install = install
        super().__init__(f"{name} is not installed here. Install it with: {install}")


class DataError(HwnasError):
    """A data set that cannot be read or split."""


class DeviceError(HwnasError):
    """A device that cannot be reached, or answers with something that is not the agent."""


class TableError(HwnasError):
    """A latency table or model that is corrupt, foreign or without provenance."""


class FingerprintMismatchError(TableError):
    """A table or model was made on another identity.

    Args:
        what: The file or object that does not fit.
        differences: Identity key -> (stored value, value here).
    """

    def __init__(self, what: str, differences: dict[str, tuple[object, object]], mend: str) -> None:
        self.differences = differences
        detail = "; ".join(f"{key}: stored {old!r}, here {new!r}" for key, (old, new) in differences.items())
        super().__init__(f"{what} belongs to another machine or setting ({detail}). {mend}")


class SpaceError(HwnasError):
    """An architecture or encoding outside its search space."""


class BudgetError(HwnasError):
    """Budgets that no architecture of the space can keep."""


class RunFolderError(HwnasError):
    """A run folder that holds another configuration or was damaged."""


class ModelFileError(HwnasError):
    """A model file (ONNX, IR, safetensors) that is not what it claims to be."""


class ConversionError(ModelFileError):
    """A converter that failed, or whose environment cannot be made."""


class ArtifactError(HwnasError):
    """An artifact package that is incomplete, tampered with, or failed parity."""


class RefusedError(ArtifactError):
    """An exported file that failed verification: it differs from torch, or lost too much accuracy."""

    exit_code = 1


class StorageError(HwnasError):
    """Writing failed (disk full, no permission); what was there before is intact."""


class MeasurementFailure(HwnasError):
    """One measurement that did not work; recorded as data, the run goes on.

    Args:
        kind: ``crashed``, ``timeout``, ``unsupported_op``, ``out_of_memory``, ``wrong_output``, ``unstable``,
            ``load_failed`` or ``fallback`` (the runtime would not run on what was asked).
        detail: What the worker or runtime said.
    """

    KINDS = (
        "crashed",
        "timeout",
        "unsupported_op",
        "out_of_memory",
        "wrong_output",
        "unstable",
        "load_failed",
        "fallback",
    )

    def __init__(self, kind: str, detail: str) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"kind={kind!r} must be one of {self.KINDS}")
        self.kind = kind
        self.detail = detail
        super().__init__(f"{kind}: {detail}")

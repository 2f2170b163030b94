"""The few real inputs that travel with an artifact, with what torch and the exported file answered."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import ArtifactError
from hwnas.files import write_bytes

SAMPLES = "samples.npz"
COUNT = 4
"""Images kept in a package."""


def write_samples(
    folder: Path,
    inputs: Mapping[str, NDArray[Any]],
    reference: Mapping[str, NDArray[Any]],
    outputs: Mapping[str, NDArray[Any]],
) -> Path:
    """Write ``samples.npz`` with arrays ``input:NAME``, ``torch:NAME`` and ``output:NAME``, each ``[n, ...]``."""
    arrays = {f"input:{name}": value for name, value in inputs.items()}
    arrays |= {f"torch:{name}": value for name, value in reference.items()}
    arrays |= {f"output:{name}": value for name, value in outputs.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    write_bytes(folder / SAMPLES, stream.getvalue())
    return folder / SAMPLES


def read_samples(folder: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Read ``samples.npz``: ``input``, ``torch`` or ``output`` -> tensor name -> ``[n, ...]``.

    Raises:
        ArtifactError: Absent, damaged, or holding objects.
    """
    path = folder / SAMPLES
    result: dict[str, dict[str, NDArray[Any]]] = {"input": {}, "torch": {}, "output": {}}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                kind, _, name = key.partition(":")
                result[kind][name] = stored[key]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} cannot be read ({error}). Get the artifact again.") from error
    return result

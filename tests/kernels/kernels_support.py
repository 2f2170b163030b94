"""What tests of the reading share."""

from __future__ import annotations

from pathlib import Path

from hwnas.kernels.batch import Kernel
from hwnas.kernels.reading import kernels_of_onnx


def computed(path: Path, runtime: str) -> list[Kernel]:
    """The kernels of a file that compute something: those that only change a layout are left out."""
    return [kernel for kernel in kernels_of_onnx(path, runtime) if kernel.kind != "reorder"]

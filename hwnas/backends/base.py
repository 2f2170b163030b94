"""What a backend is: the maker of one runtime's model files, for profiling (from a layer graph) and for shipping."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from hwnas.backends.checks import FloatArray, check_calibration, check_example, check_weight_bits, forward_once
from hwnas.backends.naming import block_of_kernel
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import KernelTime, ModelFiles
from hwnas.errors import ConfigError, MissingRuntimeError
from hwnas.files import explain_os_errors
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch

EXPORT_RECORD = "export.json"
"""Side file of an export: how the file was made, plain JSON (exporter, opset, error against torch, ...)."""


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; move its files into ``folder`` only when the block succeeds.

    Raises:
        StorageError: The disk is full or ``folder`` cannot be written.
    """
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as name:
            stage = Path(name)
            yield stage
            for path in sorted(stage.iterdir()):
                if path.is_file():
                    os.chmod(path, 0o644)
                    os.replace(path, folder / path.name)


@dataclass(frozen=True)
class Quantising:
    """What int8 is made with.

    Attributes:
        images: Calibration images, float32 ``[m, channels, height, width]``.
        weight_bits: Bits the weights may use, 7 or 8.
    """

    images: FloatArray
    weight_bits: int

    def record(self, quantiser: str) -> dict[str, Any]:
        """Return what ``export.json`` says of it."""
        return {
            "quantiser": quantiser,
            "calibration_images": len(self.images),
            "weight_bits": self.weight_bits,
        }


class Backend(ABC):
    """The maker of one runtime's model files. Public methods check, private hooks (``_build``, ``_export``) work.

    Attributes:
        name: The runtime's name in a target.
        precisions: What it can make, of ``fp32``, ``fp16``, ``bf16``, ``int8``.
        packages: Import names of what making files needs.
        install: The exact line that installs them.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""

    def available(self) -> str | None:
        """Return why it cannot be used here, or None if it can."""
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(missing)} not installed; install with: {self.install}" if missing else None

    def build_network(
        self,
        graph: LayerGraph,
        precision: str,
        folder: Path,
        *,
        batch: int = 1,
        seed: int = 0,
        weights: Weights | None = None,
    ) -> ModelFiles:
        """Make the files of a network that is only to be timed, without torch and without calibration.

        It times as the exported network does: same kernels, same fusions. Weights are random but well scaled, or given;
        int8 scales are synthetic but consistent.

        Args:
            graph: The network.
            precision: One of :attr:`precisions`.
            folder: Where the files go; made if absent.
            batch: Images per inference, fixed in the file.
            seed: Seed of random weights.
            weights: Layer name -> (weight, bias) instead of random ones.

        Raises:
            ConfigError: Precision or batch cannot be used.
            MissingRuntimeError: A package is absent.
            ModelFileError: Weights do not fit the graph.
            StorageError: The folder cannot be written; nothing half-written stays.
        """
        self._check(precision, batch)
        with staged(folder) as stage:
            files = self._build(graph, precision, stage, batch, seed, weights)
        return _moved(files, folder)

    def export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        *,
        calibration: NDArray[Any] | None = None,
        weight_bits: int = 8,
        batch: int = 1,
    ) -> ModelFiles:
        """Make the files of a trained network to ship. The module is exported in eval mode and left as it was.

        Args:
            module: Returns one tensor, batch first.
            example: Real input images, float32 ``[n, channels, height, width]``; the exported file is compared with
                torch on them.
            precision: One of :attr:`precisions`.
            folder: Where the files and ``export.json`` go; made if absent.
            calibration: Real images float32 ``[m, channels, height, width]``, preprocessed as the network wants them;
                needed for int8.
            weight_bits: Bits of int8 weights, 7 or 8: what
                :func:`hwnas.devices.fingerprint.int8_weight_bits` says of the device.
            batch: Images per inference, fixed in the file.

        Raises:
            ConfigError: Precision, batch, example or calibration cannot be used.
            MissingRuntimeError: A package is absent.
            ModelFileError: The module cannot be exported, or the file does not compute what torch computes.
            StorageError: The folder cannot be written; nothing half-written stays.
        """
        self._check(precision, batch)
        shape = check_example(example)
        quantising = None
        if precision == "int8":
            quantising = Quantising(check_calibration(calibration, shape), check_weight_bits(weight_bits))
        was_training = module.training
        module.eval()
        try:
            forward_once(module, example[:1])
            with staged(folder) as stage:
                files = self._export(module, example, precision, stage, quantising, batch)
        finally:
            module.train(was_training)
        return _moved(files, folder)

    def kernel_block(self, kernel: KernelTime, graph: LayerGraph) -> str | None:
        """Return the name of the block a kernel belongs to; None for overhead (layout changes, the runtime's own)."""
        return block_of_kernel(kernel, graph)

    def _check(self, precision: str, batch: int) -> None:
        if precision not in self.precisions:
            raise ConfigError(f"backend {self.name} makes {', '.join(self.precisions)}, not precision={precision!r}.")
        if batch < 1:
            raise ConfigError(f"batch={batch} must be at least 1.")
        if self.available() is not None:
            raise MissingRuntimeError(self.name, self.install)

    @abstractmethod
    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        """Write the files of :meth:`build_network` into ``folder``, which exists and is empty."""

    @abstractmethod
    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        """Write the files of :meth:`export` into ``folder``, which exists and is empty; the module is in eval mode."""


def _moved(files: ModelFiles, folder: Path) -> ModelFiles:
    return ModelFiles(folder / files.main.name, tuple(folder / path.name for path in files.extra))

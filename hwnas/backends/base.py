"""What a backend is: the maker of one runtime's model files, for profiling (from a layer graph) and for shipping."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hwnas.backends.naming import block_of_kernel
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import KernelTime, ModelFiles
from hwnas.errors import ConfigError, MissingRuntimeError, ModelFileError
from hwnas.files import explain_os_errors
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]

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


def forward_once(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Run a module and insist that it returns one tensor, batch first.

    Args:
        module: In the mode it is to be run in.
        batch: Input ``[b, ...]``.

    Raises:
        ModelFileError: It fails on the input, or returns something else.
    """
    import torch

    try:
        with torch.no_grad():
            output = module(batch)
    except Exception as error:
        raise ModelFileError(
            f"{type(module).__name__} cannot be run on an input of shape {tuple(batch.shape)}: {error}"
        ) from error
    if not isinstance(output, torch.Tensor):
        kind = f"a {type(output).__name__}"
        if isinstance(output, (tuple, list, dict)):
            kind += f" of {len(output)}"
        raise ModelFileError(
            f"{type(module).__name__} returns {kind}, but a module to export must return one tensor. "
            "Wrap it in a module whose forward returns the tensor you need."
        )
    if output.ndim == 0 or output.shape[0] != batch.shape[0]:
        raise ModelFileError(
            f"{type(module).__name__} returns shape {tuple(output.shape)} for an input of shape {tuple(batch.shape)}; "
            "the first dimension must be the batch."
        )
    return output


def repeat_to_batch(images: FloatArray, batch: int) -> list[FloatArray]:
    """Cut ``images`` ``[n, ...]`` into batches ``[batch, ...]``; the last one is filled up with its last image."""
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        parts.append(np.ascontiguousarray(np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])))
    return parts


def check_calibration(calibration: Any, shape: tuple[int, ...]) -> FloatArray:
    """Return calibration images as float32 ``[n, *shape]``.

    Raises:
        ConfigError: They are absent, empty, of another shape, not numbers or not finite.
    """
    if calibration is None:
        raise ConfigError(
            "int8 needs calibration images: pass calibration=array of shape [n, channels, height, width]."
        )
    array = np.asarray(calibration)
    if array.dtype.kind not in "fiu":
        raise ConfigError(f"calibration images must be numbers, not {array.dtype}.")
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise ConfigError(f"calibration images have shape {array.shape}, not [n, {', '.join(map(str, shape))}].")
    if not len(array):
        raise ConfigError("calibration images are empty: pass at least one real image.")
    if not np.isfinite(array).all():
        raise ConfigError("calibration images hold NaN or an infinity; preprocess them as the network's inputs are.")
    return np.ascontiguousarray(array, dtype=np.float32)


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
            batch: Images per inference, fixed in the file.

        Raises:
            ConfigError: Precision, batch, example or calibration cannot be used.
            MissingRuntimeError: A package is absent.
            ModelFileError: The module cannot be exported, or the file does not compute what torch computes.
            StorageError: The folder cannot be written; nothing half-written stays.
        """
        self._check(precision, batch)
        shape = _check_example(example)
        images = check_calibration(calibration, shape) if precision == "int8" else None
        was_training = module.training
        module.eval()
        try:
            forward_once(module, example[:1])
            with staged(folder) as stage:
                files = self._export(module, example, precision, stage, images, batch)
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
        calibration: FloatArray | None,
        batch: int,
    ) -> ModelFiles:
        """Write the files of :meth:`export` into ``folder``, which exists and is empty; the module is in eval mode."""


def _moved(files: ModelFiles, folder: Path) -> ModelFiles:
    return ModelFiles(folder / files.main.name, tuple(folder / path.name for path in files.extra))


def _check_example(example: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of one image.

    Raises:
        ConfigError: Not a float32 tensor with at least one image.
    """
    import torch

    if not isinstance(example, torch.Tensor) or example.dtype != torch.float32 or example.ndim < 2 or not len(example):
        what = (
            f"{example.dtype} {tuple(example.shape)}" if isinstance(example, torch.Tensor) else type(example).__name__
        )
        raise ConfigError(f"example must be a float32 tensor [n, channels, height, width] with n >= 1, not {what}.")
    return tuple(example.shape[1:])

"""Backends whose converter lives in an environment of its own: the module goes there as an exported program."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.backends import converters
from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import FloatArray, forward_once, repeat_to_batch
from hwnas.backends.onnx_export import COMPARED_IMAGES, MAX_RELATIVE_L2, relative_error
from hwnas.backends.synthetic import Weights
from hwnas.backends.torch import save_program
from hwnas.devices.models import ModelFiles
from hwnas.environments.conversion import Converted, convert, workplace
from hwnas.environments.recipe import Recipe
from hwnas.errors import ModelFileError
from hwnas.files import explain_os_errors, write_json
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch

SYNTHETIC_IMAGES = 4
SYNTHETIC_ERROR = 1e-2
"""Largest accepted distance of a file that is only timed: random weights enlarge what rounding does."""


class ConvertedBackend(Backend):
    """A backend that converts in a child process of another environment.

    Attributes:
        recipe: The environment, made on first use.
        script: Name of the module of :mod:`hwnas.backends.converters` that runs there.
        max_error: Largest accepted relative L2 distance of a converted float file to torch, worst image.
        narrows: Whether its quantiser can make 7-bit weights; else they always have 8 bits.
    """

    recipe: ClassVar[Recipe]
    script: ClassVar[str]
    max_error: ClassVar[float] = MAX_RELATIVE_L2
    narrows: ClassVar[bool] = True

    @abstractmethod
    def _take(self, converted: Converted, folder: Path) -> ModelFiles:
        """Move the files of a conversion into ``folder``, the main one first."""

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        from hwnas.backends.torch_graph import GraphModule

        module = GraphModule(graph, seed=seed, weights=weights).eval()
        images = np.random.default_rng(seed).standard_normal((SYNTHETIC_IMAGES, *graph.input_shape)).astype(np.float32)
        quantising = Quantising(images, 8) if precision == "int8" else None
        files, _ = self._convert(module, images, precision, folder, quantising, batch, SYNTHETIC_ERROR)
        return files

    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        images = example[:COMPARED_IMAGES].detach().cpu().numpy()
        files, record = self._convert(module, images, precision, folder, quantising, batch, self.max_error)
        write_json(folder / EXPORT_RECORD, record)
        return files

    def _convert(
        self,
        module: torch.nn.Module,
        images: FloatArray,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
        max_error: float,
    ) -> tuple[ModelFiles, dict[str, Any]]:
        import torch

        batches = repeat_to_batch(np.ascontiguousarray(images, dtype=np.float32), batch)
        with workplace(Path(converters.__path__[0]) / f"{self.script}.py") as place, explain_os_errors(place):
            save_program(module, torch.from_numpy(batches[0]), place / "model.pt2")
            np.save(place / "example.npy", np.stack(batches))
            request: dict[str, Any] = {"precision": precision, "batch": batch}
            if quantising is not None:
                np.save(place / "calibration.npy", np.stack(repeat_to_batch(quantising.images, batch)))
                request["weight_bits"] = quantising.weight_bits
            converted = convert(self.recipe, place, request)
            record = {"exporter": "torch.export", "seconds": round(converted.seconds, 1), **converted.result}
            record |= self._compare(module, batches, place, precision, max_error)
            if quantising is not None:
                record |= quantising.record(str(converted.result.get("quantiser", self.name)))
                record["weight_bits"] = quantising.weight_bits if self.narrows else 8
            files = self._take(converted, folder)
        return files, record

    def _compare(
        self, module: torch.nn.Module, batches: list[FloatArray], place: Path, precision: str, max_error: float
    ) -> dict[str, Any]:
        """Compare what the converted file computed with torch, where the script could run it.

        Raises:
            ModelFileError: A float file computes something else.
        """
        import torch

        path = place / "outputs.npy"
        if not path.is_file():
            return {}
        found = np.load(path, allow_pickle=False)
        reference = np.concatenate(
            [forward_once(module, torch.from_numpy(batch)).detach().numpy() for batch in batches]
        )
        error = relative_error(reference, found.reshape(reference.shape) if found.size == reference.size else found)
        if precision == "fp32" and error > max_error:
            raise ModelFileError(
                f"the file that {self.name}'s converter wrote is {error:.2g} (relative L2) away from torch, more than "
                f"{max_error:g}, so it is not used."
            )
        return {"max_error": error, "images": len(reference)} if np.isfinite(error) else {"images": len(reference)}


def moved(converted: Converted, names: tuple[str, ...], folder: Path) -> ModelFiles:
    """Move files of a conversion into ``folder``; the first is the main one."""
    for name in names:
        shutil.move(converted.folder / name, folder / name)
    return ModelFiles(folder / names[0], tuple(folder / name for name in names[1:]))

"""ncnn: ``model.param``, ``model.bin`` and ``model.json``, weights in float32 or in half precision."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.backends import converters
from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import FloatArray, forward_once
from hwnas.backends.converted import moved
from hwnas.backends.onnx_export import COMPARED_IMAGES, export_onnx, relative_error
from hwnas.backends.onnx_files import save_onnx
from hwnas.backends.onnx_graph import build_fp32
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import ModelFiles
from hwnas.environments.conversion import Converted, convert, workplace
from hwnas.environments.recipe import Recipe
from hwnas.errors import ConfigError, ModelFileError
from hwnas.files import explain_os_errors, write_json
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch

FILES = ("model.param", "model.bin", "model.json")
"""Structure, weights, and what neither of them says: names and shapes of input and output."""
ONNX = "model.onnx"
MAX_HALF_L2 = 1e-2
"""Largest accepted distance of half-precision weights to torch, relative L2, worst image; usual is a third of it."""


class NcnnBackend(Backend):
    """Makes ncnn's files from ONNX with pnnx; ncnn runs one image at a time."""

    name: ClassVar[str] = "ncnn"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    packages: ClassVar[tuple[str, ...]] = ("onnx",)
    install: ClassVar[str] = "hwnas backends install ncnn"
    recipe: ClassVar[Recipe] = Recipe(
        "ncnn",
        (("ncnn==1.0.20261020",), ("--no-deps", "pnnx==20261020")),  # pnnx asks for torch, but reads ONNX without it
        same_torch=False,
        size_gb=0.3,
    )
    script: ClassVar[str] = "ncnn"

    def _check(self, precision: str, batch: int) -> None:
        super()._check(precision, batch)
        if batch != 1:
            raise ConfigError(
                f"backend {self.name} makes files of batch 1, not batch={batch}: ncnn runs one image at a time."
            )

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        images = np.random.default_rng(seed).standard_normal((1, *graph.input_shape)).astype(np.float32)
        with self._workplace() as place, explain_os_errors(place), ExitStack() as stack:
            save_onnx(build_fp32(graph, seed=seed, weights=weights), place / ONNX)
            return moved(self._convert(stack, place / ONNX, images, precision), FILES, folder)

    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        images = example[:COMPARED_IMAGES].detach().cpu()
        made: list[Converted] = []
        with self._workplace() as place, explain_os_errors(place), ExitStack() as stack:

            def run(path: Path, batches: list[FloatArray]) -> list[FloatArray]:
                made.append(self._convert(stack, path, np.concatenate(batches), "fp32"))
                return list(self._outputs(made[-1])[:, None])

            record = export_onnx(module, images, place / ONNX, run).as_dict()
            if precision == "fp16":
                made.append(self._convert(stack, place / ONNX, images.numpy(), "fp16"))
                record["max_error"] = self._half_error(forward_once(module, images).numpy(), self._outputs(made[-1]))
            record |= {"seconds": round(sum(part.seconds for part in made), 1), **made[-1].result}
            files = moved(made[-1], FILES, folder)
        write_json(folder / EXPORT_RECORD, record)
        return files

    def _workplace(self) -> Any:
        return workplace(Path(converters.__path__[0]) / f"{self.script}.py")

    def _convert(self, stack: ExitStack, model: Path, images: FloatArray, precision: str) -> Converted:
        """Convert in a folder of its own: what another conversion left there would be taken for an input."""
        place = stack.enter_context(self._workplace())
        shutil.copyfile(model, place / ONNX)
        np.save(place / "example.npy", np.ascontiguousarray(images))
        return convert(self.recipe, place, {"precision": precision})

    @staticmethod
    def _outputs(converted: Converted) -> FloatArray:
        outputs: FloatArray = np.load(converted.folder / "outputs.npy", allow_pickle=False)
        return outputs

    @staticmethod
    def _half_error(reference: FloatArray, found: FloatArray) -> float:
        """Return the distance of half-precision weights to torch.

        Raises:
            ModelFileError: It is too large, as where weights do not fit half precision's range.
        """
        error = relative_error(reference, found)
        if error > MAX_HALF_L2:
            raise ModelFileError(
                f"with weights in half precision the network is {error:.2g} (relative L2) away from torch, more than "
                f"{MAX_HALF_L2:g}; export it in fp32."
            )
        return error

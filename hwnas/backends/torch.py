"""PyTorch itself: ``model.pt2``, a ``torch.export`` archive in float32; for comparison, not for devices."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hwnas.backends._quiet import silenced
from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import repeat_to_batch
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import ModelFiles
from hwnas.errors import ModelFileError
from hwnas.files import explain_os_errors, write_json
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch

MODEL = "model.pt2"


def save_program(module: torch.nn.Module, batch: torch.Tensor, path: Path) -> None:
    """Write the exported program of a module for inputs of the shape of ``batch``.

    Raises:
        ModelFileError: ``torch.export`` cannot trace the module.
        StorageError: The file cannot be written.
    """
    import torch

    try:
        with warnings.catch_warnings(), silenced():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (batch,))
    except Exception as error:  # tracing raises anything
        raise ModelFileError(
            f"{type(module).__name__} cannot be exported by torch.export: {str(error).splitlines()[0]}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    with explain_os_errors(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)


class TorchBackend(Backend):
    """Makes a ``torch.export`` archive."""

    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    install: ClassVar[str] = "pip install torch"

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        import torch

        from hwnas.backends.torch_graph import GraphModule

        module = GraphModule(graph, seed=seed, weights=weights).eval()
        path = folder / MODEL
        save_program(module, torch.zeros(batch, *graph.input_shape), path)
        return ModelFiles(path)

    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        import torch

        path = folder / MODEL
        part = torch.from_numpy(repeat_to_batch(example[:batch].detach().cpu().numpy(), batch)[0])
        save_program(module, part, path)
        write_json(folder / EXPORT_RECORD, {"exporter": "torch.export", "torch": torch.__version__})
        return ModelFiles(path)

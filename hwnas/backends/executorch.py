"""ExecuTorch: ``model.pte``, lowered to XNNPACK, in float32 or statically quantised to int8."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hwnas.backends.converted import ConvertedBackend, moved
from hwnas.devices.models import ModelFiles
from hwnas.environments.conversion import Converted
from hwnas.environments.recipe import Recipe

MODEL = "model.pte"
LAYERS = "layers.json"
"""Side file: which module every node that XNNPACK runs comes from; without it kernels have no names."""


class ExecuTorchBackend(ConvertedBackend):
    """Makes ``model.pte`` with ExecuTorch's exporter; int8 by torchao's static quantisation of the exported program."""

    name: ClassVar[str] = "executorch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    install: ClassVar[str] = "hwnas backends install executorch"
    recipe: ClassVar[Recipe] = Recipe("executorch", (("executorch==1.5.1",),), size_gb=2.0)
    script: ClassVar[str] = "executorch"

    def _take(self, converted: Converted, folder: Path) -> ModelFiles:
        return moved(converted, (MODEL, LAYERS), folder)

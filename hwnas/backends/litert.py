"""LiteRT (TensorFlow Lite): ``model.tflite``, in float32 or statically quantised to int8."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hwnas.backends.converted import ConvertedBackend, moved
from hwnas.devices.models import ModelFiles
from hwnas.environments.conversion import Converted
from hwnas.environments.recipe import Recipe

MODEL = "model.tflite"


class LiteRtBackend(ConvertedBackend):
    """Makes ``model.tflite`` with litert-torch, and quantises it with ai-edge-quantizer."""

    name: ClassVar[str] = "litert"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    install: ClassVar[str] = "hwnas backends install litert"
    recipe: ClassVar[Recipe] = Recipe(
        "litert",
        (("litert-torch==0.10.0", "ai-edge-litert==2.3.0", "ai-edge-quantizer==0.10.0"),),
        size_gb=2.6,
    )
    script: ClassVar[str] = "litert"
    narrows: ClassVar[bool] = False

    def _take(self, converted: Converted, folder: Path) -> ModelFiles:
        return moved(converted, (MODEL,), folder)

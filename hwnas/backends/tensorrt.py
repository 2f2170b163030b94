"""TensorRT and TensorRT-RTX: ``model.onnx``, and engines of TensorRT-RTX ahead of time for GPUs that are not here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import hwnas_profilers
from hwnas.backends import converters
from hwnas.backends._tensorrt_files import TensorRtFiles
from hwnas.backends.base import EXPORT_RECORD, staged
from hwnas.backends.onnx_export import Exporter
from hwnas.backends.onnx_files import read_onnx, save_onnx
from hwnas.devices.models import ModelFiles
from hwnas.environments.conversion import convert, workplace
from hwnas.environments.recipe import Recipe
from hwnas.errors import ConfigError, ModelFileError
from hwnas.files import explain_os_errors, write_json

_BUILDER = Path(hwnas_profilers.__path__[0]) / "tensorrt_build.py"
_NO_KERNEL = re.compile(r"Cannot compile operation '(.+?)' for .*?: (.+? is not supported)")


class TensorRtBackend(TensorRtFiles):
    """Makes ``model.onnx`` for TensorRT, which builds an engine from it on the device."""

    name: ClassVar[str] = "tensorrt"


class TensorRtRtxBackend(TensorRtFiles):
    """Makes ``model.onnx`` for TensorRT-RTX, and engines ahead of time.

    Args:
        exporter: Use only this exporter of torch; else the fast one, and the other if its file is wrong.
        capability: Compute capability, for example ``sm86``: an export also holds ``engine-sm86.rtx``, built without a GPU in
            an environment of its own. It is for programs of the user's: the agent builds its own engine from ``model.onnx``.

    Raises:
        ConfigError: The capability has another form.
    """

    name: ClassVar[str] = "tensorrt_rtx"
    recipe: ClassVar[Recipe] = Recipe(
        "tensorrt_rtx", (("tensorrt-rtx-cu13==1.7.1.116",),), same_torch=False, size_gb=0.4
    )

    def __init__(self, exporter: Exporter | None = None, capability: str | None = None) -> None:
        super().__init__(exporter)
        self.capability = None if capability is None else _plain(capability)

    def build_engine(self, onnx_path: Path, capability: str, folder: Path, precision: str) -> ModelFiles:
        """Build the engine of an ONNX file for a GPU that need not be here.

        Args:
            onnx_path: The file.
            capability: Compute capability of the GPU, for example ``sm86``.
            folder: Where ``engine-CAPABILITY.rtx`` goes, and into ``export.json`` how it was made; made if absent.
            precision: What the file is written in, for what is said of a network that cannot be built.

        Returns:
            The engine alone.

        Raises:
            ConfigError: TensorRT-RTX does not build for this capability, or not in this precision; those it builds for are named.
            ModelFileError: The file is not ONNX, or TensorRT-RTX cannot build it.
            ConversionError: The environment cannot be made, or the builder crashed.
            StorageError: The folder cannot be written; nothing half-written stays.
        """
        capability = _plain(capability)
        with staged(folder) as stage:
            path, made = self._engine(onnx_path, capability, stage, precision)
            record = _read_record(folder)
            record["engines"] = {**record.get("engines", {}), capability: made}
            write_json(stage / EXPORT_RECORD, record)
        return ModelFiles(folder / path.name)

    def _finish(self, files: ModelFiles, precision: str, record: dict[str, Any]) -> ModelFiles:
        if self.capability is None:
            return files
        path, made = self._engine(files.main, self.capability, files.main.parent, precision)
        record["engines"] = {self.capability: made}
        return ModelFiles(files.main, (path,))

    def _engine(self, source: Path, capability: str, folder: Path, precision: str) -> tuple[Path, dict[str, Any]]:
        """Build an engine into ``folder``; returns it and what ``export.json`` says of it."""
        model = read_onnx(source)
        script = Path(converters.__path__[0]) / f"{self.name}.py"
        with workplace(script) as place, explain_os_errors(place):
            shutil.copyfile(_BUILDER, place / _BUILDER.name)
            save_onnx(model, place / "model.onnx")
            made = convert(self.recipe, place, {"capability": capability})
            result = made.result
            if capability not in result["offered"]:
                raise ConfigError(
                    f"capability={capability!r} is none that {result['builder']} builds for: {', '.join(result['offered'])}."
                )
            if "refused" in result:
                raise _refusal(str(result["refused"]), str(result["builder"]), capability, precision)
            path = folder / f"engine-{capability}.rtx"
            shutil.move(place / "engine.rtx", path)
        record = {"builder": result["builder"], "size_bytes": result["size_bytes"], "seconds": round(made.seconds, 1)}
        return path, {"capability": capability, "precision": precision, **record}


def _plain(capability: str) -> str:
    """Return a compute capability as ``sm86``.

    Raises:
        ConfigError: It has another form.
    """
    if re.fullmatch(r"[sS][mM]\d{2,3}", capability) is None:
        raise ConfigError(
            f"capability={capability!r} must be a compute capability such as 'sm86' (8.6) or 'sm120' (12.0)."
        )
    return capability.lower()


def _refusal(reason: str, builder: str, capability: str, precision: str) -> ConfigError | ModelFileError:
    """Return the error for a network that the builder refused."""
    found = _NO_KERNEL.search(reason)
    if found is None:
        return ModelFileError(f"{builder} cannot build the network for {capability} in {precision}: {reason}")
    mend = "Choose another capability." if precision == "fp16" else f"Export it in fp16 for {capability}."
    return ConfigError(
        f"{builder} cannot build the network for {capability} in {precision}: {found[2]} there (operation {found[1]!r}). {mend}"
    )


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / EXPORT_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

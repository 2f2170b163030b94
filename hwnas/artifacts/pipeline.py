"""What every export does, whatever it starts from: numbered steps, scripts, card, manifest."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import hwnas
from hwnas.artifacts.card import CARD, write_card
from hwnas.artifacts.manifest import Manifest, write_manifest
from hwnas.artifacts.package import entry_of, open_package
from hwnas.artifacts.records import FileEntry, FingerprintEntry, Resources, Role, RuntimeEntry, TensorEntry
from hwnas.artifacts.samples import SAMPLES
from hwnas.backends.base import EXPORT_RECORD
from hwnas.devices.fingerprint import target_fingerprint
from hwnas.devices.models import LoadedModel, ModelFiles, TensorInfo
from hwnas.errors import ArtifactError
from hwnas.files import read_json
from hwnas.progress import Advance
from hwnas.targets import Target

if TYPE_CHECKING:
    from hwnas.devices.session import Session

SCRIPTS = ("verify.py", "infer.py")
RUNTIME_SCRIPT = "runtime.py"
BLOCKS = "blocks.json"
_LAYOUTS = {4: "NCHW", 3: "NCL", 2: "NC", 1: "N", 0: ""}


@dataclass(frozen=True)
class Artifact:
    """An exported, verified package: its folder and manifest."""

    folder: Path
    manifest: Manifest

    @property
    def broken(self) -> bool:
        """Whether a budget is broken."""
        return not self.manifest.kept

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: the folder as given, and the manifest."""
        return {"folder": str(self.folder), "manifest": self.manifest.model_dump(mode="json")}


class Steps:
    """Numbers the steps of one export and tells ``advance`` of each as it starts."""

    def __init__(self, total: int, advance: Advance | None) -> None:
        self.total = total
        self.done = 0
        self._advance = advance

    def __call__(self, text: str) -> None:
        """Begin the next step."""
        if self._advance is not None:
            self._advance(1.0 if self.done else 0.0, f"{self.done + 1}/{self.total} {text}")
        self.done += 1

    def finish(self) -> None:
        """Mark the last step as done."""
        if self._advance is not None:
            self._advance(1.0, "done")


def refuse_simulated(target: Target) -> None:
    """Raise where nothing is computed, so that no output can be compared.

    Raises:
        ArtifactError: The runtime is simulated.
    """
    if target.runtime == "simulated":
        raise ArtifactError(
            f"{target} is simulated: it has latencies, but computes nothing that could be compared with torch. "
            "Profile and search for it; export for a real runtime, for example local/onnxruntime-fp32."
        )


def existing(folder: Path, request: str) -> Artifact | None:
    """Return the artifact in ``folder`` if it answers the same request; it is checked first. None if there is none.

    Raises:
        ArtifactError: ``folder`` holds something else, or the package was changed.
    """
    if not folder.exists():
        return None
    manifest = open_package(folder)
    if manifest.request != request:
        raise ArtifactError(
            f"{folder} holds an artifact of another request (other weights, target, data, budget or settings) and is "
            "never overwritten. Move it away or give another name."
        )
    return Artifact(folder, manifest)


def narrowed(weight_bits: int) -> dict[str, int]:
    """Return what a request says of int8 weights of fewer than eight bits; nothing of eight."""
    return {"weight_bits": weight_bits} if weight_bits < 8 else {}


def weights_digest(state: Mapping[str, Any]) -> str:
    """Return the sha256 over names, types, shapes and bytes of a state dict of tensors."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def array_digest(array: NDArray[Any]) -> str:
    """Return the sha256 over type, shape and bytes of an array."""
    head = f"{array.dtype} {array.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def tensors(entries: Sequence[TensorInfo]) -> tuple[TensorEntry, ...]:
    """Return a manifest's entries of inputs or outputs."""
    return tuple(
        TensorEntry(
            name=entry.name, shape=entry.shape, dtype=entry.dtype, layout=_LAYOUTS.get(len(entry.shape), "N...")
        )
        for entry in entries
    )


def tools(loaded: LoadedModel) -> dict[str, str]:
    """Return the versions of what made and ran the file."""
    versions = {"hwnas": hwnas.__version__, "python": platform.python_version(), loaded.runtime: loaded.runtime_version}
    for name in ("torch", "onnx", "numpy", "nncf"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def resources_of(session: Session, loaded: LoadedModel) -> Resources:
    """Return what opening and running a loaded file takes besides time; its energy is measured where there is a sensor."""
    energy = session.energy(loaded.handle)
    return Resources(
        load_ms=loaded.load_ms,
        first_run_ms=loaded.first_run_ms,
        peak_memory_bytes=loaded.peak_memory_bytes,
        energy_mj=energy.energy_mj if energy else None,
        energy_sensor=energy.sensor if energy else "no sensor",
    )


def environment(session: Session, target: Target, loaded: LoadedModel) -> dict[str, Any]:
    """Return the manifest's parts that say where and with what the file ran."""
    fingerprint = target_fingerprint(session.hello(), target, loaded.runtime_version)
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "target": str(target),
        "tools": tools(loaded),
        "runtime": RuntimeEntry(
            name=loaded.runtime,
            version=loaded.runtime_version,
            provider=loaded.provider,
            device=loaded.device,
            precision=loaded.precision,
        ),
        "fingerprint": FingerprintEntry(identity=fingerprint.identity, context=fingerprint.context),
        "inputs": tensors(loaded.inputs),
        "outputs": tensors(loaded.outputs),
        "resources": resources_of(session, loaded),
    }


def quantisation(folder: Path) -> dict[str, Any] | None:
    """Return what the backend recorded of an export that quantised, else None."""
    path = folder / EXPORT_RECORD
    record = read_json(path) if path.is_file() else None
    return record if isinstance(record, dict) and "quantiser" in record else None


def _files(folder: Path, files: ModelFiles, last: Mapping[str, Role]) -> tuple[FileEntry, ...]:
    roles: dict[str, Role] = {files.main.name: "model"}
    roles |= {path.name: "weights" for path in files.extra}
    roles |= {name: role for name, role in last.items() if (folder / name).is_file()}
    for path in sorted(folder.iterdir()):
        if path.name not in roles:
            raise ArtifactError(
                f"the export left {path.name}, which belongs to nothing. Report this with the run file."
            )
    return tuple(entry_of(folder, name, role) for name, role in sorted(roles.items()))


def _copy_scripts(folder: Path, parts: dict[str, Any]) -> list[str]:
    """Copy the scripts, with the one that opens models of this runtime if there is one; returns their names."""
    runtime = RuntimeEntry.model_validate(parts["runtime"]).name
    templates = resources.files("hwnas.artifacts") / "templates"
    sources = {script: templates / script for script in SCRIPTS}
    if (templates / "runtimes" / f"{runtime}.py").is_file():
        sources[RUNTIME_SCRIPT] = templates / "runtimes" / f"{runtime}.py"
    for name, source in sources.items():
        with resources.as_file(source) as path:
            shutil.copyfile(path, folder / name)
    return list(sources)


def complete(folder: Path, files: ModelFiles, parts: dict[str, Any]) -> Manifest:
    """Copy the scripts, write card and manifest into ``folder``, and return the manifest.

    Args:
        folder: Holds model files, ``samples.npz`` and what else the export wrote.
        files: The model files in it.
        parts: Fields of the manifest except ``files``.
    """
    last: dict[str, Role] = {EXPORT_RECORD: "data", BLOCKS: "data", SAMPLES: "samples"}
    last |= dict.fromkeys(_copy_scripts(folder, parts), "script")
    draft = Manifest(**parts, files=_files(folder, files, last))
    write_card(folder, draft)
    manifest = draft.model_copy(update={"files": _files(folder, files, {**last, CARD: "document"})})
    write_manifest(folder, manifest)
    return manifest

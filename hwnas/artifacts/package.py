"""The folder and the zip of an artifact: every byte is checked before anything is opened."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from hwnas.artifacts.manifest import MANIFEST, Manifest, parse_manifest, read_manifest
from hwnas.artifacts.records import FileEntry, Role, inside
from hwnas.devices.models import ModelFiles
from hwnas.errors import ArtifactError
from hwnas.files import atomic_open, explain_os_errors, sha256_file

_MANIFEST_LIMIT = 16 * 2**20
_IGNORED = ("__pycache__", ".DS_Store", "Thumbs.db")
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def entry_of(folder: Path, path: str, role: Role) -> FileEntry:
    """Return the manifest's entry of one file of ``folder``."""
    file = folder / path
    return FileEntry(path=path, role=role, sha256=sha256_file(file), size_bytes=file.stat().st_size)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file of ``folder`` with the manifest; nothing is loaded.

    Raises:
        ArtifactError: A file is absent, of another size or digest, a link, leaves the folder, or is not in the manifest.
    """
    root = folder.resolve()
    for entry in manifest.files:
        file = folder / entry.path
        if file.is_symlink() or not file.resolve().is_relative_to(root):
            raise ArtifactError(f"{file} is a link or leaves its folder: refused. Get the artifact again.")
        if not file.is_file():
            raise ArtifactError(f"{file} is named by {MANIFEST} but absent. Get the artifact again.")
        size = file.stat().st_size
        if size != entry.size_bytes:
            raise ArtifactError(
                f"{file} has {size} bytes, {MANIFEST} says {entry.size_bytes}: truncated or changed. Get the artifact again."
            )
        if (found := sha256_file(file)) != entry.sha256:
            raise ArtifactError(
                f"{file} has sha256 {found}, {MANIFEST} says {entry.sha256}: the file was changed. Get the artifact again."
            )
    _check_unlisted(folder, {entry.path for entry in manifest.files})


def _check_unlisted(folder: Path, listed: set[str]) -> None:
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if any(part in _IGNORED for part in path.parts) or (file.is_dir() and not file.is_symlink()):
            continue
        if path.as_posix() not in listed | {MANIFEST}:
            raise ArtifactError(f"{file} is not in {MANIFEST}: a package holds nothing unchecked. Remove it.")


def open_package(folder: Path) -> Manifest:
    """Read the manifest of ``folder`` and check every file against it.

    Raises:
        ArtifactError: The package is incomplete or was changed.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return manifest


def model_files(folder: Path, manifest: Manifest) -> ModelFiles:
    """Return the model of a checked package as what a session loads."""
    extra = tuple(folder / entry.path for entry in manifest.files if entry.role == "weights")
    return ModelFiles(folder / manifest.model.path, extra)


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder``; on success it becomes ``folder``, on an error it is removed.

    Raises:
        ArtifactError: ``folder`` exists; it is never overwritten.
        StorageError: The disk is full or the folder cannot be written.
    """
    with explain_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            yield temporary
            if folder.exists():
                raise ArtifactError(f"{folder} exists and is never overwritten. Move it away or give another name.")
            temporary.chmod(0o755)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def pack(folder: Path, archive: Path) -> Path:
    """Write a checked package as one zip, the same bytes for the same package.

    Raises:
        ArtifactError: The package is incomplete or was changed.
    """
    manifest = open_package(folder)
    with atomic_open(archive, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for path in [MANIFEST, *sorted(entry.path for entry in manifest.files)]:
            info = zipfile.ZipInfo(path, _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            with (folder / path).open("rb") as source, target.open(info, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink)
    return archive


def unpack(archive: Path, folder: Path) -> Manifest:
    """Unpack a zip into the new folder ``folder``; only what its manifest lists, byte for byte.

    Raises:
        ArtifactError: Not a zip, a member that leaves the folder, is a link, is repeated, not listed, or larger than
            the manifest says, or a digest that differs. ``folder`` is then not made.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = _members(source, archive)
            text = _bounded(source, members[MANIFEST], _MANIFEST_LIMIT).decode("utf-8")
            manifest = parse_manifest(text, f"{archive}: {MANIFEST}")
            with staging(folder) as temporary:
                (temporary / MANIFEST).write_text(text, encoding="utf-8", newline="")
                _extract(source, members, manifest, temporary)
                check_files(temporary, manifest)
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, RuntimeError, EOFError, OSError) as error:
        raise ArtifactError(f"{archive} is not a readable artifact zip ({error}). Get it again.") from error
    return manifest


def _members(source: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in source.infolist():
        if info.orig_filename.endswith("/"):
            continue
        try:
            name = inside(info.orig_filename)
        except ValueError as error:
            raise ArtifactError(f"{archive}: {error}: refused. Do not use this file.") from error
        if stat.S_ISLNK(info.external_attr >> 16) or name in members:
            raise ArtifactError(f"{archive}: member {name!r} is a link or repeated: refused. Do not use this file.")
        members[name] = info
    if MANIFEST not in members:
        raise ArtifactError(f"{archive} holds no {MANIFEST}: it is no artifact. Give a zip that hwnas export wrote.")
    return members


def _bounded(source: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    with source.open(info) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ArtifactError(f"member {info.filename!r} is larger than {limit} bytes: refused. Do not use this file.")
    return data


def _extract(source: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], manifest: Manifest, folder: Path) -> None:
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    unlisted = sorted(members.keys() - sizes.keys() - {MANIFEST})
    if unlisted:
        raise ArtifactError(f"member {unlisted[0]!r} is not in {MANIFEST}: refused. Do not use this file.")
    for path, size in sizes.items():
        if path not in members:
            raise ArtifactError(f"member {path!r} is named by {MANIFEST} but absent. Get the archive again.")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open(members[path]) as stream, target.open("xb") as sink:
            left = size
            while chunk := stream.read(min(2**20, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise ArtifactError(
                        f"member {path!r} is larger than {MANIFEST} says: refused. Do not use this file."
                    )
                sink.write(chunk)

"""Files of a folder or archive, listed and read without unpacking anything."""

from __future__ import annotations

import contextlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from hwnas.errors import DataError

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar.bz2", ".zip")

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, NotImplementedError)

Names = tuple[list[str], list[str]]
"""Names of files, names of folders; posix style, relative."""


def is_archive(path: Path) -> bool:
    """Return whether the name is that of an archive that can be read."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def stem_of(path: Path) -> str:
    """Return the name without the suffix of an archive."""
    for suffix in sorted(ARCHIVE_SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


@contextlib.contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"archive {path} cannot be read ({error}). Fetch or pack it anew.") from error


def _safe_name(name: str, archive: Path) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"archive {archive}: member {name!r} leaves the folder. Refused; pack it with relative names.")
    return str(path)


def _refuse_link(name: str, archive: Path) -> None:
    raise DataError(f"archive {archive}: member {name!r} is a link or a special file. Pack the files themselves.")


def _list_tar(path: Path) -> Names:
    files: list[str] = []
    folders: list[str] = []
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = _safe_name(member.name, path)
            if not (member.isfile() or member.isdir()):
                _refuse_link(member.name, path)
            (folders if member.isdir() else files).append(name)
    return files, folders


def _list_zip(path: Path) -> Names:
    files: list[str] = []
    folders: list[str] = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = _safe_name(member.filename, path)
            if stat.S_ISLNK(member.external_attr >> 16):
                _refuse_link(member.filename, path)
            (folders if member.is_dir() else files).append(name)
    return files, folders


def list_archive(path: Path) -> Names:
    """List an archive.

    Raises:
        DataError: It is damaged, or a member is a link or leaves the folder.
    """
    with _explain_damage(path):
        return _list_zip(path) if path.name.lower().endswith(".zip") else _list_tar(path)


def list_folder(path: Path) -> Names:
    """List a folder with everything below it; links are followed as the owner of the folder made them."""
    files: list[str] = []
    folders: list[str] = []
    for entry in path.rglob("*"):
        (folders if entry.is_dir() else files).append(entry.relative_to(path).as_posix())
    return files, folders


def _read_tar(path: Path, wanted: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = str(PurePosixPath(member.name.replace("\\", "/")))
            stream = archive.extractfile(member) if name in wanted and member.isfile() else None
            if stream is not None:
                yield name, stream.read()


def _read_zip(path: Path, wanted: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = str(PurePosixPath(member.filename.replace("\\", "/")))
            if name in wanted:
                try:
                    yield name, archive.read(member)
                except RuntimeError as error:
                    raise DataError(
                        f"archive {path}: member {name!r} is encrypted. Pack it without a password."
                    ) from error


def read_archive(path: Path, wanted: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield ``(name, content)`` of the wanted members in the order they are stored.

    Raises:
        DataError: The archive is damaged or encrypted.
    """
    with _explain_damage(path):
        yield from _read_zip(path, wanted) if path.name.lower().endswith(".zip") else _read_tar(path, wanted)

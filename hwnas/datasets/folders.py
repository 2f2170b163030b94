"""Folders and archives of pictures, one folder a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.datasets.archives import ARCHIVE_SUFFIXES, is_archive, list_archive, list_folder, read_archive, stem_of
from hwnas.datasets.images import Job, decode_parallel
from hwnas.datasets.sources import TEST, TRAIN, VALIDATION, Sample, Source
from hwnas.errors import DataError
from hwnas.files import digest, sha256_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")

_PARTS = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}

_LAYOUTS = "train/CLASS/picture.jpg with test/CLASS/... (or val/CLASS/...), or CLASS/picture.jpg"


@dataclass(frozen=True)
class Entry:
    """One picture of a folder: its name there, the part it was given for, its class."""

    name: str
    part: int
    label: str


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _common_folder(names: Sequence[str]) -> int:
    """Return 1 if everything lies in one top-level folder that is neither a part nor a class, else 0."""
    tops = {PurePosixPath(name).parts[0] for name in names}
    deep = all(len(PurePosixPath(name).parts) >= 3 for name in names)
    return 1 if deep and len(tops) == 1 and "train" not in tops else 0


def _check_folders(entries: Sequence[Entry], folders: Sequence[str], skip: int, level: int, where: Path) -> None:
    filled = {PurePosixPath(entry.name).parts[: level + 1] for entry in entries}
    for folder in folders:
        parts = PurePosixPath(folder).parts
        inside = level == skip or (len(parts) > skip and parts[skip] in _PARTS)
        if len(parts) == level + 1 and inside and _visible(folder) and parts not in filled:
            raise DataError(f"{where}: class folder {folder!r} holds no pictures. Fill or remove it.")


def layout(files: Sequence[str], folders: Sequence[str], where: Path) -> list[Entry]:
    """Read classes and parts off the names; entries are sorted by name.

    Raises:
        DataError: No pictures, pictures outside a class folder, or an empty class folder.
    """
    names = sorted(name for name in files if _visible(name) and name.lower().endswith(IMAGE_SUFFIXES))
    if not names:
        raise DataError(f"{where} holds no pictures ({', '.join(IMAGE_SUFFIXES)}); expected {_LAYOUTS}.")
    skip = _common_folder(names)
    with_parts = any(PurePosixPath(name).parts[skip] == "train" for name in names)
    level = skip + 1 if with_parts else skip
    entries = []
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) < level + 2 or (with_parts and parts[skip] not in _PARTS):
            raise DataError(f"{where}: {name!r} lies in no class folder; expected {_LAYOUTS}.")
        entries.append(Entry(name, _PARTS[parts[skip]] if with_parts else TRAIN, parts[level]))
    _check_folders(entries, folders, skip, level, where)
    return entries


class ImageFolderSource(Source):
    """A directory or archive of pictures; archives are read in place and never unpacked.

    Args:
        path: A folder, ``.tar``, ``.tar.xz``, ``.tar.gz``, ``.tar.bz2`` or ``.zip``.

    Raises:
        DataError: It does not exist or is not an archive; when listed: it is damaged or has no usable layout.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError(f"image folder or archive {path} does not exist. Mend data.source (imagefolder:PATH).")
        if path.is_file() and not is_archive(path):
            raise DataError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVE_SUFFIXES)}).")
        self.path = path
        self.name = stem_of(path) if path.is_file() else (path.resolve().name or "images")

    @cached_property
    def entries(self) -> list[Entry]:
        """The pictures, sorted by name; listed when first asked for, since a cached archive need not be."""
        path = self.path
        files, folders = list_archive(path) if path.is_file() else list_folder(path)
        entries = layout(files, folders, path)
        self._check(entries)
        return entries

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return sorted({entry.label for entry in self.entries if entry.part == TRAIN})

    def _check(self, entries: Sequence[Entry]) -> None:
        counts = Counter(entry.label for entry in entries if entry.part == TRAIN)
        if len(counts) < 2:
            raise DataError(f"{self.path} has {len(counts)} class ({', '.join(counts)}); expected {_LAYOUTS}.")
        for label, count in sorted(counts.items()):
            if count < 2:
                raise DataError(f"{self.path}: class {label!r} has a single picture; a class needs at least two.")
        for entry in entries:
            if entry.label not in counts:
                raise DataError(f"{self.path}: class {entry.label!r} of {entry.name!r} has no training pictures.")

    def identity(self) -> dict[str, Any]:
        """The digest of the archive, or of the listing of the folder with sizes and times of change."""
        if self.path.is_file():
            return {"source": "archive", "sha256": sha256_file(self.path)}
        listing = []
        for entry in self.entries:
            status = (self.path / entry.name).stat()
            listing.append([entry.name, status.st_size, status.st_mtime_ns])
        return {"source": "folder", "listing": digest(listing)}

    def parts(self) -> NDArray[np.int8]:
        """As the names of the upper folders say."""
        return np.array([entry.part for entry in self.entries], dtype=np.int8)

    def _jobs(self) -> Iterator[Job]:
        if not self.path.is_file():
            for row, entry in enumerate(self.entries):
                yield row, str(self.path / entry.name), self.path / entry.name
            return
        rows = {entry.name: row for row, entry in enumerate(self.entries)}
        for name, data in read_archive(self.path, rows):
            yield rows[name], f"{self.path}: {name}", data

    def samples(self, size: int) -> Iterator[Sample]:
        """Decode in threads."""
        labels = {label: index for index, label in enumerate(self.classes)}
        for row, pixels in decode_parallel(self._jobs(), size):
            yield row, pixels, labels[self.entries[row].label]

    def class_names(self, labels: Sequence[int]) -> tuple[str, ...]:
        """The names of the class folders."""
        return tuple(self.classes[label] for label in labels)

"""All images of a data set, decoded once and kept outside the project as arrays that are opened memory-mapped."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from hwnas.datasets.sources import Source
from hwnas.errors import DataError, RunFolderError
from hwnas.files import cache_home, digest, explain_os_errors, read_json, write_json
from hwnas.progress import progress_bar

VERSION = 1
"""Version of decoding and of the files; part of the cache key."""

_CHUNK_BYTES = 1 << 24
_CHECKED_CHUNKS = 64


@dataclass(frozen=True)
class Pool:
    """Decoded images.

    Attributes:
        images: uint8 ``[n, c, s, s]``; one channel if every picture is gray, else RGB.
        labels: Class of each image, int64 ``[n]``.
        parts: The part each image was given for, int8 ``[n]``.
        sums: Sum and sum of squares of each image's channels, int64 ``[n, 2, c]``.
        classes: Names of the classes.
        digest: sha256 over all of it.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: NDArray[np.int8]
    sums: NDArray[np.int64]
    classes: tuple[str, ...]
    digest: str

    def moments(self, rows: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel over these images, in [0, 1] units."""
        pixels = len(rows) * self.images.shape[2] * self.images.shape[3]
        first, second = self.sums[rows].sum(axis=0, dtype=np.float64) / pixels
        std = np.sqrt(np.maximum(second - first**2, 0)) / 255
        # One grey level is the least that 8-bit pixels can vary by; a constant channel must not divide by zero.
        return tuple((first / 255).tolist()), tuple(np.maximum(std, 1 / 255).tolist())


def _allocate(folder: Path | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if folder is None:
        return np.empty(shape, dtype=np.uint8)
    path = folder / f"images-{shape[1]}.npy"
    array: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # A full disk is an error here and would be a bus error at the first write into a hole.
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def _to_colour(images: NDArray[np.uint8], folder: Path | None) -> NDArray[np.uint8]:
    count, _, side, _ = images.shape
    wider = _allocate(folder, (count, 3, side, side))
    for start in range(0, count, 1024):
        wider[start : start + 1024] = images[start : start + 1024]
    return wider


def _decode(source: Source, size: int, folder: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    count = len(source.parts())
    if not count:
        raise DataError(f"{source.name} holds no images.")
    labels = np.zeros(count, dtype=np.int64)
    images: NDArray[np.uint8] | None = None
    seen = np.zeros(count, dtype=bool)
    with progress_bar(f"reading {source.name}", total=count) as advance:
        for row, pixels, label in source.samples(size):
            channels = 1 if pixels.ndim == 2 else 3
            if images is None:
                images = _allocate(folder, (count, channels, size, size))
            elif channels > images.shape[1]:
                images = _to_colour(images, folder)
            images[row] = pixels if channels == 1 else pixels.transpose(2, 0, 1)
            labels[row] = label
            seen[row] = True
            advance(1, "")
    if images is None or not seen.all():  # for example a member that an archive lists but does not store
        raise DataError(f"{source.name}: {int((~seen).sum())} of {count} images could not be read.")
    return images, labels


def _sums(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    sums = np.empty((len(images), 2, images.shape[1]), dtype=np.int64)
    for start in range(0, len(images), 512):
        chunk = images[start : start + 512].astype(np.uint32)
        sums[start : start + 512, 0] = chunk.sum(axis=(2, 3))
        sums[start : start + 512, 1] = (chunk * chunk).sum(axis=(2, 3))
    return sums


def _chunk_digests(images: NDArray[np.uint8], which: NDArray[np.int64] | None = None) -> list[str]:
    flat = images.reshape(-1)
    chunks = range(-(-len(flat) // _CHUNK_BYTES)) if which is None else which
    return [hashlib.sha256(flat[i * _CHUNK_BYTES : (i + 1) * _CHUNK_BYTES].data).hexdigest() for i in chunks]


def _labelled(source: Source, raw: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    values, counts = np.unique(raw, return_counts=True)
    names = source.class_names([int(value) for value in values])
    if len(names) < 2:
        raise DataError(f"{source.name} has {len(names)} class; a classifier needs at least two.")
    if counts.min() < 2:
        raise DataError(
            f"{source.name}: class {names[int(counts.argmin())]!r} has a single image; a class needs at least two."
        )
    return np.searchsorted(values, raw).astype(np.int64), names


def _content(arrays: dict[str, NDArray[Any]], chunks: list[str], classes: tuple[str, ...]) -> str:
    small = {name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for name, array in arrays.items()}
    return digest({"chunks": chunks, "classes": list(classes), **small})


def _fill(source: Source, size: int, folder: Path | None) -> Pool:
    images, raw = _decode(source, size, folder)
    labels, classes = _labelled(source, raw)
    parts, sums = source.parts(), _sums(images)
    arrays: dict[str, NDArray[Any]] = {"labels": labels, "parts": parts, "sums": sums}
    chunks = _chunk_digests(images)
    content = _content(arrays, chunks, classes)
    if folder is not None:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        facts = {"shape": list(images.shape), "classes": list(classes), "chunks": chunks, "digest": content}
        write_json(folder / "pool.json", facts)
    return Pool(images, labels, parts, sums, classes, content)


def _open(folder: Path) -> Pool | None:
    """Open a cached pool; None if it is absent or not what was written (up to 1 GiB of the images is checked)."""
    try:
        facts = read_json(folder / "pool.json")
        shape, chunks, classes = tuple(facts["shape"]), facts["chunks"], tuple(facts["classes"])
        # Copy-on-write: torch wants writable memory, the file stays as it is.
        images = np.load(folder / f"images-{shape[1]}.npy", mmap_mode="c", allow_pickle=False)
        arrays = {n: np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("labels", "parts", "sums")}
        if images.shape != shape or _content(arrays, chunks, classes) != facts["digest"]:
            return None
        which = np.unique(np.linspace(0, len(chunks) - 1, _CHECKED_CHUNKS).astype(np.int64))
        if _chunk_digests(images, which) != [chunks[i] for i in which]:
            return None
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, RunFolderError):
        return None
    return Pool(images, arrays["labels"], arrays["parts"], arrays["sums"], classes, str(facts["digest"]))


def _write(source: Source, size: int, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        channels = _fill(source, size, partial).images.shape[1]
        for stale in partial.glob("images-*.npy"):  # gray images that a colour one followed
            if stale.name != f"images-{channels}.npy":
                stale.unlink()
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def load_pool(source: Source, size: int) -> Pool:
    """Return the decoded images of ``source``, from the cache where they lie there unharmed.

    Raises:
        DataError: An image cannot be read, or there are too few classes.
        StorageError: The cache cannot be written (``HWNAS_CACHE`` moves it).
    """
    identity = source.identity()
    if identity is None:
        return _fill(source, size, None)
    folder = cache_home() / "datasets" / digest({"version": VERSION, "size": size, **identity})[:32]
    with explain_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            pool = _open(folder)
            if pool is not None:
                return pool
            _write(source, size, folder)
    pool = _open(folder)
    if pool is None:
        raise DataError(f"the cache {folder} does not hold what was just written to it. Check the disk.")
    return pool

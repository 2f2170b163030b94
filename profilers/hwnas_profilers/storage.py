"""Model files on the device: kept once by content, laid out by name for the runtime."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

from hwnas_profilers.exclusive import lock_file
from hwnas_profilers.protocol import Failure

KEPT_LIMIT_BYTES = 512 * 1024 * 1024
"""Blobs beyond this are dropped, oldest first, once no loaded model needs them."""

_PREFIX = "hwnas-agent-"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _plain_name(name: str) -> str:
    """Return ``name`` if it is one plain file name.

    Raises:
        Failure: It could leave its folder.
    """
    if not name or name in (".", "..") or any(mark in name for mark in ("/", "\\", "\x00", ":")):
        raise Failure("load_failed", f"{name!r} is not a plain file name")
    return name


def _remove_abandoned(parent: Path) -> None:
    """Remove folders that no living worker has locked."""
    for folder in parent.glob(_PREFIX + "*"):
        mark = folder / "lock"
        try:
            descriptor = lock_file(str(mark)) if mark.exists() else None
        except OSError:
            continue
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


class Storage:
    """A temporary folder of this worker, gone when it ends; folders of workers that were killed are removed first."""

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        # locked before it has the name that others look for, so that nobody takes a new folder for an abandoned one
        self._lock = lock_file(os.path.join(self._folder.name, "lock.new"))
        os.replace(os.path.join(self._folder.name, "lock.new"), os.path.join(self._folder.name, "lock"))
        self._blobs = Path(self._folder.name) / "blobs"
        self._models = Path(self._folder.name) / "models"
        self._wanted: Set[str] = set()
        self._blobs.mkdir()
        self._models.mkdir()

    def missing(self, digests: Sequence[str]) -> List[str]:
        """Return the digests that are not here; all of them are kept until the next call, for the model they make up."""
        self._wanted = set(digests)
        return [digest for digest in digests if not (self._blobs / _plain_name(digest)).exists()]

    def put(self, digest: str, data: bytes) -> None:
        """Keep a blob whose digest the frame has checked."""
        self._forget_old(len(data))
        target = self._blobs / _plain_name(digest)
        partial = target.with_suffix(".part")
        partial.write_bytes(data)
        partial.replace(target)

    def take(self, digest: str, path: str) -> bool:
        """Link or copy a file of this machine as a blob; False if it is not the announced content."""
        source = Path(path)
        if not source.is_file() or _sha256(source) != digest:
            return False
        self._forget_old(source.stat().st_size)
        shutil.copyfile(source, self._blobs / _plain_name(digest))
        return True

    def _forget_old(self, coming_bytes: int) -> None:
        """Drop the oldest blobs that no model uses, so that the folder stays within its limit."""
        kept = sorted(self._blobs.iterdir(), key=lambda blob: blob.stat().st_mtime)
        total = sum(blob.stat().st_size for blob in kept) + coming_bytes
        for blob in kept:
            if total <= KEPT_LIMIT_BYTES:
                return
            if blob.stat().st_nlink == 1 and blob.name not in self._wanted:
                total -= blob.stat().st_size
                blob.unlink()

    def lay_out(self, handle: str, files: Sequence[Dict[str, Any]]) -> Path:
        """Give the files of a model their names in a folder of their own; returns the first.

        Raises:
            Failure: A name is not plain, or a blob is missing.
        """
        folder = self._models / _plain_name(handle)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for entry in files:
            blob = self._blobs / _plain_name(str(entry["sha256"]))
            if not blob.exists():
                raise Failure("load_failed", f"the content of {entry['name']} was not uploaded")
            target = folder / _plain_name(str(entry["name"]))
            try:
                os.link(blob, target)
            except OSError:
                shutil.copyfile(blob, target)
        return folder / str(files[0]["name"])

    def remove(self, handle: str) -> None:
        """Remove the folder of a model; its blobs stay for the next load."""
        shutil.rmtree(self._models / _plain_name(handle), ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._folder.cleanup()

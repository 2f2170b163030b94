"""Folders that are made whole or not at all, and never overwritten."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hwnas.errors import RunFolderError
from hwnas.files import explain_os_errors


def require_new(folder: Path) -> None:
    """Raise unless nothing lies where a folder is to be made.

    Raises:
        RunFolderError: Something does.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise RunFolderError(f"{folder} exists already and is never overwritten. Use another folder: --output.")


@contextlib.contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder``; rename it to that only when the block succeeds.

    Raises:
        RunFolderError: Something lies there already.
        StorageError: It cannot be made.
    """
    folder = folder.absolute()
    require_new(folder)
    with contextlib.ExitStack() as stack:
        with explain_os_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent))
            made = Path(work) / folder.name
            made.mkdir()
        yield made
        require_new(folder)
        with explain_os_errors(folder):
            if folder.is_dir():
                folder.rmdir()
            made.rename(folder)

"""Virtual environments for converters: made on first use, kept in the cache, never the user's own.

A worker on this machine may also import what such an environment holds (:func:`import_folders`): the user's packages come
first, those of the environments behind them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from hwnas.errors import ConversionError, StorageError
from hwnas.files import cache_home, digest, explain_os_errors, write_json, write_text
from hwnas.processes import clean_environment, run_logged, tail

INSTALL_DEADLINE_S = 3600.0
FOLDER = "environments"
_READY = "ready.json"
_LOG = logging.getLogger("hwnas")


@dataclass(frozen=True)
class Recipe:
    """What an environment holds.

    Attributes:
        name: What a person calls it, for example ``litert``.
        steps: Arguments of ``pip install``, one call each, in order; every requirement with its version.
        same_torch: Install the torch of this process first, so that exported programs are read as they were written.
        size_gb: About how much disk it takes.
    """

    name: str
    steps: tuple[tuple[str, ...], ...]
    same_torch: bool = True
    size_gb: float = 2.0

    @property
    def pip_lines(self) -> list[list[str]]:
        """Arguments of ``pip install``, one list per call."""
        first = [[f"torch=={metadata.version('torch').partition('+')[0]}"]] if self.same_torch else []
        return [*first, *(list(step) for step in self.steps)]

    @property
    def folder(self) -> Path:
        """Where it lies or will lie: another recipe, torch or Python has another folder."""
        mark = digest({"pip": self.pip_lines, "python": sys.version, "prefix": sys.base_prefix})
        return cache_home() / FOLDER / f"{self.name}-{mark[:16]}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def ready(self) -> bool:
        """Whether it was made to the end."""
        return (self.folder / _READY).is_file() and self.python.exists()

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk; 0 if it is not there."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())


def install(recipe: Recipe, *, deadline_s: float = INSTALL_DEADLINE_S) -> Path:
    """Make an environment unless it is there, and return its interpreter.

    Two processes that want the same one make it once; one that was interrupted is made anew.

    Raises:
        ConversionError: pip failed (no network, no such version) or took too long; the message ends with what it said.
        StorageError: The cache folder cannot be written, or has too little room.
    """
    if recipe.ready:
        return recipe.python
    folder = recipe.folder
    with explain_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not recipe.ready:
                _make(recipe, folder, deadline_s)
    return recipe.python


def _make(recipe: Recipe, folder: Path, deadline_s: float) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < recipe.size_gb * 1e9:
        raise StorageError(
            f"the environment {recipe.name!r} takes about {recipe.size_gb:g} GB below {folder.parent}, where {free / 1e9:.1f} GB "
            "are free. Free space, or point HWNAS_CACHE at another disk."
        )
    words = " ".join(word for line in recipe.pip_lines for word in line if not word.startswith("-"))
    _LOG.warning("making the environment %r, once (some minutes, %g GB): %s", recipe.name, recipe.size_gb, words)
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.with_name(f"{folder.name}.log")
    write_text(log, "")
    started = time.monotonic()
    pip = [str(recipe.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    commands: Sequence[list[str]] = [
        [sys.executable, "-m", "venv", str(folder)],
        *([*pip, *line] for line in recipe.pip_lines),
    ]
    for command in commands:
        left_s = deadline_s - (time.monotonic() - started)
        status = run_logged(command, log, left_s, environment=clean_environment())
        if status != 0:
            shutil.rmtree(folder, ignore_errors=True)
            why = f"took longer than {deadline_s:g} s" if status is None else f"failed (exit status {status})"
            raise ConversionError(
                f"the environment {recipe.name!r} cannot be made: '{' '.join(command[1:])}' {why}:\n{tail(log)}\n"
                f"The whole log is {log}. Try again with: hwnas backends install {recipe.name}"
            )
    seconds = round(time.monotonic() - started, 1)
    write_json(folder / _READY, {"name": recipe.name, "pip": recipe.pip_lines, "seconds": seconds})


def remove(name: str) -> int:
    """Delete every environment of that name, those of other torch versions too; returns the bytes freed.

    Raises:
        ConversionError: Another process is making one of them just now.
        StorageError: The cache folder cannot be written.
    """
    freed = 0
    for folder in _folders():
        if folder.name.rpartition("-")[0] == name:
            with explain_os_errors(folder):
                try:
                    # the lock's file stays: who waits for it would hold one that nobody else sees
                    with FileLock(f"{folder}.lock", timeout=0):
                        freed += _delete(folder)
                except Timeout as error:
                    raise ConversionError(
                        f"the environment {name!r} is being made by another process. Wait for it, or stop it."
                    ) from error
    return freed


def _delete(folder: Path) -> int:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    (folder / _READY).unlink(missing_ok=True)
    shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)
    return size


def _folders() -> list[Path]:
    root = cache_home() / FOLDER
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def import_folders() -> list[Path]:
    """Return the package folders of the environments made with this Python, for workers on this machine.

    Of several of one name (the recipe has changed) only the one made last counts.
    """
    found: dict[str, tuple[int, Path]] = {}
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in _folders():
        packages = folder / ("Lib/site-packages" if os.name == "nt" else f"lib/{version}/site-packages")
        if (folder / _READY).is_file() and packages.is_dir() and _torch_agrees(folder):
            name, made = folder.name.rpartition("-")[0], (folder / _READY).stat().st_mtime_ns
            found[name] = max(found.get(name, (0, packages)), (made, packages))
    return [packages for _, packages in found.values()]


def _torch_agrees(folder: Path) -> bool:
    """Say whether an environment was made for the torch that is installed here."""
    try:
        lines = json.loads((folder / _READY).read_text(encoding="utf-8"))["pip"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    wanted = [word for line in lines for word in line if word.startswith("torch==")]
    return wanted in ([], [f"torch=={metadata.version('torch').partition('+')[0]}"])

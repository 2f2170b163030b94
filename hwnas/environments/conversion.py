"""A conversion in a child process: a script that knows nothing of hwnas, a request in JSON, a deadline, a log.

The script is run as ``python -I script.py request.json`` in an empty folder that holds its input files; it writes its
result files there and ``result.json``. A conversion that fails is kept: inputs, script, log and ``reproduce.py``. The results
of those that succeed are kept too, up to :data:`KEPT_BYTES`: a conversion takes half a minute, and reference networks, resumed
profiles and repeated exports ask for the same one again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.environments.recipe import Recipe, install
from hwnas.errors import ConversionError
from hwnas.files import cache_home, digest, explain_os_errors, sha256_file, write_json, write_text
from hwnas.processes import clean_environment, reason, run_logged

DEADLINE_S = 900.0
FAILED = "failed-conversions"
KEPT_FAILURES = 10
KEPT = "conversions"
KEPT_BYTES = 2_000_000_000
_SCRIPT, _REQUEST, _RESULT = "convert.py", "request.json", "result.json"
_RAN, _TOOK = "convert.log", "seconds.txt"

_REPRODUCE = '''"""Runs a conversion that failed once more, in the environment it failed in: python reproduce.py"""

import pathlib
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
python = {python!r}
if not pathlib.Path(python).exists():
    sys.exit("the environment is gone; make it again with: hwnas backends install {name}")
sys.exit(subprocess.call([python, "-I", "convert.py", "request.json"], cwd=here))
'''


@dataclass(frozen=True)
class Converted:
    """What a conversion left, valid inside the ``with`` block of :func:`conversion`.

    Attributes:
        folder: Holds the files the script wrote.
        result: What it wrote into ``result.json``.
        seconds: How long it took; of one that was kept, how long it took then.
    """

    folder: Path
    result: dict[str, Any]
    seconds: float


@contextmanager
def workplace(script: Path) -> Iterator[Path]:
    """Yield a temporary folder with the conversion script in it, for the input files of :func:`convert`."""
    cache = cache_home()
    with explain_os_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=cache) as name:
            shutil.copyfile(script, Path(name) / _SCRIPT)
            yield Path(name)


def convert(recipe: Recipe, folder: Path, request: Mapping[str, Any], *, deadline_s: float = DEADLINE_S) -> Converted:
    """Run the script of a :func:`workplace` in its environment, which is made first if it is not there.

    Args:
        recipe: The environment.
        folder: From :func:`workplace`, with the input files.
        request: What the script is told, plain data; files by their names in ``folder``.
        deadline_s: Seconds after which the child is killed.

    Raises:
        ConversionError: It failed, crashed, hung or wrote no result; the message names the kept ``reproduce.py``.
        StorageError: The disk is full.
    """
    write_json(folder / _REQUEST, dict(request))
    inputs = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    kept = cache_home() / KEPT / digest({"inputs": inputs, "pip": recipe.pip_lines, "python": sys.version})[:32]
    if not _recalled(kept, folder):
        _run(recipe, folder, deadline_s)
        _store(folder, inputs.keys(), kept)
    result = _read_result(folder)
    assert result is not None
    return Converted(folder, result, float((folder / _TOOK).read_text(encoding="ascii")))


def _run(recipe: Recipe, folder: Path, deadline_s: float) -> None:
    python = install(recipe)
    log = folder / _RAN
    started = time.monotonic()
    status = run_logged(
        [str(python), "-I", _SCRIPT, _REQUEST],
        log,
        deadline_s,
        environment={**clean_environment(), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
        folder=folder,
    )
    if status == 0 and _read_result(folder) is not None:
        write_text(folder / _TOOK, f"{time.monotonic() - started:.1f}")
        return
    why = {None: f"took longer than {deadline_s:g} s", 0: "wrote no result"}.get(
        status, f"failed (exit status {status})"
    )
    failed = _keep_failure(recipe, folder, python)
    raise ConversionError(
        f"the conversion for {recipe.name} {why}: {reason(log)}\n"
        f"Log and files are kept; run it again with: python {failed / 'reproduce.py'}"
    )


def _recalled(kept: Path, folder: Path) -> bool:
    """Bring back what an equal conversion wrote; says whether there was one, whole and not just being forgotten."""
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        os.utime(kept)
    except OSError:
        return False
    return (folder / _TOOK).is_file() and _read_result(folder) is not None


def _store(folder: Path, inputs: Collection[str], kept: Path) -> None:
    """Keep what a conversion wrote, whole or not at all, and forget the oldest ones beyond :data:`KEPT_BYTES`."""
    with explain_os_errors(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".storing-", dir=kept.parent) as name:
            for path in folder.iterdir():
                if path.is_file() and path.name not in {*inputs, _RAN}:
                    shutil.copyfile(path, Path(name) / path.name)
            _forget(kept)
            with contextlib.suppress(OSError):  # another process kept the same one just now
                Path(name).rename(kept)
                Path(name).mkdir()  # for the end of the block
    sizes = {path: _size(path) for path in _by_age(kept.parent)}
    total = sum(sizes.values())
    for path, size in sizes.items():
        if total <= KEPT_BYTES or path == kept:
            break
        _forget(path)
        total -= size


def _forget(kept: Path) -> None:
    """Delete a folder by way of another name, so that who reads it meanwhile misses files instead of finding some."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix=".forgetting-", dir=kept.parent) as name:
        kept.rename(Path(name) / kept.name)


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def _by_age(folder: Path) -> list[Path]:
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may forget it just now
            if path.is_dir() and not path.name.startswith("."):
                found[path] = path.stat().st_mtime
    return sorted(found, key=found.__getitem__)


def _read_result(folder: Path) -> dict[str, Any] | None:
    try:
        result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def _keep_failure(recipe: Recipe, folder: Path, python: Path) -> Path:
    """Copy what a failed conversion left to where a person finds it; of the older ones only the last few stay."""
    root = cache_home() / FAILED
    kept = root / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 1_000_000:06d}"
    with explain_os_errors(kept):
        shutil.copytree(folder, kept)
        write_text(kept / "reproduce.py", _REPRODUCE.format(python=str(python), name=recipe.name))
        for old in _by_age(root)[:-KEPT_FAILURES]:
            shutil.rmtree(old, ignore_errors=True)
    return kept

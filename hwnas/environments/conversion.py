"""A conversion in a child process: a script that knows nothing of hwnas, a request in JSON, a deadline, a log.

The script is run as ``python -I script.py request.json`` in an empty folder that holds its input files; it writes its
result files there and ``result.json``. A conversion that fails is kept: inputs, script, log and ``reproduce.py``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.environments.recipe import Recipe, install
from hwnas.errors import ConversionError
from hwnas.files import cache_home, explain_os_errors, write_json, write_text
from hwnas.processes import clean_environment, run_logged, tail

DEADLINE_S = 900.0
FAILED = "failed-conversions"
KEPT_FAILURES = 10
_SCRIPT, _REQUEST, _RESULT, _RAN = "convert.py", "request.json", "result.json", "convert.log"

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
        seconds: How long it took.
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
    python = install(recipe)
    write_json(folder / _REQUEST, dict(request))
    log = folder / _RAN
    started = time.monotonic()
    status = run_logged(
        [str(python), "-I", _SCRIPT, _REQUEST],
        log,
        deadline_s,
        environment={**clean_environment(), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
        folder=folder,
    )
    seconds = time.monotonic() - started
    result = _read_result(folder) if status == 0 else None
    if result is None:
        why = {None: f"took longer than {deadline_s:g} s", 0: "wrote no result"}.get(
            status, f"failed (exit status {status})"
        )
        kept = _keep(recipe, folder, python)
        raise ConversionError(
            f"the conversion for {recipe.name} {why}:\n{tail(log)}\n"
            f"Log and files are kept; run it again with: python {kept / 'reproduce.py'}"
        )
    return Converted(folder, result, seconds)


def _read_result(folder: Path) -> dict[str, Any] | None:
    try:
        result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def _keep(recipe: Recipe, folder: Path, python: Path) -> Path:
    """Copy what a failed conversion left to where a person finds it; of the older ones only the last few stay."""
    root = cache_home() / FAILED
    kept = root / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 1_000_000:06d}"
    with explain_os_errors(kept):
        shutil.copytree(folder, kept)
        write_text(kept / "reproduce.py", _REPRODUCE.format(python=str(python), name=recipe.name))
        for old in sorted(root.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_FAILURES]:
            shutil.rmtree(old, ignore_errors=True)
    return kept

"""Engines that this installation built, kept between sessions; engines from elsewhere are never handed out.

An engine is native code: whoever reads one runs what its maker wrote. So each lies beside a record of what it was built from
and for, signed with a key that only this user of this machine has; what is not signed, not what was asked for, or not what
was signed is refused and built anew.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

FOLDER = "engines"
KEY = "installation.key"
KEPT_BYTES = 2 * 1024 * 1024 * 1024
"""Beyond this the engines that were used longest ago are dropped."""
_SUFFIX = ".bin"


def cache_folder() -> Path:
    """Return where engines lie (below ``HWNAS_CACHE``, else ``$XDG_CACHE_HOME/hwnas``, else ``~/.cache/hwnas``)."""
    cache = os.environ.get("HWNAS_CACHE")
    if cache:
        return Path(cache) / FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwnas" / FOLDER


def _canonical(facts: Mapping[str, str]) -> bytes:
    return json.dumps(dict(facts), sort_keys=True, separators=(",", ":")).encode()


def engine_name(facts: Mapping[str, str]) -> str:
    """Return the name, without suffix, of what was built from and for ``facts``: their sha256."""
    return hashlib.sha256(_canonical(facts)).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, readable by this user alone."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink()
        raise


def _own(path: Path) -> bool:
    """Say whether a file is this user's and closed to all others, as far as the system knows users."""
    state = path.stat()
    return not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o077)


class EngineCache:
    """The engines of one folder.

    Args:
        folder: Made if absent; :func:`cache_folder` by default.
    """

    def __init__(self, folder: Optional[Path] = None) -> None:
        self.folder = folder or cache_folder()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / KEY
        if not path.is_file() or not _own(path) or len(path.read_bytes()) != 32:
            _write(path, secrets.token_bytes(32))
        self._key = path.read_bytes()

    def _sign(self, facts: Mapping[str, str], content: bytes) -> str:
        return hmac.new(self._key, _canonical(facts) + hashlib.sha256(content).digest(), hashlib.sha256).hexdigest()

    def get(self, facts: Mapping[str, str]) -> Tuple[Optional[bytes], str]:
        """Return (content, "") of what was built for ``facts``, or (None, why what lies there is refused).

        The reason is empty where nothing lies there.
        """
        path = self.folder / (engine_name(facts) + _SUFFIX)
        try:
            content = path.read_bytes()
        except OSError:
            return None, ""
        try:
            record: Dict[str, object] = dict(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None, "it has no record of its making"
        if record.get("facts") != dict(facts):
            return None, "its record names another network, runtime or GPU"
        if not hmac.compare_digest(str(record.get("signature")), self._sign(facts, content)):
            return None, "it was not made by this installation, or was changed since"
        os.utime(path)
        return content, ""

    def put(self, facts: Mapping[str, str], content: bytes) -> None:
        """Keep what was built for ``facts``; drop what was not used for long if it becomes too much."""
        path = self.folder / (engine_name(facts) + _SUFFIX)
        record = {"facts": dict(facts), "signature": self._sign(facts, content), "size_bytes": len(content)}
        _write(path, content)
        _write(path.with_suffix(".json"), json.dumps(record, indent=1, sort_keys=True).encode())
        self._forget_old(path)

    def _forget_old(self, newest: Path) -> None:
        found = sorted(self.folder.glob("*" + _SUFFIX), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in [newest, *(other for other in found if other != newest)]:
            total += path.stat().st_size
            if total > KEPT_BYTES and path != newest:
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)

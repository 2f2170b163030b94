"""The agent as one file: a zipapp of the package ``hwnas_profilers``, with the runtimes of plug-ins beside the built-in ones."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from hwnas.errors import ConfigError, DeviceError
from hwnas.files import atomic_open, cache_home, digest, sha256_file, write_bytes

PLUGIN_GROUP = "hwnas.runtimes"
"""Entry points of this group name the device module of a plug-in runtime: ``NAME = "package.module"``."""

_MAIN = b"import sys\n\nfrom hwnas_profilers.__main__ import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def package_folder() -> Path:
    """Return the folder of the package ``hwnas_profilers``.

    Raises:
        DeviceError: The package is not installed beside hwnas.
    """
    spec = importlib.util.find_spec("hwnas_profilers")
    if spec is None or spec.origin is None:
        raise DeviceError("the package hwnas_profilers is missing beside hwnas. Install hwnas again: pip install hwnas")
    return Path(spec.origin).parent


def plugin_runtimes() -> dict[str, Path]:
    """Return the device modules of installed plug-ins: runtime name -> source file. Nothing of theirs is run.

    Raises:
        ConfigError: An entry point names a module that is not a source file.
    """
    found = {}
    for point in entry_points(group=PLUGIN_GROUP):
        spec = importlib.util.find_spec(point.value)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ConfigError(
                f"the plug-in runtime {point.name!r} names {point.value!r}, which is not a Python source file. "
                f"Mend its entry point in the group {PLUGIN_GROUP}."
            )
        found[point.name] = Path(spec.origin)
    return found


def _members(extra: Mapping[str, Path]) -> dict[str, bytes]:
    folder = package_folder()
    members = {"__main__.py": _MAIN}
    for path in sorted(folder.rglob("*.py")):
        members[f"hwnas_profilers/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    for name, path in sorted(extra.items()):
        member = f"hwnas_profilers/runtimes/{name}.py"
        if not name.isidentifier() or member in members:
            raise ConfigError(
                f"the plug-in runtime {name!r} ({path}) needs a name of its own, written like a variable."
            )
        members[member] = path.read_bytes()
    return members


def build_agent(path: Path, extra: Mapping[str, Path] | None = None) -> Path:
    """Write the agent as one runnable zip file; the same sources give the same bytes.

    Args:
        path: File to write, usually ``*.pyz``.
        extra: Further runtimes: name -> source file of its device module.

    Returns:
        ``path``.
    """
    with atomic_open(path, "wb") as stream:
        stream.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted(_members(extra or {}).items()):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, data)
    return path


def cached_agent(extra: Mapping[str, Path] | None = None) -> tuple[Path, str]:
    """Return the agent in the cache folder, built if its sources changed, and its sha256."""
    extra = plugin_runtimes() if extra is None else extra
    sources = digest({name: digest(data.hex()) for name, data in _members(extra).items()})
    path = cache_home() / "agents" / f"agent-{sources[:32]}.pyz"
    mark = path.with_suffix(".sha256")
    if path.is_file() and mark.is_file() and mark.read_text(encoding="ascii") == sha256_file(path):
        return path, sha256_file(path)
    build_agent(path, extra)
    write_bytes(mark, sha256_file(path).encode())
    return path, sha256_file(path)

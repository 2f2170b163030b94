"""Plug-ins by entry point: a name, the group it belongs to, and the object it loads."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hwnas.errors import ConfigError

GROUPS = {
    "space": "hwnas.spaces",
    "supernet": "hwnas.supernets",
    "backend": "hwnas.backends",
    "strategy": "hwnas.strategies",
}


def _points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUPS[kind])}


def names(kind: str) -> list[str]:
    """Return the registered names of ``kind`` (``space``, ``supernet``, ``backend``, ``strategy``), sorted."""
    return sorted(_points(kind))


def load(kind: str, name: str) -> Any:
    """Return the object registered as ``name``.

    Raises:
        ConfigError: Nothing of that name is installed; the nearest known name is suggested.
    """
    points = _points(kind)
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown {kind} {name!r}; known: {', '.join(sorted(points)) or 'none'}.{hint}")
    return points[name].load()

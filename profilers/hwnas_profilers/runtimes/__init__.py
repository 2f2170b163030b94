"""The runtimes this agent knows: every module here with a ``RUNTIME``.

A new runtime is one more module in this folder; the host adds the modules of plug-ins when it builds the agent.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Dict, Sequence

from hwnas_profilers.runtimes.base import Runtime


def find_runtimes(only: Sequence[str] = ()) -> Dict[str, Runtime]:
    """Return the runtimes by name; importing these modules imports none of the packages they drive.

    Args:
        only: Names to offer; all if empty.
    """
    found: Dict[str, Runtime] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name):
        runtime = getattr(importlib.import_module(f"{__name__}.{module.name}"), "RUNTIME", None)
        if isinstance(runtime, Runtime) and (not only or runtime.name in only):
            found[runtime.name] = runtime
    return found

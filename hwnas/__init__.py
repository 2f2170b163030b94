"""hwnas: profile a device, search under latency budgets, export artifacts that were measured to keep them.

Importing the package is light: the public verbs and names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from hwnas import _torchvision

__version__ = "0.1.0"

_torchvision.install()

_NAMES = {
    **dict.fromkeys(
        (
            "profile",
            "fit",
            "predict",
            "measure",
            "check",
            "train",
            "search",
            "finetune",
            "export",
            "verify",
            "compare",
            "report",
            "run",
        ),
        "hwnas.api",
    ),
    "HwnasError": "hwnas.errors",
    "Target": "hwnas.targets",
    "Device": "hwnas.targets",
    "RunConfig": "hwnas.config",
    "load_run_config": "hwnas.config",
}

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'hwnas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Let ``import torchvision`` work beside a CPU build of torch.

PyPI's torchvision wheel for Linux is built for CUDA. Its compiled library then does not load beside a CPU torch, and the
import stops at the first operator that library should have registered (``torchvision::nms``). ``install`` adds an import
hook that, just before torchvision is first imported, declares the two operators if the library cannot be loaded. Without
torchvision, or where its library loads, nothing changes.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def _declare_operators(origin: str) -> None:
    import torch

    try:
        torch.ops.load_library(str(next(Path(origin).parent.glob("_C*.so"))))  # type: ignore[no-untyped-call]
    except (OSError, ImportError, StopIteration):
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


class _Hook(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torchvision")
        if spec is not None and spec.origin is not None:
            _declare_operators(spec.origin)
        return spec


def install() -> None:
    """Register the hook once; it removes itself when torchvision is first imported."""
    if "torchvision" in sys.modules or any(isinstance(finder, _Hook) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Hook())

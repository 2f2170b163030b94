"""What the tests of the zoo share: a run file small enough to be trained within seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwnas.config import RunConfig

Pictures = Callable[..., str]
"""Writes digits of some classes as pictures and returns the ``data.source``."""

NAME = "tiny-digits"
TARGET = "simulated-reference/simulated-fp32"
SETTINGS: dict[str, Any] = {
    "resolutions": [8, 12],
    "widths": [0.5, 1.0],
    "kernels": [3, 5],
    "expands": [2, 3],
    "depths": [1, 2],
    "stem_stride": 1,
    "stages": [
        {"channels": 16, "stride": 2, "activation": "relu", "se": False},
        {"channels": 24, "stride": 2, "activation": "hswish", "se": True},
    ],
    "head_channels": [48, 64],
}


def run_config(name: str, **changes: Any) -> RunConfig:
    """Return a run file; sections that are given replace those here."""
    raw: dict[str, Any] = {
        "name": name,
        "threads": 1,
        "data": {"source": "digits", "image_size": 12},
        "targets": [{"target": TARGET}],
        "profile": {"networks": 16, "held_out": 4, "rounds": 5},
        "search": {"initial": 6, "oversample": 1, "archive": 6, "iterations": 1, "candidates": 2, "adapt_epochs": 0},
    }
    return RunConfig.model_validate(raw | changes)


def scratch_config(**train: Any) -> RunConfig:
    """Return the run file whose supernet becomes the entry."""
    section = {"epochs": 12, "batch_size": 32, "learning_rate": 0.15, "bn_images": 128, **train}
    return run_config("scratch", space={"settings": SETTINGS}, train=section)


def start_config(entry: Path | str, **changes: Any) -> RunConfig:
    """Return a run file that starts from an entry and says nothing about the space."""
    train = {"pretrained": str(entry), "batch_size": 32, "bn_images": 128, **changes.pop("train", {})}
    return run_config("start", train=train, **changes)

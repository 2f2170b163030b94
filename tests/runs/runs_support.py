"""A run over a small space with early exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwnas.config import RunConfig
from hwnas.runs.session import Run

EARLY = {
    "exits": "early",
    "resolutions": [8],
    "widths": [0.5],
    "kernels": [3, 5],
    "expands": [2, 3],
    "depths": [1, 2],
    "stem_stride": 1,
    "stages": [
        {"channels": 16, "stride": 1, "activation": "relu", "se": False},
        {"channels": 24, "stride": 2, "activation": "hswish", "se": True},
        {"channels": 32, "stride": 1, "activation": "hswish", "se": False},
    ],
    "head_channels": [64, 64],
}

SEARCH = {"initial": 6, "oversample": 1, "archive": 6, "iterations": 1, "candidates": 2, "adapt_epochs": 0}


def make_run(
    runs: Path, name: str, target: str, budget: dict[str, Any] | None, finetune: dict[str, Any], **changes: Any
) -> Run:
    """Return a run for one target."""
    raw = {
        "name": name,
        "data": {"source": "digits", "image_size": 8, "max_train": 500},
        "space": {"settings": EARLY},
        "targets": [{"target": target, **({} if budget is None else {"budget": budget})}],
        "profile": {"networks": 12, "held_out": 4, "rounds": 4},
        "train": {"epochs": 4, "batch_size": 32, "bn_images": 64, "learning_rate": 0.1},
        "search": SEARCH,
        "finetune": {"epochs": 2, "batch_size": 32, **finetune},
        "export": {"rounds": 5, "calibration_images": 16},
        **changes,
    }
    return Run(RunConfig.model_validate(raw), runs)

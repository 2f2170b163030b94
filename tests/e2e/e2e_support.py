"""What the tests of the commands share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
Hwnas = Callable[..., subprocess.CompletedProcess[str]]

SPACE = {
    "settings": {
        "resolutions": [8, 12],
        "widths": [0.5],
        "kernels": [3, 5],
        "expands": [2, 3],
        "depths": [1, 2],
        "stem_stride": 1,
        "stages": [{"channels": 16, "stride": 2, "activation": "relu", "se": False}],
        "head_channels": [32, 32],
    }
}


SIMULATED = {
    "name": "sim",
    "data": {"source": "digits", "image_size": 12},
    "space": SPACE,
    "targets": [{"target": "simulated-reference/simulated-fp32"}],
    "profile": {"networks": 16, "held_out": 4, "rounds": 5},
    "train": {"epochs": 0.3, "batch_size": 32, "bn_images": 32},
    "search": {"initial": 4, "oversample": 1, "archive": 4, "iterations": 1, "candidates": 2, "adapt_epochs": 0},
    "finetune": {"epochs": 1},
}


def environment(home: Path) -> dict[str, str]:
    """Variables of a command whose files all lie below ``home``."""
    return {**os.environ, "HWNAS_HOME": str(home / "home"), "HWNAS_CACHE": str(home / "cache"), "COLUMNS": "160"}


def refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The one form every wrong input takes: exit code 2, one message, no traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr, result.stderr

"""Trainings that cannot go on, and what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from supernet_helpers import SETTINGS

from hwnas.errors import SpaceError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.failures import explained

SCRIPT = Path(__file__).with_name("train_without_memory.py")


def start(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=dict(os.environ), capture_output=True, text=True, timeout=240, check=False
    )


def test_a_batch_too_large_for_the_memory_names_the_key(tmp_path: Path) -> None:
    result = start(str(SCRIPT), "150", str(tmp_path))
    assert result.returncode == 2, result.stderr
    assert "a step of train.batch_size=900 images does not fit the memory here (" in result.stderr
    assert "Lower train.batch_size" in result.stderr
    assert "Traceback" not in result.stderr


def test_one_process_without_memory_ends_all_without_tracebacks(tmp_path: Path) -> None:
    result = start(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT), "60", str(tmp_path)
    )
    assert result.returncode != 0
    assert result.stderr.count("hwnas: a step of train.batch_size=900 images does not fit the memory here") == 1
    assert result.stderr.count("Traceback") == 1, "that of torchrun itself"


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), explained(8):
        raise RuntimeError("shapes differ")


def test_resolutions_too_small_for_the_strides_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"resolutions=\[3\]: 3 pixels are too few for the total stride 8"):
        MobileNetV3Space(**{**SETTINGS, "resolutions": [3], "stem_stride": 2})

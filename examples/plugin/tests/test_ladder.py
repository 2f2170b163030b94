"""The space keeps hwnas's contract for spaces, and the commands that need no supernet work with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hwnas_example.ladder import Ladder, LadderSpace

from hwnas import registry
from hwnas.errors import SpaceError
from hwnas.testing.spaces import SpaceContract

SMALL: dict[str, Any] = {"resolution": 9, "widths": [4, 8], "rungs": 3}


class TestLadder(SpaceContract):
    """The contract."""

    space_type = LadderSpace
    settings: ClassVar[dict[str, Any]] = SMALL


def test_empty_places_come_last() -> None:
    """A rung left out in the middle is the same network as one left out at the end."""
    space = LadderSpace(**SMALL)
    assert space.repair(np.array([0, 2, 0, 1])).tolist() == [[0, 2, 1, 0]]
    assert space.decode(np.array([0, 2, 0, 1])) == Ladder(4, (5, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernels": [2]}, "odd"),
        ({"widths": [8, 4]}, "ascending"),
        ({"widths": [0]}, "positive"),
        ({"rungs": 0}, "rungs"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    """A setting that cannot be used is said to be so."""
    with pytest.raises(SpaceError, match=message):
        LadderSpace(**settings)


@pytest.mark.parametrize("value", [{"width": 5, "kernels": [3]}, {"width": 4, "kernels": [3] * 9}, {"width": 4}])
def test_networks_of_another_space_are_refused(value: dict[str, Any]) -> None:
    """A choice or a key that the space does not have is said to be so."""
    with pytest.raises(SpaceError, match="ladder"):
        LadderSpace(**SMALL).from_dict(value)


def test_hwnas_finds_it_by_name() -> None:
    """The package is installed, not only importable."""
    assert registry.load("space", "ladder") is LadderSpace


def hwnas(folder: Path, *words: str) -> Any:
    """Run the command as a person does; return what it prints as JSON."""
    environment = {**os.environ, "HWNAS_HOME": str(folder / "home"), "HWNAS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "hwnas", *words, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_profiled_and_predicted_on_the_example_runtime(tmp_path: Path) -> None:
    """The two commands that the README names, with few networks."""
    where = ("--target", "local/numpy_reference-fp32", "--space", "ladder", "--set", "space.settings.resolution=9")
    few = ("profile.networks=10", "profile.held_out=3", "profile.rounds=3")
    hwnas(tmp_path, "profile", *where, *(word for key in few for word in ("--set", key)))
    small, large = hwnas(tmp_path, "predict", "smallest", "largest", *where)
    assert 0 < small["low"] <= small["value"] <= small["high"]
    assert small["value"] < large["value"]

"""Fixtures of the latency tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from latency_samples import make_rows, make_table, small_space

from hwnas.latency.sampling import plan_networks
from hwnas.latency.table import LatencyTable
from hwnas.spaces.mobilenetv3 import MobileNetV3Space


@pytest.fixture(scope="session")
def space() -> MobileNetV3Space:
    return small_space()


@pytest.fixture(scope="session")
def table(space: MobileNetV3Space) -> LatencyTable:
    plan = plan_networks(space, 80, 40, seed=0)
    rows = make_rows(space, plan.train, "train", 0.01, 1) + make_rows(space, plan.held_out, "held_out", 0.01, 2)
    return make_table(space, rows)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))

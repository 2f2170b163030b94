from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from latency_devices import TARGET

from hwnas import api
from hwnas.config import ProfileSection
from hwnas.errors import ConfigError
from hwnas.latency.model import LatencyModel
from hwnas.latency.narrowing import FIRST, STEP, _least_known, half_widths, narrow
from hwnas.latency.profiling import TABLE_FILE
from hwnas.latency.table import LatencyTable
from hwnas.runs.profiling import profile_folder
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import find_device

MOST = FIRST + STEP + 10


def section(interval: float) -> ProfileSection:
    return ProfileSection(networks=MOST, held_out=8, rounds=3, interval=interval)


def bursts_in(folder: Path) -> dict[str, int]:
    journals = [path for path in folder.glob("*.jsonl") if path.name != TABLE_FILE]
    return {path.name: path.read_text(encoding="utf-8").count('"record":"bursts"') for path in journals}


@pytest.fixture(scope="module")
def folder(space: MobileNetV3Space, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile whose intervals can never be narrow enough."""
    made = tmp_path_factory.mktemp("narrow")
    fitted = profile_folder(TARGET, space, section(1e-9), made)
    assert f"with {MOST} networks, as many as profile.networks allows; 1e-07 % was asked for" in fitted.notes[-1]
    return made


def test_measuring_ends_at_once_where_the_intervals_are_narrow(space: MobileNetV3Space, tmp_path: Path) -> None:
    fitted = profile_folder(TARGET, space, section(0.5), tmp_path)
    assert fitted.networks == FIRST + 8
    assert f"with {FIRST} networks; 50 % was asked for" in fitted.notes[-1]


def test_measuring_goes_on_to_the_most_networks(folder: Path) -> None:
    table = LatencyTable.load(folder / TABLE_FILE)
    assert Counter(row.split for row in table.rows) == {"train": MOST, "held_out": 8}
    assert len({row.key for row in table.rows}) == MOST + 8


def test_the_same_command_resumes_without_measuring(space: MobileNetV3Space, folder: Path) -> None:
    table = (folder / TABLE_FILE).read_bytes()
    bursts = bursts_in(folder)
    assert len(bursts) == 3
    assert min(bursts.values()) > 0
    profile_folder(TARGET, space, section(1e-9), folder)
    assert (folder / TABLE_FILE).read_bytes() == table
    assert bursts_in(folder) == bursts


def test_nothing_measured_is_lost_when_less_is_asked_for(space: MobileNetV3Space, folder: Path, tmp_path: Path) -> None:
    table = (folder / TABLE_FILE).read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    fitted = profile_folder(TARGET, space, section(0.5), copy)
    assert f"with {MOST} networks; 50 % was asked for" in fitted.notes[-1]
    assert (copy / TABLE_FILE).read_bytes() == table


def test_more_networks_go_on_where_fewer_ended(space: MobileNetV3Space, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = {row.key for row in LatencyTable.load(copy / TABLE_FILE).rows}
    profile_folder(TARGET, space, section(1e-9).model_copy(update={"networks": MOST + 5}), copy)
    after = {row.key for row in LatencyTable.load(copy / TABLE_FILE).rows}
    assert before < after
    assert len(after) == len(before) + 5


def test_an_interval_is_not_for_transfers(space: MobileNetV3Space, folder: Path, tmp_path: Path) -> None:
    source = LatencyModel.load(folder / "model", space)
    with pytest.raises(ConfigError, match=r"profile\.interval"):
        profile_folder(TARGET, space, section(0.1), tmp_path, sources=[source])


def test_a_step_that_would_take_too_long_is_not_begun(space: MobileNetV3Space, folder: Path, tmp_path: Path) -> None:
    table = LatencyTable.load(folder / TABLE_FILE)
    wanted = section(1e-9).model_copy(update={"networks": 10_000})
    ticks = itertools.count(0.0, 40.0)
    more, note = narrow(
        table, space, wanted, tmp_path, find_device(TARGET.device), seconds_left=140.0, clock=lambda: next(ticks)
    )
    # begun after 40 s, done after 80; at the next look, after 120, there is time left, but not another 40 s
    assert len(more.measured("train")) == MOST + STEP
    assert "when the time was over" in note


def test_the_widest_intervals_are_measured_and_some_at_random(space: MobileNetV3Space, folder: Path) -> None:
    model = LatencyModel.fit(LatencyTable.load(folder / TABLE_FILE), space)
    pool = np.unique(space.sample(np.random.default_rng(3), 300), axis=0)
    widths = half_widths(model, pool)
    chosen = _least_known(pool, widths, 30)
    assert len(np.unique(chosen, axis=0)) == 30
    assert (chosen[:10] == pool[:10]).all()
    rest = np.sort(widths[10:])[::-1][:20]
    np.testing.assert_allclose(half_widths(model, chosen[10:]), rest)


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        api.profile(str(TARGET), interval=1.5)
    with pytest.raises(ConfigError, match="leave out --kernels"):
        api.profile("local/onnxruntime-fp32", interval=0.1, kernels=True)

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hwnas_profilers.energy import Counter, Meter, energy_of, find_sensor


def rapl(root: Path, packages: int = 1, microjoules: int = 1_000_000) -> list[Path]:
    """Lay out sysfs as the kernel does: zones, and a sub-zone that must not be counted twice."""
    counters = []
    for number in range(packages):
        for zone in (f"intel-rapl:{number}", f"intel-rapl:{number}:0"):
            folder = root / "class/powercap" / zone
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"package-{number}\n" if zone.count(":") == 1 else "core\n")
            (folder / "energy_uj").write_text(f"{microjoules}\n")
            (folder / "max_energy_range_uj").write_text("262143328850\n")
        counters.append(root / "class/powercap" / f"intel-rapl:{number}" / "energy_uj")
    return counters


def test_without_a_sensor_nothing_is_claimed(tmp_path: Path) -> None:
    assert find_sensor(root=str(tmp_path)) is None
    assert find_sensor(root=str(tmp_path / "absent")) is None
    assert find_sensor("CUDA", root=str(tmp_path)) is None


@pytest.mark.parametrize("packages", [1, 2])
def test_rapl_counts_packages_not_their_parts(tmp_path: Path, packages: int) -> None:
    counters = rapl(tmp_path, packages)
    sensor = find_sensor(root=str(tmp_path))
    assert isinstance(sensor, Counter)
    sensor.start()
    for counter in counters:
        counter.write_text("3500000\n")
    assert sensor.stop_mj() == pytest.approx(2500.0 * packages)


def test_a_counter_that_starts_again_is_continued(tmp_path: Path) -> None:
    (counter,) = rapl(tmp_path, microjoules=262_143_328_000)
    sensor = find_sensor(root=str(tmp_path))
    assert sensor is not None
    sensor.start()
    counter.write_text("150\n")
    assert sensor.stop_mj() == pytest.approx(1.0)


def test_of_two_packages_one_may_start_again(tmp_path: Path) -> None:
    counters = rapl(tmp_path, packages=2, microjoules=262_143_328_000)
    sensor = find_sensor(root=str(tmp_path))
    assert sensor is not None
    sensor.start()
    counters[0].write_text("150\n")
    assert sensor.stop_mj() == pytest.approx(1.0)


def test_the_platform_is_not_counted_beside_its_packages(tmp_path: Path) -> None:
    package, platform = rapl(tmp_path, packages=2)
    (platform.parent / "name").write_text("psys\n")
    sensor = find_sensor(root=str(tmp_path))
    assert sensor is not None
    assert sensor.name == "RAPL, package"
    sensor.start()
    package.write_text("3500000\n")
    platform.write_text("9900000\n")
    assert sensor.stop_mj() == pytest.approx(2500.0)


def test_a_counter_that_may_not_be_read_is_no_sensor(tmp_path: Path) -> None:
    (counter,) = rapl(tmp_path)
    counter.write_text("")
    assert find_sensor(root=str(tmp_path)) is None


def test_a_board_s_meter_is_integrated(tmp_path: Path) -> None:
    folder = tmp_path / "class/hwmon/hwmon3"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    (folder / "power1_input").write_text("5000000\n")
    sensor = find_sensor(root=str(tmp_path))
    assert isinstance(sensor, Meter)
    start = time.perf_counter()
    sensor.start()
    time.sleep(0.2)
    spent = sensor.stop_mj()
    assert spent == pytest.approx(5000.0 * (time.perf_counter() - start), rel=0.2)


def test_other_chips_are_not_taken_for_the_board(tmp_path: Path) -> None:
    folder = tmp_path / "class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("amdgpu\n")
    (folder / "power1_input").write_text("5000000\n")
    assert find_sensor(root=str(tmp_path)) is None


def test_the_energy_of_a_run_is_the_average_of_many(tmp_path: Path) -> None:
    (counter,) = rapl(tmp_path, microjoules=0)
    sensor = find_sensor(root=str(tmp_path))
    assert sensor is not None
    spent = 0

    def step() -> None:
        nonlocal spent
        spent += 2000
        partial = counter.with_suffix(".tmp")
        partial.write_text(f"{spent}\n")
        partial.replace(counter)

    energy_mj, runs = energy_of(step, sensor, 0.05)
    assert runs > 1
    assert energy_mj == pytest.approx(2.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "hwnas-power"]

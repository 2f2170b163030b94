"""Energy of inferences, where the device has a sensor: RAPL, a power meter of the board (INA and its like), NVML.

What is read is the whole package, board or GPU while the model runs, idle share included; without a sensor nothing is
claimed.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

POLL_S = 0.02


class Counter:
    """Counters of energy that only grow, until each starts again at zero; added up.

    Args:
        name: What a person is told.
        parts: Per counter what reads it, millijoules, and where it starts again; 0 where it does not.
    """

    def __init__(self, name: str, parts: Sequence[Tuple[Callable[[], float], float]]) -> None:
        self.name = name
        self._parts = list(parts)
        self._before: List[float] = []

    def start(self) -> None:
        """Remember where the counters stand."""
        self._before = [read_mj() for read_mj, _ in self._parts]

    def stop_mj(self) -> float:
        """Return the energy since :meth:`start`, millijoules."""
        spent = 0.0
        for (read_mj, range_mj), before in zip(self._parts, self._before):
            own = read_mj() - before
            spent += own + range_mj if own < 0 else own
        return spent


class Meter:
    """A power meter, read every :data:`POLL_S` and integrated.

    Args:
        name: What a person is told.
        read_mw: Returns the power, milliwatts.
    """

    def __init__(self, name: str, read_mw: Callable[[], float]) -> None:
        self.name = name
        self._read_mw = read_mw
        self._points: List[Tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def _note(self) -> None:
        self._points.append((time.perf_counter(), self._read_mw()))

    def _poll(self) -> None:
        while not self._ended.wait(POLL_S):
            self._note()

    def start(self) -> None:
        """Begin to read."""
        self._points, self._ended = [], threading.Event()
        self._note()
        self._thread = threading.Thread(target=self._poll, name="hwnas-power", daemon=True)
        self._thread.start()

    def stop_mj(self) -> float:
        """Return the energy since :meth:`start`, millijoules, by the trapezoidal rule."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._note()
        pairs = zip(self._points, self._points[1:])
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2.0 for a, b in pairs)


def _number(path: Path) -> Optional[float]:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _microunits(path: Path) -> Callable[[], float]:
    """Return what reads a file in millionths, in thousandths."""

    def read() -> float:
        value = _number(path)
        if value is None:
            raise OSError(f"{path} cannot be read any more")
        return value / 1000.0

    return read


def _rapl(root: Path) -> Optional[Counter]:
    found = sorted((root / "class/powercap").glob("intel-rapl:*"))
    zones = [path for path in found if path.name.count(":") == 1 and _is_package(path)]
    readable = [zone for zone in zones if _number(zone / "energy_uj") is not None]
    if not readable or len(readable) < len(zones):
        return None
    parts = [
        (_microunits(zone / "energy_uj"), (_number(zone / "max_energy_range_uj") or 0.0) / 1000.0) for zone in readable
    ]
    return Counter(f"RAPL, {'package' if len(parts) == 1 else f'{len(parts)} packages'}", parts)


def _is_package(zone: Path) -> bool:
    """Say whether a zone is a package: ``psys``, the whole platform, stands beside them and holds them once more."""
    try:
        return (zone / "name").read_text(encoding="ascii").startswith("package")
    except (OSError, ValueError):
        return False


def _board(root: Path) -> Optional[Meter]:
    for path in sorted((root / "class/hwmon").glob("hwmon*/power1_input")):
        chip = (path.parent / "name").read_text(encoding="utf-8").strip() if (path.parent / "name").is_file() else ""
        if re.match(r"ina\d+", chip) and _number(path) is not None:
            return Meter(f"{chip}, {path.parent.name}", _microunits(path))
    return None


def _gpu() -> Optional[Counter]:
    """Return the counter of the first NVIDIA GPU, by NVML; written to its documentation, not yet run on a GPU."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
        return None

    def read() -> float:
        status = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy))
        if status:
            raise OSError(f"NVML gives no energy (status {status})")
        return float(energy.value)

    try:
        read()
    except OSError:
        return None
    return Counter("NVML, GPU 0", [(read, 0.0)])


def find_sensor(device: str = "CPU", root: str = "/sys") -> "Optional[Counter | Meter]":
    """Return what measures the energy of a runtime's device, or None.

    Args:
        device: The runtime's device name; anything with ``GPU``, ``CUDA`` or ``TensorRT`` is read by NVML.
        root: Where sysfs lies.
    """
    if re.search("gpu|cuda|tensorrt", device, re.IGNORECASE):
        return _gpu()
    return _rapl(Path(root)) or _board(Path(root)) if os.path.isdir(root) else None


def energy_of(step: Callable[[], object], sensor: "Counter | Meter", seconds: float) -> Tuple[float, int]:
    """Run a model for some seconds; returns the energy of one run, millijoules, and the number of runs."""
    step()
    runs, until = 0, time.perf_counter() + seconds
    sensor.start()
    while time.perf_counter() < until or not runs:
        step()
        runs += 1
    return sensor.stop_mj() / runs, runs

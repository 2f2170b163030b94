"""A simulated device whose clock is virtual: networks with known latencies, faults to plant, sessions that need no waiting."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.backends.simulated import SimulatedBackend
from hwnas.devices.models import Burst, BurstSpec, LoadedModel, ModelFiles
from hwnas.devices.session import Session
from hwnas.files import Journal, read_json, write_json
from hwnas.latency.analysis import SessionResult
from hwnas.latency.canaries import build_canaries
from hwnas.latency.measurement import MeasureItem
from hwnas.latency.measuring import measure_session
from hwnas.latency.protocol import Protocol
from hwnas.targets import Target, find_device
from hwnas_profilers.runtimes.base import LoadSpec
from hwnas_profilers.runtimes.simulated import base_latency_ms

TARGET = Target.parse("simulated-reference/simulated-fp32")
PROTOCOL = Protocol(rounds=12, burst=BurstSpec(target_ms=4.0, min_runs=5, max_runs=40, discard=2))
WORDS = {
    **{"calm": (), "ramp": ("drift",), "step": ("drift",), "spikes": ("spikes",), "modes": ("two_speeds",)},
    **{"tick": ("coarse_clock",), "throttle": ("throttling",), "cold": ("cold_start",)},
}
Fault = dict[str, Any]


class VirtualSession(Session):
    """The real session; what pauses is the device's clock, and its worker ends with it instead of unloading."""

    def __init__(self, faults: Fault) -> None:
        super().__init__(find_device("simulated-reference"), deadline_s=60.0)
        self.faults = faults
        self.now_s = 0.0
        self._pause = ""

    def load(self, files: ModelFiles, target: Target, *, options: Any = None) -> LoadedModel:
        """Load under the planted faults."""
        return super().load(files, target, options={**self.faults, **(options or {})})

    def burst_round(self, handles: Any, spec: BurstSpec | None = None) -> list[Burst]:
        """Run a round and remember the device's clock."""
        bursts = super().burst_round(handles, spec)
        self.now_s = bursts[-1].started_s
        return bursts

    def rest(self, pause_ms: float) -> None:
        """Let the device idle for so many virtual milliseconds."""
        if pause_ms:
            self.burst_round([self._pause], BurstSpec(pause_ms, 1, 1, 0))

    def unload(self, handle: str) -> None:
        """Keep it: the worker ends with the session."""

    def open_pause(self, files: ModelFiles) -> None:
        """Load the model that is a pause."""
        self._pause = self.load(files, TARGET).handle


@dataclass(frozen=True)
class Bench:
    """Files of networks, their true latencies in milliseconds, and those of the canaries."""

    folder: Path
    files: list[ModelFiles]
    truth: NDArray[np.float64]
    canaries: dict[str, float]
    pause: ModelFiles

    @classmethod
    def make(cls, folder: Path, count: int, seed: int = 0) -> Bench:
        """Write so many networks into a folder."""
        rng = np.random.default_rng(seed)
        files, truth = [], []
        for number in range(count):
            described = network(rng)
            path = folder / f"{number}.sim.json"
            write_json(path, described)
            files.append(ModelFiles(path))
            truth.append(base_latency_ms(described, LoadSpec("fp32")))
        built = build_canaries(SimulatedBackend, TARGET, folder)
        known = {name: base_latency_ms(read_json(files_.main), LoadSpec("fp32")) for name, files_ in built.items()}
        write_json(folder / "pause.sim.json", {"idle": True})
        return cls(folder, files, np.array(truth), known, ModelFiles(folder / "pause.sim.json"))

    def measure(
        self, count: int, protocol: Protocol, faults: Fault, reference: dict[str, float] | None = None
    ) -> tuple[SessionResult, float]:
        """Measure the first networks in a session of its own; returns the result and when, virtually, it ended."""
        items = [MeasureItem(f"n{number:03d}", files) for number, files in enumerate(self.files[:count])]
        with tempfile.TemporaryDirectory() as place, VirtualSession(faults) as session:
            session.open_pause(self.pause)
            journal = Journal(Path(place) / "journal.jsonl")
            result = measure_session(session, TARGET, items, protocol, journal, reference=reference)
            return result, session.now_s


def network(rng: np.random.Generator) -> dict[str, Any]:
    """Return a chain of four convolutions of random width on a map of random size: 0.08 to 4.4 ms on this device."""
    side, before = int(rng.integers(8, 41)), int(rng.integers(8, 49))
    layers = [{"name": "input", "op": "input", "inputs": [], "shape": [before, side, side]}]
    total = 0
    for number in range(4):
        after = int(rng.integers(8, 49))
        macs, source = 9 * before * after * side * side, layers[-1]["name"]
        conv = {"name": f"conv{number}", "op": "conv", "inputs": [source], "shape": [after, side, side], "macs": macs}
        layers.append({**conv, "weights": 9 * before * after + after})
        layers.append(
            {"name": f"relu{number}", "op": "relu", "inputs": [f"conv{number}"], "shape": [after, side, side]}
        )
        total, before = total + macs, after
    return {"macs": total, "inputs": [], "outputs": [], "layers": layers}


def planted(kind: str, seed: int, ends_s: float, truth: NDArray[np.float64], spell_s: float = 0.0) -> Fault:
    """Return a fault of a kind, its size and moment drawn from the seed.

    Args:
        kind: One of :data:`WORDS`.
        seed: Seed of the session.
        ends_s: When a calm session ends, virtual seconds.
        truth: Latencies of the networks, milliseconds.
        spell_s: Load between two pauses, virtual seconds.
    """
    rng = np.random.default_rng([seed, sorted(WORDS).index(kind)])
    middle = float(np.median(truth))
    factor = float(rng.uniform(1.18, 1.5))
    made: dict[str, Callable[[], Fault]] = {
        "calm": dict,
        "ramp": lambda: {"ramp": {"from_s": 0.0, "to_s": ends_s, "factor": factor}},
        "step": lambda: {"step": {"at_s": float(rng.uniform(0.1, 0.9)) * ends_s, "factor": factor}},
        "spikes": lambda: {"spikes": {"probability": float(rng.uniform(0.04, 0.15)), "ms": float(rng.uniform(3, 8))}},
        "modes": lambda: {
            "modes": {
                "factor": factor,
                "dwell_s": float(np.exp(rng.uniform(np.log(0.002), np.log(0.1)))) * ends_s,
                "share": float(rng.uniform(0.3, 0.7)),
            }
        },
        "tick": lambda: {"tick_ms": float(rng.uniform(0.03, 0.15)) * middle},
        "throttle": lambda: {
            "throttle": {"factor": factor, "after_s": float(rng.uniform(0.3, 0.6)) * spell_s, "recovery_s": 0.05}
        },
        "cold": lambda: {"cold": {"factor": float(rng.uniform(1.5, 3.0)), "runs": float(rng.uniform(10, 60))}},
    }
    return made[kind]()

"""Sessions of the simulated device with planted disturbances, and networks with planted faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas.backends.simulated import SimulatedBackend
from hwnas.devices.models import BurstSpec, LoadedModel, ModelFiles
from hwnas.devices.session import Session
from hwnas.latency.measurement import MeasureItem
from hwnas.latency.protocol import Protocol
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Target, find_device
from hwnas_profilers.runtimes.base import LoadSpec
from hwnas_profilers.runtimes.simulated import base_latency_ms

TARGET = Target.parse("simulated-reference/simulated-fp32")
QUICK = Protocol(
    rounds=8, burst=BurstSpec(target_ms=2.0, min_runs=5, max_runs=50, discard=1), canary_period=6, resamples=100
)


class DisturbedSession(Session):
    """The real session and worker of the simulated device; every model runs under the given disturbances."""

    def __init__(self, **disturbances: Any) -> None:
        super().__init__(find_device("simulated-reference"), deadline_s=30.0)
        self.disturbances = disturbances

    def load(self, files: ModelFiles, target: Target, *, options: Mapping[str, Any] | None = None) -> LoadedModel:
        return super().load(files, target, options={**self.disturbances, **(options or {})})


def truth_ms(space: MobileNetV3Space, encoding: Any, folder: Path) -> float:
    """The undisturbed latency that the simulated runtime works from."""
    files = SimulatedBackend().build_network(space.graph(space.decode(encoding)), "fp32", folder)
    return base_latency_ms(json.loads(files.main.read_text()), LoadSpec("fp32"))


def faulty(item: MeasureItem, **faults: Any) -> MeasureItem:
    """The same network with faults written into its file."""

    def build() -> ModelFiles:
        files = item.obtain()
        described = json.loads(files.main.read_text())
        files.main.write_text(json.dumps({**described, "faults": faults}))
        return files

    return MeasureItem(item.key, build, item.release)

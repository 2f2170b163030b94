"""A small space, a made-up device with a known truth, and tables measured on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.latency.features import PHYSICAL, block_features
from hwnas.latency.protocol import Protocol
from hwnas.latency.rows import LatencyRow
from hwnas.latency.table import LatencyTable, TableHeader
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.targets import Fingerprint, Target

FINGERPRINT = Fingerprint({"cpu_model": "made-up", "runtime": "1.0", "precision": "fp32"}, {"kernel": "6.1"})
CANARIES = {"canary-small-1": 0.1, "canary-large-1": 2.0}
SMALL_STAGES = [
    {"channels": 16, "stride": 2, "activation": "relu", "se": False},
    {"channels": 32, "stride": 2, "activation": "hswish", "se": True},
]
RATES = np.array([2e-7, 4e-7, 3e-7, 4e-7, 6e-6, 3e-6, 3e-6, 1e-7, 4e-8, 2e-7, 4e-3, 3e-3, 5e-3, 0.0, 0.0])
"""Milliseconds per unit of each physical feature: an invented device."""


def small_space() -> MobileNetV3Space:
    return MobileNetV3Space(
        classes=10,
        resolutions=(32, 48),
        widths=(1.0,),
        expands=(3, 6),
        depths=(1, 2, 3),
        stages=SMALL_STAGES,
        stem_channels=8,
        first_channels=8,
        head_channels=(64, 64),
    )


def block_times(
    space: MobileNetV3Space, architecture: MobileNetV3Architecture, rates: NDArray[np.float64] = RATES
) -> dict[str, float]:
    """The truth: linear in the features, slower by a cache effect for blocks with many weights."""
    layers: dict[str, list[object]] = {}
    for layer in space.graph(architecture).layers:
        layers.setdefault(layer.block, []).append(layer)
    times = {}
    for name, members in layers.items():
        features = block_features(tuple(members), "fp32")  # type: ignore[arg-type]
        times[name] = float(features @ rates) * (1.0 + 0.3 * np.tanh(features[PHYSICAL.index("weight_bytes")] / 2e5))
    return times


def make_rows(
    space: MobileNetV3Space,
    X: NDArray[np.int64],
    split: str,
    noise: float,
    seed: int,
    with_kernels: bool = True,
    rates: NDArray[np.float64] = RATES,
) -> list[LatencyRow]:
    rng = np.random.default_rng(seed)
    rows = []
    for encoding in X:
        times = block_times(space, space.decode(encoding), rates)
        value = float((0.02 + sum(times.values())) * np.exp(noise * rng.standard_normal()))
        kernels = {name: ms * float(np.exp(0.05 * rng.standard_normal())) for name, ms in times.items()}
        rows.append(
            LatencyRow(
                key=space.id_of(encoding),
                encoding=tuple(int(gene) for gene in encoding),
                split=split,  # type: ignore[arg-type]
                identity=FINGERPRINT.identity_digest,
                context=FINGERPRINT.context_digest,
                model_digest="ab" * 32,
                value=value,
                low=value * 0.99,
                high=value * 1.01,
                raw_value=value,
                corrected_value=value,
                floor=value * 0.95,
                mad=value * 0.01,
                percentiles={
                    "p1": value * 0.95,
                    "p10": value * 0.98,
                    "p50": value,
                    "p90": value * 1.1,
                    "p99": value * 1.5,
                },
                count=100,
                rounds=10,
                grade="A",
                halves=(value * 0.995, value * 1.005),
                load_ms=10.0,
                kernels={**kernels, "": 0.02} if with_kernels else {},
            )
        )
    return rows


def make_table(space: MobileNetV3Space, rows: list[LatencyRow]) -> LatencyTable:
    header = TableHeader(
        target=Target.parse("local/onnxruntime-fp32"),
        fingerprint=FINGERPRINT,
        space=space.name,
        settings=space.settings(),
        space_digest=space.digest,
        protocol=Protocol().as_dict(),
        canaries=CANARIES,
        versions={"hwnas": "0"},
    )
    return LatencyTable(header, tuple(rows))

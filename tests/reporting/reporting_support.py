"""A run folder as the verbs leave it, small but with every file the report reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hwnas.artifacts.manifest import Manifest, write_manifest
from hwnas.config import RunConfig
from hwnas.files import Journal, write_json
from hwnas.spaces.mobilenetv3 import MobileNetV3Space

TARGETS = ("local/onnxruntime-fp32-t1-b1", "local/onnxruntime-int8-t1-b1")
BUDGETS = (1.4, 0.9)


def manifest_for(name: str, target: str, value: float, budget: float, verdict: str, **changes: Any) -> Manifest:
    precision = target.split("-")[1]
    values: dict[str, Any] = {
        "name": name,
        "created": "2026-01-05T10:00:00Z",
        "request": "a" * 64,
        "tools": {"hwnas": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1"},
        "target": target,
        "runtime": {
            "name": "onnxruntime",
            "version": "1.31.1",
            "provider": "CPUExecutionProvider",
            "device": "CPU",
            "precision": precision,
        },
        "fingerprint": {"identity": {"cpu": "some CPU"}, "context": {"kernel": "6.1"}},
        "files": [{"path": "model.onnx", "role": "model", "sha256": "b" * 64, "size_bytes": 812_345}],
        "inputs": [{"name": "input", "shape": [1, 1, 28, 28], "dtype": "float32", "layout": "NCHW"}],
        "outputs": [{"name": "output", "shape": [1, 10], "dtype": "float32", "layout": "NC"}],
        "predicted": {"value": value * 0.97, "low": value * 0.9, "high": value * 1.05, "coverage": 0.9},
        "measured": {
            "value": value,
            "low": value * 0.985,
            "high": value * 1.012,
            "unit": "ms",
            "statistic": "p50",
            "percentiles": {"p50": value, "p99": value * 1.4},
            "grade": "A",
            "disturbed": [],
            "rounds": 30,
            "count": 900,
        },
        "parity": {
            "output": {
                "relative_l2": 2e-6,
                "max_abs": 1e-5,
                "cosine": 1.0,
                "argmax_agreement": 1.0,
                "tolerance": 1e-4,
                "images": 32,
            }
        },
        "accuracy": {
            "metric": "top1",
            "data": "fashion-mnist",
            "data_digest": "c" * 64,
            "validation": 0.912,
            "test": 0.907,
            "gate": 0.91,
            "fp32_gate": 0.912,
            "test_images": 10_000,
        },
        "budgets": [{"statistic": "p50", "max_ms": budget, "verdict": verdict, "tries": 1}],
        "licence": {"weights": "own training, no third-party weights"},
    }
    return Manifest.model_validate(values | changes)


def _archive(folder: Path, rng: np.random.Generator) -> None:
    space = MobileNetV3Space(classes=10)
    journal = Journal(folder / "archive.jsonl")
    for generation in range(6):
        for row in space.sample(rng, 14 if generation else 40):
            size = float(row[2:].sum()) / float(space.upper[2:].sum())
            fp32 = 0.45 + 2.2 * size + float(rng.normal(0, 0.05))
            costs = [fp32, 0.62 * fp32]
            accuracy = 0.86 + 0.07 * (1 - np.exp(-3 * size)) + 0.004 * generation + float(rng.normal(0, 0.006))
            upper = [1.06 * value for value in costs]
            journal.append(
                {
                    "encoding": row.tolist(),
                    "id": space.id_of(row),
                    "accuracy": accuracy,
                    "costs": costs,
                    "upper": upper,
                    "G": [value / limit - 1 for value, limit in zip(upper, BUDGETS, strict=True)],
                    "generation": generation,
                    "version": 1 if generation > 2 else 0,
                }
            )


def _evaluation(scale: float, rng: np.random.Generator) -> dict[str, Any]:
    points = []
    for index in range(90):
        measured = scale * float(rng.uniform(0.5, 2.6))
        held_out = index >= 70
        predicted = measured * float(1 + rng.normal(0, 0.035 if held_out else 0.012))
        points.append(
            {
                "id": f"n{index}",
                "measured": measured,
                "predicted": predicted,
                "low": 0.93 * predicted,
                "high": 1.07 * predicted,
                "held_out": held_out,
            }
        )
    return {
        "metrics": {"mape": 0.028, "within_5": 0.85, "within_10": 1.0, "spearman": 0.991, "coverage": 0.95},
        "baselines": {
            "macs": {"mape": 0.141, "spearman": 0.93, "within_5": 0.2, "within_10": 0.45},
            "block_lut": {"mape": 0.063, "spearman": 0.98, "within_5": 0.45, "within_10": 0.8},
        },
        "points": points,
    }


def _tables(folder: Path, rng: np.random.Generator) -> None:
    for target, scale in zip(TARGETS, (1.0, 0.62), strict=True):
        tables = folder / "tables" / target.replace("/", "--")
        write_json(tables / "evaluation.json", _evaluation(scale, rng))
        journal = Journal(tables / "table.jsonl")
        journal.append({"version": 1, "target": target})
        for index in range(90):
            # int8 is the slower one on this machine
            value = (1.0 + index / 30.0) * (1.3 if "int8" in target else 1.0) * float(np.exp(rng.normal(0.0, 0.02)))
            journal.append({"key": f"n{index}", "encoding": [index], "value": value})


def _artifact(folder: Path, identifier: str, manifest: Manifest, rng: np.random.Generator) -> None:
    artifact = folder / "artifacts" / identifier
    artifact.mkdir(parents=True)
    write_manifest(artifact, manifest)
    names = ["stem", *(f"stages.{stage}.{block}" for stage in range(4) for block in range(3)), "head", "overhead"]
    costs = rng.dirichlet(np.ones(len(names)) * 3) * manifest.measured.value
    blocks = [{"name": name, "ms": float(ms)} for name, ms in zip(names, costs, strict=True)]
    write_json(artifact / "blocks.json", {"blocks": blocks})


def _search(folder: Path) -> None:
    """Write which columns costs and limits have, and the front of the second target."""
    limits = [[target, budget, "ms"] for target, budget in zip(TARGETS, BUDGETS, strict=True)]
    problem = {"costs": list(TARGETS), "targets": list(TARGETS), "limits": limits}
    write_json(folder / "search_state.json", {"format": 1, "identity": {"problem": problem}})
    lines = (folder / "archive.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    newest = [r for r in records if r["version"] == 1 and r["G"][1] <= 0][:3]
    members = [
        {
            "id": record["id"],
            "validation_accuracy": record["accuracy"],
            "latency": {"value": record["costs"][1], "low": 0.95 * record["costs"][1], "high": record["upper"][1]},
            "parameters": 203_111,
            "macs": 4_321_000,
            "peak_memory_bytes": 98_304,
            "size_bytes": 812_444,
            "margin": -record["G"][1],
            "high_trade_off": index == 1,
        }
        for index, record in enumerate(newest)
    ]
    write_json(folder / "front.json", {"format": 1, "targets": {TARGETS[1]: {"unit": "ms", "members": members}}})


def build_run(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    config = RunConfig.model_validate(
        {
            "name": "fashion-demo",
            "targets": [
                {"target": target, "budget": {"max_ms": budget}}
                for target, budget in zip(TARGETS, BUDGETS, strict=True)
            ],
            "data": {"source": "fashion-mnist"},
        }
    )
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    _archive(folder, rng)
    _search(folder)
    _tables(folder, rng)
    history = Journal(folder / "search_history.jsonl")
    for iteration in range(7):
        volume = 0.61 + 0.12 * (1 - 0.5**iteration)
        tau = None if iteration == 0 else 0.6 + 0.04 * iteration
        history.append({"iteration": iteration, "hypervolume": volume, "tau": tau, "evaluations": 40 + 14 * iteration})
    write_json(
        folder / "supernet" / "training.json",
        {
            "complete": True,
            "steps": 900,
            "steps_total": 900,
            "seconds": 1260.0,
            "phases": [
                {"name": "full", "steps": 300},
                {"name": "kernel", "steps": 300},
                {"name": "depth", "steps": 300},
            ],
            "history": [[step, 0.5 + 1.8 * float(np.exp(-step / 200))] for step in range(0, 901, 10)],
            "accuracies": {"largest": 0.921, "smallest": 0.883, "random-0": 0.902},
            "note": "",
        },
    )
    _artifact(folder, "w1-fp32", manifest_for("w1-fp32", TARGETS[0], 1.31, BUDGETS[0], "kept"), rng)
    broken = {"parity": {}, "accuracy": None, "predicted": None}
    _artifact(folder, "w1-int8", manifest_for("w1-int8", TARGETS[1], 0.84, BUDGETS[1], "kept"), rng)
    _artifact(folder, "w2-int8", manifest_for("w2-int8", TARGETS[1], 0.98, BUDGETS[1], "broken", **broken), rng)
    steps = Journal(folder / "steps.jsonl")
    for step, seconds in (("profile", 612.4), ("fit", 3.2), ("train", 1260.0), ("search", 845.5), ("export", 41.0)):
        steps.append({"step": step, "seconds": seconds, "ended": 1_767_600_000})
    (folder / "winners" / "w1").mkdir(parents=True)
    (folder / "winners" / "w1" / "winner.json").write_text(json.dumps({"id": "w1"}))
    return folder

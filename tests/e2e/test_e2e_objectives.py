from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e_support import ROOT, SIMULATED, Hwnas, refused

FP32, INT8 = "simulated-reference/simulated-fp32", "simulated-reference/simulated-int8"
SEARCH: dict[str, Any] = {
    **SIMULATED["search"],  # type: ignore[dict-item]
    "initial": 8,
    "archive": 8,
    "candidates": 4,
    "objectives": ["accuracy", "latency", "macs", "size_bytes"],
    "budgets": {"parameters": "-20%", "peak_memory_bytes": 20_000},
}


def run_file(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "run.yaml"
    targets = [{"target": FP32}, {"target": INT8}]
    path.write_text(yaml.safe_dump({**SIMULATED, "targets": targets, "search": SEARCH, **changes}))
    return path


def counted(member: dict[str, Any], width: int) -> bool:
    """Whether a member of a front keeps the budgets of :data:`SEARCH`, and its bytes are those of the precision."""
    smaller = 0 < member["size_bytes"] <= 4 * member["parameters"]
    return smaller and member["peak_memory_bytes"] <= 20_000 and member["peak_memory_bytes"] % width == 0


def test_a_search_of_four_objectives_prints_and_keeps_the_front_of_every_target(hwnas: Hwnas, tmp_path: Path) -> None:
    path = run_file(tmp_path)
    printed = hwnas("search", path, "--runs", tmp_path / "runs")
    assert printed.returncode == 0, printed.stderr
    result = hwnas("search", path, "--runs", tmp_path / "runs", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    kept = json.loads((tmp_path / "runs" / "sim" / "front.json").read_text())
    assert {key: found[key] for key in kept} == kept
    assert list(kept["targets"]) == [f"{FP32}-t1-b1", f"{INT8}-t1-b1"]
    for (name, target), precision in zip(kept["targets"].items(), ("fp32", "int8"), strict=True):
        assert target["fingerprint"]["identity"]["precision"] == precision
        assert "hwnas" in target["versions"]
        assert set(target["budgets"]) == {"parameters", f"peak_memory_bytes-{precision}"}
        members = target["members"]
        assert members
        assert all(counted(member, 4 if precision == "fp32" else 1) for member in members)
        assert all(0 <= member["margin"] == min(member["margins"].values()) for member in members)
        assert all(m["latency"]["low"] <= m["latency"]["value"] <= m["latency"]["high"] for m in members)
        assert sum(member["high_trade_off"] for member in members) == min(4, len(members))
        limit = target["budgets"]["parameters"]["maximum"]
        assert all(member["parameters"] <= limit for member in members)
        assert all(member["id"] in printed.stdout for member in members), name
    union = {member["id"] for member in kept["union"]}
    assert union == {member["id"] for target in kept["targets"].values() for member in target["members"]}
    assert sum(member["high_trade_off"] for member in kept["union"]) == min(4, len(union))
    assert found["candidates"]
    for word in ("margin", "peak memory", "high trade-off", "front.json"):
        assert word in printed.stdout


def test_latency_need_not_be_an_objective_and_evolution_is_a_strategy(hwnas: Hwnas, tmp_path: Path) -> None:
    search = {**SEARCH, "objectives": ["accuracy", "parameters"], "strategy": "evolution", "budgets": {"macs": "-20%"}}
    targets = [{"target": FP32, "budget": {"relative": "-1%"}}]
    path = run_file(tmp_path, name="plain", search=search, targets=targets)
    result = hwnas("search", path, "--runs", tmp_path / "runs", "--json")
    assert result.returncode == 0, result.stderr
    (target,) = json.loads(result.stdout)["targets"].values()
    assert set(target["budgets"]) == {f"{FP32}-t1-b1", "macs"}
    members = target["members"]
    accuracies = [member["validation_accuracy"] for member in members]
    parameters = [member["parameters"] for member in members]
    assert accuracies == sorted(accuracies, reverse=True)
    assert parameters == sorted(parameters, reverse=True), "a front of accuracy and parameters alone"
    assert all(set(m["margins"]) == set(target["budgets"]) and m["margin"] >= 0 for m in members)


def test_a_counted_budget_that_nothing_keeps_is_refused_before_anything_is_profiled(
    hwnas: Hwnas, tmp_path: Path
) -> None:
    path = run_file(tmp_path, search={**SEARCH, "budgets": {"size_bytes": 1000}})
    for verb in ("check", "search"):
        result = hwnas(verb, path, "--runs", tmp_path / "runs")
        refused(result, "size_bytes-fp32", "search.budgets.size_bytes", "% above it", "nearest budget that can be kept")
    assert not (tmp_path / "runs" / "sim" / "tables").exists()
    # The run folder was claimed, but until it searches, its budgets may be mended.
    nearest = result.stderr.split("can be kept is ")[1].split()[0]
    mended = run_file(tmp_path, search={**SEARCH, "budgets": {"size_bytes": 2 * float(nearest)}})
    assert hwnas("search", mended, "--runs", tmp_path / "runs", "--json").returncode == 0


def test_check_shows_counted_budgets_beside_measured_ones(hwnas: Hwnas, tmp_path: Path) -> None:
    result = hwnas("check", run_file(tmp_path), "--runs", tmp_path / "runs", "--json")
    assert result.returncode == 0, result.stderr
    rows = {(row["cost"], row["of"]): row for row in json.loads(result.stdout)["budgets"]}
    assert rows["parameters", "all targets"]["keeps"] == {"smallest": True, "median": True, "largest": False}
    assert rows["macs", "all targets"]["verdict"] == "only an objective"
    fp32, int8 = (rows[f"peak_memory_bytes-{p}", f"{t}-t1-b1"] for p, t in (("fp32", FP32), ("int8", INT8)))
    assert fp32["largest"] == 4 * int8["largest"]
    assert fp32["keeps"]["largest"] is False
    assert int8["keeps"]["largest"] is True


@pytest.mark.timeout(600)
def test_a_run_of_five_objectives_ends_in_an_artifact(hwnas: Hwnas, home: Path) -> None:
    objectives = "[accuracy, latency, macs, size_bytes, peak_memory_bytes]"
    settings = {
        "name": "five",
        "search.objectives": objectives,
        "search.budgets.size_bytes": "-20%",
        "targets": "[{target: local/onnxruntime-fp32, budget: {max_ms: 5}}]",
        "profile.networks": "16",
        "profile.held_out": "4",
        "finetune.epochs": "2",
        "train.epochs": "4",
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done: subprocess.CompletedProcess[str] = hwnas(
        "run", ROOT / "examples" / "tiny.yaml", *options, "--json", "--allow-broken"
    )
    assert done.returncode == 0, done.stderr
    (artifact,) = json.loads(done.stdout)["artifacts"]
    run = home / "runs" / "five"
    (target,) = json.loads((run / "front.json").read_text())["targets"].values()
    assert len(target["members"]) > 1
    assert all(m["size_bytes"] <= target["budgets"]["size_bytes-fp32"]["maximum"] for m in target["members"])
    picked = {entry["identifier"] for entry in json.loads((run / "winners.json").read_text())}
    assert {Path(artifact["folder"]).name.split("--")[-1]} <= picked
    weights = sum(file["size_bytes"] for file in artifact["manifest"]["files"] if file["path"].endswith(".onnx"))
    assert weights < 1.3 * target["budgets"]["size_bytes-fp32"]["maximum"]
    assert "High trade-off" in (run / "report.html").read_text()

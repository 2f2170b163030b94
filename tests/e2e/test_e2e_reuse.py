from __future__ import annotations

import json
from pathlib import Path

import yaml
from e2e_support import SIMULATED, Hwnas


def test_a_run_takes_the_table_that_profile_left(hwnas: Hwnas, tmp_path: Path) -> None:
    path, target = tmp_path / "run.yaml", "simulated-reference/simulated-fp32"
    path.write_text(yaml.safe_dump({**SIMULATED, "name": "reuse"}))
    made = hwnas("profile", "--target", target, "--space", path, "--json")
    assert made.returncode == 0, made.stderr
    searched = hwnas("search", path, "--runs", tmp_path / "runs", "--json")
    assert searched.returncode == 0, searched.stderr
    stored = Path(json.loads(made.stdout)["folder"]) / "table.jsonl"
    used = tmp_path / "runs" / "reuse" / "tables" / "simulated-reference--simulated-fp32-t1-b1" / "table.jsonl"
    assert used.read_bytes() == stored.read_bytes()
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "runs" / "reuse" / "steps.jsonl").read_text().splitlines()
    ]
    assert "train" in steps
    assert f"profile {target}-t1-b1" not in steps
    predicted = hwnas("predict", "largest", "--target", target, "--space", path, "--json")
    assert predicted.returncode == 0, predicted.stderr
    (row,) = json.loads(predicted.stdout)
    assert row["low"] < row["value"] < row["high"]


def test_a_new_target_is_made_from_another_ones_table(hwnas: Hwnas, tmp_path: Path) -> None:
    path, target = tmp_path / "space.yaml", "simulated-reference/simulated-int8"
    path.write_text(yaml.safe_dump({**SIMULATED, "name": "transfer", "seed": 5}))
    sizes = ("--networks", "10", "--held-out", "6", "--json")
    alone = hwnas("tables", "transfer", "--target", target, "--space", path, "--from", tmp_path, *sizes)
    assert alone.returncode == 2
    assert "does not exist. Make it: hwnas profile" in " ".join(alone.stderr.split())
    clash = hwnas("tables", "transfer", "--target", target, "--space", path, "--set", "profile.networks=14")
    assert clash.returncode == 2
    assert "--networks and --held-out" in " ".join(clash.stderr.split())
    source = tmp_path / "source"
    made = hwnas(
        "profile", "--target", "simulated-reference/simulated-fp32", "--space", path, "--output", source, "--json"
    )
    assert made.returncode == 0, made.stderr
    output = tmp_path / "made"
    transfer = ("tables", "transfer", "--target", target, "--space", path, "--from", source, "--output", output, *sizes)
    first, second = hwnas(*transfer), hwnas(*transfer)
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    result = json.loads(first.stdout)
    assert result["networks"] == 16
    assert result["scores"]["model"]["mape"] < 0.05
    assert set(result["curve"]) == {"5", "10"}
    assert json.loads(second.stdout)["scores"] == result["scores"]
    predicted = hwnas("predict", "smallest", "largest", "--target", target, "--model", output, "--json")
    assert predicted.returncode == 0, predicted.stderr
    smallest, largest = json.loads(predicted.stdout)
    assert smallest["value"] < largest["low"]

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml
from test_e2e_bad_input import SIMULATED

Hwnas = Callable[..., subprocess.CompletedProcess[str]]


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

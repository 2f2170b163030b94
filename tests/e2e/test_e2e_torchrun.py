"""``torchrun -m hwnas train``: one answer, one message, whatever the number of processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from e2e_support import SIMULATED, environment

from hwnas.reporting.html import write_report


def torchrun(home: Path, processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*started, "-m", "hwnas", *map(str, arguments)],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def run_file(folder: Path, **train: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**SIMULATED, "train": {**SIMULATED["train"], **train}}))
    return path


def test_two_processes_train_one_run(home: Path, tmp_path: Path) -> None:
    result = torchrun(home, 2, "train", run_file(tmp_path), "--runs", tmp_path / "runs", "--json")
    assert result.returncode == 0, result.stderr
    rows = {row["what"]: row["value"] for row in json.loads(result.stdout)["rows"]}
    written = json.loads((tmp_path / "runs" / "sim" / "supernet" / "training.json").read_text())
    assert rows["steps"] == f"{written['steps']} of {written['steps_total']}"
    assert written["complete"]
    for phase in written["phases"]:
        for name, value in phase["accuracies"].items():
            assert rows[f"after phase {phase['name']}, {name}"] == value
    page = write_report(tmp_path / "runs" / "sim").read_text()
    assert "After each phase" in page
    assert all(f'<th scope="row">{phase["name"]}</th>' in page for phase in written["phases"])
    steps = [json.loads(line) for line in (tmp_path / "runs" / "sim" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == ["train"]


def test_a_batch_of_fewer_images_than_processes_is_refused_once(home: Path, tmp_path: Path) -> None:
    result = torchrun(home, 3, "train", run_file(tmp_path, batch_size=2), "--runs", tmp_path / "runs")
    assert result.returncode != 0
    assert result.stderr.count("hwnas: a batch of 2 images cannot be shared by 3 processes") == 1
    assert result.stderr.count("Traceback") == 1, "that of torchrun itself"


def test_other_verbs_refuse_several_processes(home: Path, tmp_path: Path) -> None:
    result = torchrun(home, 2, "search", run_file(tmp_path), "--runs", tmp_path / "runs")
    assert result.returncode != 0
    assert "torchrun is for hwnas train" in result.stderr
    assert not (tmp_path / "runs").exists()

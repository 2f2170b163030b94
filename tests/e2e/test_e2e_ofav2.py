"""A space with dense skips, parallel blocks and early exits, trained, searched, fine-tuned and exported by the command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hwnas.spaces.mobilenetv3_codes import BRANCH_SETS, spell_branches

Hwnas = Callable[..., subprocess.CompletedProcess[str]]
EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-ofav2.yaml"


@pytest.mark.timeout(300)
def test_everything_of_ofav2_goes_through_the_loop(hwnas: Hwnas, home: Path) -> None:
    done = hwnas("run", EXAMPLE, "--json", "--allow-broken")
    assert done.returncode == 0, done.stderr
    (artifact,) = json.loads(done.stdout)["artifacts"]
    manifest = artifact["manifest"]
    assert manifest["space"]["settings"]["blocks"] == "dense-parallel"
    assert manifest["space"]["settings"]["exits"] == "early"
    stages = manifest["architecture"]["stages"]
    assert len(stages) in (1, 2)
    sets = {spell_branches(branches) for branches in BRANCH_SETS}
    assert all(len(stage["branches"]) == len(stage["kernels"]) and set(stage["branches"]) <= sets for stage in stages)
    assert manifest["accuracy"]["test"] > 0.6
    assert [budget["verdict"] for budget in manifest["budgets"]] == ["kept"]
    run = home / "runs" / "tiny-ofav2"
    training = json.loads((run / "supernet" / "training.json").read_text())
    assert [phase["name"] for phase in training["phases"]] == ["full", "kernel", "level", "exit", "depth", "expand"]
    encodings = [json.loads(line)["encoding"] for line in (run / "archive.jsonl").read_text().splitlines()]
    assert {encoding[2] for encoding in encodings} == {0, 1}, "both exits were searched"
    verified = hwnas("verify", home / artifact["folder"])
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("space.settings.exits=single", "train.phases[exit].exit=[1, 2]: this space has no such choice"),
        ("space.settings.depths=[1, 2]", "raise depths or say blocks: parallel"),
        ("train.phases.3.exit=[1, 2, 3]", "train.phases[exit].exit=[1, 2, 3] must be the last one or more"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_starts(
    hwnas: Hwnas, tmp_path: Path, change: str, named: str
) -> None:
    done = hwnas("run", EXAMPLE, "--set", change, "--runs", tmp_path / "runs")
    assert done.returncode == 2, done.stdout + done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()

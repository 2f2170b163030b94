"""A space with dense skips, parallel blocks and early exits, trained, searched, fine-tuned and exported by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hwnas.spaces.mobilenetv3 import MobileNetV3Space
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


ENSEMBLE = {
    "name": "ensemble",
    "data": {"source": "digits", "image_size": 12, "gate": 0.15},
    "space": {
        "settings": {
            "exits": "early",
            "resolutions": [12],
            "widths": [1.0],
            "kernels": [3],
            "expands": [2, 3],
            "depths": [1, 2],
            "stem_stride": 1,
            "stem_channels": 8,
            "first_channels": 8,
            "stages": [
                {"channels": 8, "stride": 2, "activation": "relu", "se": False},
                {"channels": 32, "stride": 2, "activation": "hswish", "se": True},
            ],
            "head_channels": [96, 96],
        }
    },
    "targets": [
        {"target": "local/onnxruntime-fp32", "budget": {"max_ms": 5}},
        {"target": "local/openvino-int8", "budget": {"max_ms": 5}},
    ],
    "profile": {"networks": 14, "held_out": 4, "rounds": 4},
    "train": {"epochs": 10, "batch_size": 32, "learning_rate": 0.1, "bn_images": 128},
    "search": {
        "initial": 8, "oversample": 2, "archive": 8, "iterations": 1, "candidates": 3, "adapt_epochs": 0,
        "inner_generations": 8,
    },
    "finetune": {"epochs": 3, "patience": 3, "learning_rate": 0.003, "exits": "ensemble", "exit_weights": "mixed"},
    "export": {"calibration_images": 32, "rounds": 10},
}  # fmt: skip
"""A space whose later exit is clearly better, so that winners have two."""


@pytest.mark.timeout(600)
def test_an_ensemble_of_exits_is_exported_measured_and_verified(hwnas: Hwnas, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "ensemble.yaml"
    path.write_text(yaml.safe_dump(ENSEMBLE))
    done = hwnas("run", path, "--json", "--allow-broken")
    assert done.returncode == 0, done.stderr
    artifacts = json.loads(done.stdout)["artifacts"]
    assert {artifact["manifest"]["runtime"]["name"] for artifact in artifacts} == {"onnxruntime", "openvino"}
    space = MobileNetV3Space(**artifacts[0]["manifest"]["space"]["settings"])
    for artifact in artifacts:
        manifest, folder = artifact["manifest"], home / artifact["folder"]
        architecture = space.from_dict(manifest["architecture"])
        assert architecture.exits == (1, 2)
        assert [entry["exit"] for entry in manifest["exits"]] == [1, 2]
        assert [entry["weight"] for entry in manifest["exits"]] == pytest.approx([1 / 3, 2 / 3])
        graph, alone = space.graph(architecture), space.graph(space.with_exits(architecture, (2,)))
        assert (manifest["parameters"], manifest["macs"]) == (graph.parameters, graph.macs)
        assert manifest["macs"] > alone.macs
        assert manifest["predicted"] is None, "the latency model knows networks of one exit"
        assert manifest["measured"]["low"] <= manifest["measured"]["value"] <= manifest["measured"]["high"]
        assert [budget["verdict"] for budget in manifest["budgets"]] == ["kept"]
        assert manifest["accuracy"]["test"] > 0.8
        blocks = [block["name"] for block in json.loads((folder / "blocks.json").read_text())["blocks"]]
        assert {"exits.0", "exits.1"} <= set(blocks)
        card = (folder / "README.md").read_text()
        assert "weighted sum of its exits after the stages 1 (weight 0.3333), 2 (weight 0.6667)" in card
        assert f"{graph.parameters} parameters, {graph.macs} multiply-accumulates" in card
        alone_run = subprocess.run([sys.executable, "verify.py"], cwd=folder, capture_output=True, text=True)
        assert alone_run.returncode == 0, alone_run.stdout + alone_run.stderr
        verified = hwnas("verify", folder)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    (winner,) = {Path(artifact["folder"]).name.split("--")[-1] for artifact in artifacts}
    folder = home / "runs" / "ensemble" / "winners" / winner
    assert json.loads((folder / "winner.json").read_text())["exits"] == artifacts[0]["manifest"]["exits"]
    other = hwnas("export", folder, "--target", "local/onnxruntime-int8", "--output", tmp_path / "other", "--json")
    assert other.returncode == 0, other.stderr
    (manifest_path,) = (tmp_path / "other").glob("*/manifest.json")
    assert json.loads(manifest_path.read_text())["exits"] == artifacts[0]["manifest"]["exits"]
    assert hwnas("run", path, "--json", "--allow-broken").stdout == done.stdout, "a finished run is read back"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("finetune.exit_pruning=true", "finetune.exit_pruning is for finetune.exits: ensemble"),
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

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from e2e_support import SIMULATED, SPACE, Hwnas, refused


def run_file(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**SIMULATED, **changes}))
    return path


def test_a_budget_that_even_the_smallest_breaks(hwnas: Hwnas, tmp_path: Path) -> None:
    targets = [{"target": "simulated-reference/simulated-fp32", "budget": {"max_ms": 1e-6}}]
    result = hwnas("search", run_file(tmp_path, targets=targets), "--runs", tmp_path / "runs")
    refused(result, "simulated-reference/simulated-fp32", "% above it", "nearest budget that can be kept is")
    (run_folder,) = (tmp_path / "runs").iterdir()
    assert not (run_folder / "supernet").exists(), "nothing is trained for a budget that cannot be kept"
    nearest = float(result.stderr.split("nearest budget that can be kept is ")[1].split()[0])
    table = (next((run_folder / "tables").iterdir()) / "table.jsonl").read_bytes()
    targets[0]["budget"] = {"max_ms": 2 * nearest}
    again = hwnas("search", run_file(tmp_path, targets=targets), "--runs", tmp_path / "runs", "--json")
    assert again.returncode == 0, again.stderr
    assert (next((run_folder / "tables").iterdir()) / "table.jsonl").read_bytes() == table
    targets[0]["budget"] = {"max_ms": 3 * nearest}
    refused(hwnas("search", run_file(tmp_path, targets=targets), "--runs", tmp_path / "runs"), "another configuration")


def test_unknown_key(hwnas: Hwnas, tmp_path: Path) -> None:
    refused(hwnas("run", run_file(tmp_path, serch={})), "unknown key 'serch'; did you mean 'search'?")


def test_unknown_runtime_device_and_strategy(hwnas: Hwnas, tmp_path: Path) -> None:
    refused(
        hwnas("run", run_file(tmp_path, targets=[{"target": "local/onnxruntme-fp32"}])), "Did you mean 'onnxruntime'"
    )
    refused(hwnas("run", run_file(tmp_path, targets=[{"target": "pi9/onnxruntime-fp32"}])), "hwnas devices add pi9")
    refused(hwnas("run", run_file(tmp_path, search={"strategy": "natv3"})), "Did you mean 'natv2'")
    assert not (tmp_path / "runs").exists()


def test_mistakes_are_found_before_the_run_folder_is_claimed(hwnas: Hwnas, tmp_path: Path) -> None:
    refused(hwnas("run", run_file(tmp_path, search={"metric": "nope:fn"})), "nope:fn")
    refused(hwnas("run", run_file(tmp_path, search={"objectives": ["accuracy", "speed"]})), "speed")
    refused(hwnas("run", run_file(tmp_path, search={"objectives": ["latency"]})), "accuracy is missing")
    refused(hwnas("export", run_file(tmp_path), "--max-ms", "3"), "--max-ms")
    refused(hwnas("export", "model.onnx", "--target", "local/onnxruntime-fp32", "--max-ms", "0"), "--max-ms")
    refused(hwnas("profile", "--target", "local/onnxruntime-fp32", "--set", "profiles.networks=5"), "profiles")
    assert not (tmp_path / "runs").exists()


def test_precision_that_contradicts_the_target(hwnas: Hwnas, tmp_path: Path) -> None:
    result = hwnas("measure", tmp_path / "m.onnx", "--target", "local/onnxruntime-fp32", "--precision", "int8")
    refused(result, "contradicts")


def test_a_file_that_is_no_onnx(hwnas: Hwnas, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model at all" * 20)
    refused(hwnas("measure", path, "--target", "local/onnxruntime-fp32", "--rounds", "5"), "is not an ONNX file")
    refused(hwnas("export", path, "--target", "local/onnxruntime-fp32", "--output", tmp_path / "out"), "model.onnx")
    refused(hwnas("measure", tmp_path / "none.onnx", "--target", "local/onnxruntime-fp32"), "is not a file")
    assert not any((tmp_path / "out").glob("*"))


def test_data_that_cannot_be_used(hwnas: Hwnas, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, part in (
        (f"imagefolder:{tmp_path / 'empty'}", "empty"),
        (f"imagefolder:{tmp_path / 'none'}", "none"),
        ("torchvision:NoSuchData", "NoSuchData"),
        ("fashion-mnist:nowhere", "dataset-fashion-mnist"),
    ):
        result = hwnas("train", run_file(tmp_path, data={"source": source}), "--runs", tmp_path / "runs")
        refused(result, part)


def test_a_space_that_does_not_fit(hwnas: Hwnas, tmp_path: Path) -> None:
    wrong = {"settings": {**SPACE["settings"], "resolutions": [1]}}
    refused(hwnas("train", run_file(tmp_path, space=wrong), "--runs", tmp_path / "runs"), "resolutions")
    unknown = {"settings": {**SPACE["settings"], "kernel": [3]}}
    refused(hwnas("train", run_file(tmp_path, space=unknown, name="b"), "--runs", tmp_path / "runs"), "kernel")


def test_a_corrupt_table_and_a_corrupt_model(hwnas: Hwnas, tmp_path: Path) -> None:
    target, run = "simulated-reference/simulated-fp32", run_file(tmp_path)
    made = hwnas("profile", "--target", target, "--space", run, "--output", tmp_path / "table")
    assert made.returncode == 0, made.stderr
    table, model = tmp_path / "table" / "table.jsonl", tmp_path / "table" / "model" / "model.json"
    good = table.read_text()
    table.write_text(good.replace('"value":', '"value":-', 1))
    refused(hwnas("fit", tmp_path / "table"), "table.jsonl, line")
    table.write_text(good)
    model.write_text(model.read_text()[:-200])
    refused(hwnas("predict", "smallest", "--target", target, "--model", tmp_path / "table"), "model")
    assert hwnas("fit", tmp_path / "table").returncode == 0
    assert hwnas("predict", "smallest", "--target", target, "--model", tmp_path / "table").returncode == 0
    for wrong in ("random:0", "random:a", "1,,2", "1,2"):
        refused(hwnas("predict", wrong, "--target", target, "--model", tmp_path / "table"))
    foreign = hwnas("predict", "smallest", "--target", "local/onnxruntime-int8", "--model", tmp_path / "table")
    refused(foreign, "another machine or setting", "runtime: stored 'simulated'")
    refused(hwnas("fit", tmp_path / "table", "--coverage", "95"), "--coverage")


def test_a_full_disk_says_so_and_the_same_command_goes_on(hwnas: Hwnas, tmp_path: Path, home: Path) -> None:
    run = run_file(tmp_path, name="full")
    command = [sys.executable, "-m", "hwnas", "train", str(run), "--runs", str(tmp_path / "runs"), "--json"]
    limited = "import resource, signal, os, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);\
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); os.execv(sys.argv[1], sys.argv[1:])"
    kept = {**os.environ, "HWNAS_HOME": str(home / "home"), "HWNAS_CACHE": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", limited, *command],
        env=kept,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    refused(done, "cannot write", "intact")
    assert not [p for p in (tmp_path / "runs").rglob("*.tmp") if os.path.isfile(p)]
    again = hwnas("train", run, "--runs", tmp_path / "runs", "--json")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("verb", ["run", "check", "train", "search", "finetune", "export"])
def test_a_run_file_that_is_not_there(hwnas: Hwnas, tmp_path: Path, verb: str) -> None:
    refused(hwnas(verb, tmp_path / "none.yaml"), "does not exist")


def test_every_verb_has_help(hwnas: Hwnas) -> None:
    from hwnas.cli import app

    names = [command.name for command in app.registered_commands] + [group.name for group in app.registered_groups]
    assert len(names) == 18
    for name in names:
        result = hwnas(name, "--help")
        assert result.returncode == 0
        assert "Usage" in result.stdout


def test_a_spent_time_budget_freezes_what_the_search_builds_on(hwnas: Hwnas, tmp_path: Path) -> None:
    train = {**SIMULATED["train"], "epochs": 50, "time_budget_minutes": 0.02}  # type: ignore[dict-item]
    run, runs = run_file(tmp_path, name="spent", train=train), tmp_path / "runs"
    first = hwnas("finetune", run, "--runs", runs, "--json")
    assert first.returncode == 0, first.stderr
    folder = runs / "spent"
    kept = [folder / "supernet" / "training.json", *(folder / "winners").glob("*/weights.safetensors")]
    before = [path.read_bytes() for path in kept]
    assert b"time_budget_minutes" in before[0]
    again = hwnas("finetune", run, "--runs", runs, "--json")
    assert again.returncode == 0, again.stderr
    assert [path.read_bytes() for path in kept] == before


def test_check_says_whether_budgets_can_be_kept_and_writes_nothing(hwnas: Hwnas, tmp_path: Path) -> None:
    target = "simulated-reference/simulated-fp32"
    found = {}
    for name, budget in (("loose", 1e6), ("impossible", 1e-6)):
        run = run_file(tmp_path, targets=[{"target": target, "budget": {"max_ms": budget}}])
        result = hwnas("check", run, "--runs", tmp_path / "runs", "--json")
        assert result.stderr == ""
        found[name] = (result.returncode, json.loads(result.stdout))
    assert found["loose"][0] == 0
    assert "loose" in found["loose"][1]["budgets"][0]["verdict"]
    assert found["impossible"][0] == 1
    assert found["impossible"][1]["budgets"][0]["verdict"].startswith("cannot be kept")
    assert {step["state"] for step in found["loose"][1]["steps"]} <= {"to do", "at most"}
    assert not (tmp_path / "runs").exists()

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_support import ROOT, Hwnas

from hwnas.config import load_run_config

pytestmark = pytest.mark.timeout(600)


def only_winner(home: Path) -> Path:
    return sorted((home / "runs" / "tiny" / "winners").iterdir())[0]


def test_the_loop_ends_in_verified_artifacts(tiny: subprocess.CompletedProcess[str], home: Path) -> None:
    assert tiny.returncode == 0, tiny.stderr
    result = json.loads(tiny.stdout)
    assert {a["manifest"]["target"] for a in result["artifacts"]} == {
        "local/onnxruntime-fp32-t1-b1",
        "local/openvino-int8-t1-b1",
    }
    for artifact in result["artifacts"]:
        manifest = artifact["manifest"]
        assert manifest["accuracy"]["test"] > 0.8
        assert manifest["predicted"]["low"] <= manifest["predicted"]["value"] <= manifest["predicted"]["high"]
        assert manifest["measured"]["low"] <= manifest["measured"]["value"] <= manifest["measured"]["high"]
        assert [budget["verdict"] for budget in manifest["budgets"]] == ["kept"]
    report = (home / result["report"]).read_text()
    page = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", report, flags=re.DOTALL)
    loaded = re.findall(r"""(?:src|href)=["']?(?!#|data:)([^"' >]+)|@import|url\((?!["']?data:)""", page)
    assert loaded == [], "the report opens offline"
    assert all(a["manifest"]["name"].split("--")[-1] in report for a in result["artifacts"])


def test_of_two_candidates_a_target_exports_the_one_that_fine_tunes_better(
    tiny: subprocess.CompletedProcess[str], home: Path
) -> None:
    assert tiny.returncode == 0, tiny.stderr
    run = home / "runs" / "tiny"
    candidates = json.loads((run / "shortlist.json").read_text())
    chosen = json.loads((run / "winners.json").read_text())
    assert len(chosen) == 2
    assert len(candidates) > 2

    def first_step(name: str) -> float:
        if (run / "winners" / name).exists():
            return float(json.loads((run / "winners" / name / "winner.json").read_text())["validation_accuracy"])
        state = json.loads((run / "candidates" / name / "finetune.json").read_text())
        return max(float(record["validation_accuracy"]) for record in state["histories"]["1"])

    for pick in chosen:
        rivals = [entry for entry in candidates if entry["target"] == pick["target"]][:2]
        assert pick in rivals
        assert first_step(pick["identifier"]) == max(first_step(entry["identifier"]) for entry in rivals)


def test_a_winner_that_breaks_its_budget_as_a_file_gives_way_to_the_next_candidate(
    tiny: subprocess.CompletedProcess[str], hwnas: Hwnas, home: Path
) -> None:
    assert tiny.returncode == 0, tiny.stderr
    runs = home / "broken"
    shutil.copytree(home / "runs" / "tiny", runs / "tiny")
    broken = sorted((runs / "tiny" / "artifacts").iterdir())[0]
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["budgets"][0]["verdict"] = "broken"
    (broken / "manifest.json").write_text(json.dumps(manifest))
    done = hwnas("run", ROOT / "examples" / "tiny.yaml", "--runs", runs, "--json", "--allow-broken")
    assert done.returncode == 0, done.stderr
    assert "broke its budget as an exported file" in done.stderr
    artifacts = {Path(entry["folder"]).name for entry in json.loads(done.stdout)["artifacts"]}
    assert len(artifacts) == 2
    assert broken.name not in artifacts
    assert [path.name for path in (runs / "tiny" / "replaced").iterdir()] == [broken.name]
    chosen = json.loads((runs / "tiny" / "winners.json").read_text())
    assert {f"{entry['target'].replace('/', '--')}--{entry['identifier']}" for entry in chosen} == artifacts
    (runs / "tiny" / "artifacts" / sorted(artifacts)[0] / "notes.txt").write_text("mine")
    stray = hwnas("run", ROOT / "examples" / "tiny.yaml", "--runs", runs)
    assert stray.returncode == 2
    assert "notes.txt is not in manifest.json" in stray.stderr
    assert json.loads((runs / "tiny" / "winners.json").read_text()) == chosen, "a stray file replaces no winner"
    (runs / "tiny" / "artifacts" / sorted(artifacts)[0] / "notes.txt").unlink()
    again = hwnas("run", ROOT / "examples" / "tiny.yaml", "--runs", runs, "--json", "--allow-broken")
    assert {Path(entry["folder"]).name for entry in json.loads(again.stdout)["artifacts"]} == artifacts


def test_nothing_in_the_run_folder_names_this_machine(tiny: subprocess.CompletedProcess[str], home: Path) -> None:
    assert tiny.returncode == 0, tiny.stderr
    found = [
        path.relative_to(home)
        for path in (home / "runs").rglob("*")
        if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".md") and str(home) in path.read_text()
    ]
    assert found == []


def test_the_same_command_resumes_without_working_again(
    tiny: subprocess.CompletedProcess[str], hwnas: object, home: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (home / "runs" / "tiny" / "artifacts").rglob("*") if p.is_file()}
    steps = (home / "runs" / "tiny" / "steps.jsonl").read_text()
    again = hwnas("run", ROOT / "examples" / "tiny.yaml", "--json", "--allow-broken")  # type: ignore[operator]
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["artifacts"] == json.loads(tiny.stdout)["artifacts"]
    after = {p: p.stat().st_mtime_ns for p in (home / "runs" / "tiny" / "artifacts").rglob("*") if p.is_file()}
    assert after == before
    assert (home / "runs" / "tiny" / "steps.jsonl").read_text() == steps


def test_another_configuration_is_refused(tiny: subprocess.CompletedProcess[str], hwnas: object) -> None:
    result = hwnas("run", ROOT / "examples" / "tiny.yaml", "--set", "search.seed=5")  # type: ignore[operator]
    assert result.returncode == 2
    assert "search.seed: 0 there, 5 asked" in result.stderr
    assert "Traceback" not in result.stderr


def test_verify_py_runs_without_hwnas(tiny: subprocess.CompletedProcess[str], home: Path) -> None:
    for artifact in json.loads(tiny.stdout)["artifacts"]:
        done = subprocess.run(
            [sys.executable, "-c", VERIFY_ALONE, str(home / artifact["folder"] / "verify.py")],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["hwnas"] is False
        compared = {name: passed for name, passed in report["checks"].items() if name.startswith("samples ")}
        assert compared
        assert all(compared.values()), report
        assert report["checks"]["files"] is True


VERIFY_ALONE = """
import contextlib, io, json, runpy, sys
script = sys.argv[1]
sys.argv = [script, "--json"]
out = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(out):
    runpy.run_path(script, run_name="__main__")
checks = json.loads(out.getvalue())["checks"]
print(json.dumps({"hwnas": "hwnas" in sys.modules, "checks": {c["check"]: c["passed"] for c in checks}}))
"""


def test_export_a_winner_for_another_target(
    tiny: subprocess.CompletedProcess[str], hwnas: object, home: Path, tmp_path: Path
) -> None:
    assert tiny.returncode == 0
    result = hwnas(  # type: ignore[operator]
        "export", only_winner(home), "--target", "local/openvino-fp32", "--output", tmp_path / "out", "--json"
    )
    assert result.returncode == 0, result.stderr
    (artifact,) = json.loads(result.stdout)["artifacts"]
    assert artifact["manifest"]["parity"][next(iter(artifact["manifest"]["parity"]))]["relative_l2"] <= 1e-4
    verified = hwnas("verify", artifact["folder"], "--json")  # type: ignore[operator]
    assert verified.returncode == 0, verified.stdout + verified.stderr
    weights = next(Path(artifact["folder"]).glob("*.bin"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    tampered = hwnas("verify", artifact["folder"])  # type: ignore[operator]
    assert tampered.returncode == 1
    assert "sha256" in tampered.stdout


def test_predict_and_measure_agree_in_form(tiny: subprocess.CompletedProcess[str], hwnas: object, home: Path) -> None:
    table = home / "runs" / "tiny" / "tables" / "local--onnxruntime-fp32-t1-b1"
    target = "local/onnxruntime-fp32"
    predicted = hwnas("predict", "smallest", "largest", "random:2", "--target", target, "--model", table, "--json")  # type: ignore[operator]
    assert predicted.returncode == 0, predicted.stderr
    rows = json.loads(predicted.stdout)
    assert [row["unit"] for row in rows] == ["ms"] * 4
    assert rows[0]["latency_ms"] < rows[1]["latency_ms"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    model = next((home / "runs" / "tiny" / "artifacts").glob("local--onnxruntime*/*.onnx"))
    measured = hwnas("measure", model, "--target", target, "--rounds", "8", "--json")  # type: ignore[operator]
    assert measured.returncode == 0, measured.stderr
    row = json.loads(measured.stdout)
    assert row["low"] <= row["value"] <= row["high"]
    assert row["unit"] == "ms"


def test_tables_and_report_of_a_run(tiny: subprocess.CompletedProcess[str], hwnas: object, home: Path) -> None:
    folder = home / "runs" / "tiny" / "tables"
    listed = json.loads(hwnas("tables", "ls", folder, "--json").stdout)  # type: ignore[operator]
    assert {entry["target"] for entry in listed} >= {"local/onnxruntime-fp32-t1-b1", "local/openvino-int8-t1-b1"}
    shown = json.loads(hwnas("tables", "show", folder / "local--openvino-int8-t1-b1", "--json").stdout)  # type: ignore[operator]
    config = load_run_config(ROOT / "examples" / "tiny.yaml")
    assert (shown["rows"], shown["failures"]) == (config.profile.networks + config.profile.held_out, 0)
    fitted = hwnas("fit", folder / "local--openvino-int8-t1-b1", "--json")  # type: ignore[operator]
    assert fitted.returncode == 0, fitted.stderr
    assert hwnas("report", home / "runs" / "tiny").returncode == 0  # type: ignore[operator]

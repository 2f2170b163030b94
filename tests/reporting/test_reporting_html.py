from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from reporting_support import BUDGETS, TARGETS, manifest_for
from rich.console import Console

from hwnas.errors import RunFolderError
from hwnas.reporting.formats import DASH, format_bytes, format_count, format_number, format_seconds, format_share
from hwnas.reporting.front import points_of
from hwnas.reporting.front_table import print_fronts
from hwnas.reporting.html import write_report
from hwnas.reporting.run_data import read_run
from hwnas.reporting.tables import print_manifests

SECTIONS = ("artifacts", "target-0", "target-1", "search", "training", "facts")


def body(html: str) -> str:
    """The report without the inlined library."""
    return html[html.index("<body>") :]


@pytest.fixture(scope="module")
def page(run_folder: Path) -> str:
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    return path.read_text()


def test_the_report_shows_every_section_with_its_numbers(page: str) -> None:
    text = body(page)
    for section in SECTIONS:
        assert f'<section id="{section}">' in text
    assert "2 of 3" in text
    assert "90.7 %" in text
    assert text.count("✓ kept") == 2
    assert text.count("✗ broken") == 1
    assert "Sum of block prices" in text
    assert "46 min 02 s" in text
    assert "21 min 00 s" in text
    assert 'class="empty"' not in text
    for identifier in (
        "front-0",
        "front-1",
        "prediction-0",
        "blocks-1-0",
        "blocks-1-1",
        "hypervolume",
        "tau",
        "training-loss",
    ):
        assert f'id="{identifier}"' in text


def test_budgets_are_drawn_and_axes_carry_units(page: str) -> None:
    for budget in BUDGETS:
        assert f"budget {budget:g} ms (p50)" in page
    text = body(page).replace("\\u002f", "/")
    for axis in ("Predicted latency (ms)", "Validation accuracy (%)", "Measured latency (ms)", "Latency (ms)"):
        assert f'"text":"{axis}"' in text


def test_the_library_is_inlined_once_and_nothing_is_fetched(page: str) -> None:
    assert page.count("plotly.js v") == 1
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*["\']?(?:https?:)?//', page)
    assert "default-src 'none'" in page


def test_the_report_is_the_same_for_the_same_folder_and_names_no_folder_of_this_machine(
    run_folder: Path, page: str
) -> None:
    assert write_report(run_folder).read_text() == page
    assert str(run_folder.parent) not in page


def test_an_empty_run_folder_gives_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    folder.mkdir()
    text = body(write_report(folder).read_text())
    assert text.count('class="empty"') == 4
    assert "Nothing exported yet" in text
    (folder / "run.yaml").write_text(yaml.safe_dump({"name": "fresh", "targets": [{"target": TARGETS[0]}]}))
    text = body(write_report(folder).read_text())
    assert "No architecture evaluated yet" in text
    assert "No latency model yet" in text


def test_damaged_files_are_named_and_the_rest_is_shown(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    (folder / "supernet" / "training.json").write_text("{")
    (folder / "artifacts" / "w2-int8" / "manifest.json").write_text('{"schema_version": "7.0"}')
    with (folder / "archive.jsonl").open("a") as stream:
        stream.write('{"encoding": [1')
    text = body(write_report(folder).read_text())
    assert "supernet/training.json could not be read" in text
    assert "artifacts/w2-int8/manifest.json could not be read" in text
    assert "archive.jsonl could not" not in text
    assert "2 of 2" in text
    assert str(folder) not in text


def test_texts_from_files_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    evil = "</script><script>alert(1)</script>"
    (folder / "run.yaml").write_text(
        yaml.safe_dump({"name": evil, "data": {"source": evil}, "targets": [{"target": evil}]})
    )
    tables = folder / "tables" / evil.replace("/", "--")
    tables.mkdir(parents=True)
    (folder / "archive.jsonl").write_text('{"encoding": "x", "costs": [1.0], "G": [], "accuracy": 0.5}\n')
    text = body(write_report(folder).read_text())
    assert evil not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a folder"):
        write_report(tmp_path / "nothing")


def test_the_front_is_feasible_current_and_not_dominated(run_folder: Path) -> None:
    run = read_run(run_folder)
    for target, budget in zip(run.targets, BUDGETS, strict=True):
        points = points_of(run.archive, target)
        front = [point for point in points if point.kind == "front"]
        current = [point for point in points if point.kind in ("front", "feasible")]
        assert front
        assert all(1.06 * point.latency_ms <= budget for point in current)
        for point in front:
            assert not any(o.latency_ms <= point.latency_ms and o.accuracy > point.accuracy for o in current)
        assert {"older", "over"} <= {point.kind for point in points}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456, "1.23"),
        (0.0012345, "0.00123"),
        (123.456, "123"),
        (0.0, "0.0"),
        (7, "7"),
        (None, DASH),
        (float("nan"), DASH),
    ],
)
def test_numbers_are_written_without_exponents(value: object, text: str) -> None:
    assert format_number(value) == text


def test_other_formats() -> None:
    assert format_share(0.1234) == "12.3 %"
    assert format_share(None) == DASH
    assert [format_seconds(value) for value in (3.21, 75, 7260, None)] == ["3.2 s", "1 min 15 s", "2 h 01 min", DASH]
    assert [format_bytes(value) for value in (1500, 2_500_000)] == ["1.5 kB", "2.50 MB"]
    assert [format_count(value) for value in (999, 1500, 2_500_000)] == ["999", "1.5 k", "2.50 M"]


def test_the_front_of_a_target_is_a_table_and_bargains_are_marked_in_the_plot(page: str) -> None:
    text = body(page)
    assert text.count("<h3>Front</h3>") == 1
    first, second = (text[text.index(f'id="target-{i}"') :] for i in (0, 1))
    assert "<h3>Front</h3>" not in first[: first.index('id="target-1"')]
    table = second[second.index("<h3>Front</h3>") : second.index("<h3>Latency model</h3>")]
    assert table.count("<tr>") == 4
    assert table.count("high trade-off") == 1
    for cell in ("203.1 k", "4.32 M", "98.3 kB", "812.4 kB"):
        assert table.count(cell) == 3
    assert text.count('"name":"High trade-off"') == 1


def test_limits_of_a_precision_are_held_against_the_targets_of_that_precision_only(
    run_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    state = json.loads((folder / "search_state.json").read_text())
    problem = state["identity"]["problem"]
    problem["costs"] += ["size_bytes-fp32", "size_bytes-int8"]
    problem["limits"] = [["size_bytes-fp32", 1.0, "bytes"], ["size_bytes-int8", 1.0, "bytes"], ["macs", 1.0, "MACs"]]
    problem["seen_by"] = {"size_bytes-fp32": [TARGETS[0]], "size_bytes-int8": [TARGETS[1]]}
    (folder / "search_state.json").write_text(json.dumps(state))
    records = [
        {"encoding": [i], "accuracy": 0.5, "costs": [1.0, 1.0], "G": G, "version": 0}
        for i, G in enumerate([[-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
    ]
    (folder / "archive.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = read_run(folder)
    kinds = [[point.kind for point in points_of(run.archive, target)] for target in run.targets]
    assert kinds == [["front", "over", "over"], ["over", "front", "over"]]


def test_what_was_confirmed_is_drawn_as_confirmed(tmp_path: Path, run_folder: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    records = [
        {"encoding": [i], "accuracy": accuracy, "costs": [i + 1.0, 1.0], "G": [-1, -1], "version": 2, "id": str(i)}
        for i, accuracy in enumerate((0.70, 0.90, 0.80))
    ]
    readings = [
        {"encoding": [0], "accuracy": 0.71, "images": 900, "of": 900, "version": 2},
        {"encoding": [1], "accuracy": 0.85, "images": 300, "of": 900, "version": 2},
        {"encoding": [2], "accuracy": 0.79, "images": 900, "of": 900, "version": 2},
        {"encoding": [1], "accuracy": 0.99, "images": 900, "of": 900, "version": 1},
    ]
    (folder / "archive.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "confirmed.jsonl").write_text("".join(json.dumps(record) + "\n" for record in readings))
    run = read_run(folder)
    points = {point.identifier: (point.kind, point.accuracy) for point in points_of(run.archive, run.targets[0])}
    assert points == {"0": ("front", 0.71), "1": ("fewer", 0.90), "2": ("front", 0.79)}


def test_what_an_earlier_supernet_confirmed_does_not_count(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    for name, rows in {
        "archive": [{"accuracy": 0.8, "costs": [1.0, 1.0], "G": [-1, -1], "version": 2}],
        "confirmed": [{"accuracy": 0.7, "images": 9, "of": 9, "version": 1}],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"encoding": [0], **row}) + "\n" for row in rows))
    run = read_run(folder)
    assert [(point.accuracy, point.kind) for point in points_of(run.archive, run.targets[0])] == [(0.8, "front")]


def test_the_terminal_shows_the_fronts_of_all_targets(run_folder: Path) -> None:
    stream = io.StringIO()
    document = json.loads((run_folder / "front.json").read_text())
    member = document["targets"][TARGETS[1]]["members"][0]
    print_fronts(document, {(TARGETS[1], member["id"]): {"value": 0.512}}, Console(file=stream, width=240))
    text = stream.getvalue()
    latency = member["latency"]
    for word in (
        "high trade-off",
        "candidate, measured 0.512 ms",
        format_number(latency["high"]),
        "4.32 M",
        TARGETS[1],
    ):
        assert word in text


def test_the_terminal_table_holds_accuracy_latency_budget_and_verdict() -> None:
    stream = io.StringIO()
    kept = manifest_for("one", TARGETS[0], 1.31, 1.4, "kept")
    broken = manifest_for("two", TARGETS[1], 0.98, 0.9, "broken", accuracy=None, predicted=None)
    print_manifests([kept, broken], Console(file=stream, width=160))
    text = stream.getvalue()
    for word in ("90.7 %", "1.31 [1.29, 1.33]", "1.40 p50", "kept", "broken", "812.3 kB", TARGETS[0]):
        assert word in text


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        message = "chromium is not installed (apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.mark.system("chromium")
def test_a_browser_without_network_draws_the_page_without_complaint(
    run_folder: Path, page: str, chromium: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--proxy-server=127.0.0.1:9",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--window-size=1300,2000",
            "--dump-dom",
            (run_folder / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    text = body(done.stdout)
    for section in SECTIONS:
        assert f'<section id="{section}">' in text
    # Plotly has really drawn: one main SVG per plot.
    plots = len(re.findall(r'class="plotly-graph-div', page))
    assert plots == 10
    assert len(re.findall(r'<svg class="main-svg"[^>]*class|<svg class="main-svg"', text)) >= plots


def test_a_lower_precision_that_is_slower_is_said(page: str) -> None:
    assert "int8 is slower here" in page
    assert "For speed choose" in page

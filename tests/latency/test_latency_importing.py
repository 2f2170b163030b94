from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latency_samples import make_rows

from hwnas import api
from hwnas.config import ProfileSection
from hwnas.errors import ConfigError, FingerprintMismatchError, HwnasError, RunFolderError, TableError
from hwnas.files import data_home
from hwnas.latency import importing
from hwnas.latency.evaluation import evaluate
from hwnas.latency.importing import choose_held_out, coarse_tick, import_table, read_given
from hwnas.latency.model import LatencyModel
from hwnas.latency.rows import LatencyRow
from hwnas.latency.sampling import plan_networks
from hwnas.latency.store import find_sources, find_table, read_header
from hwnas.latency.table import LatencyTable
from hwnas.runs.profiling import profile_folder
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.synthetic import SyntheticSpace
from hwnas.targets import Fingerprint, Target

PHONE = Target.parse("pixel3/tflite-fp32")
MACHINE = "Pixel 3, Cortex-A76"


def line_of(row: LatencyRow, **changes: Any) -> dict[str, Any]:
    line = {"encoding": list(row.encoding), "latency_ms": row.value, "low_ms": row.low, "high_ms": row.high, **changes}
    return {name: value for name, value in line.items() if value is not None}


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def rows(space: MobileNetV3Space) -> list[LatencyRow]:
    return make_rows(space, plan_networks(space, 14, 1, seed=3).train, "train", 0.01, 3)


@pytest.fixture
def refused(space: MobileNetV3Space, rows: list[LatencyRow], tmp_path: Path) -> Callable[..., str]:
    """Import a good file whose third line was replaced; return the message of the refusal, which left nothing behind."""

    def call(line: Any, **options: Any) -> str:
        lines = [line_of(row) for row in rows]
        lines[2] = line
        path = write(tmp_path / "rows.jsonl", lines)
        with pytest.raises(TableError) as caught:
            api.import_rows(path, str(PHONE), space, machine=MACHINE, **options)
        assert caught.value.exit_code == 2
        assert not data_home().exists()
        return str(caught.value).removeprefix(str(path))

    return call


@pytest.fixture(scope="module")
def imported(space: MobileNetV3Space, table: LatencyTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of table and model, made of 120 rows that were exported from a real table, half of them as architectures."""
    home = tmp_path_factory.mktemp("imported")
    lines = [line_of(row) for row in table.rows]
    for line in lines[::2]:
        line["architecture"] = space.decode(np.array(line.pop("encoding"))).as_dict()
    path = write(home / "rows.jsonl", lines)
    fitted = api.import_rows(path, str(PHONE), space, machine=MACHINE, runtime_version="2.14.1", output=home / "table")
    assert fitted.folder == home / "table"
    assert fitted.networks == 120
    assert [entry.name for entry in home.iterdir() if entry.name.startswith(".")] == []
    return fitted.folder


def test_a_table_says_where_it_came_from(imported: Path, table: LatencyTable) -> None:
    made = LatencyTable.load(imported / "table.jsonl")
    header, source = made.header, imported.parent / "rows.jsonl"
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    assert header.session == {"imported": {"file": "rows.jsonl", "sha256": sha256, "rows": 120}}
    assert header.fingerprint.identity == {
        "imported": True,
        "cpu_model": MACHINE,
        "protocol": "imported",
        "runtime": "tflite",
        "runtime_version": "2.14",
        "precision": "fp32",
        "threads": 1,
        "batch": 1,
    }
    assert header.target == PHONE
    assert header.canaries == {}
    assert {row.key: row.value for row in made.rows} == {row.key: row.value for row in table.rows}
    for row in made.rows:
        assert (row.grade, row.disturbed, row.estimator, row.model_digest) == ("C", ("imported",), "imported", sha256)
        assert (row.count, row.rounds, row.mad, row.percentiles) == (1, 1, 0.0, {})
    assert len(made.measured("held_out")) == 24
    card = (imported / "README.md").read_text()
    assert f"imported from `rows.jsonl` (sha256 {sha256[:12]}, 120 networks)" in card
    assert "beside 0 reference networks" not in card
    assert "compares the two halves" not in card


def test_a_model_of_exported_rows_is_as_good_as_the_one_they_came_from(
    table: LatencyTable, space: MobileNetV3Space, imported: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", [line_of(row) for row in table.measured("train")])
    copy = import_table(path, PHONE, space, machine=MACHINE, held_out=0.0)
    judges = table.measured("held_out")
    original = evaluate(LatencyModel.fit(table, space, use_lut=False), judges)
    again = evaluate(LatencyModel.fit(copy, space, use_lut=False), judges)
    assert again.mape == pytest.approx(original.mape, rel=1e-6)
    assert again.coverage == original.coverage
    scores = json.loads((imported / "evaluation.json").read_text())["metrics"]
    assert scores["count"] == 24
    assert scores["mape"] < original.mape + 0.01


def test_it_is_predicted_shown_listed_and_compared(imported: Path, table: LatencyTable, tmp_path: Path) -> None:
    smallest, largest = api.predict(["smallest", "largest"], str(PHONE), folder=imported)
    assert smallest["latency_ms"] < largest["latency_ms"]
    with pytest.raises(TableError, match=r"imported table of pixel3/tflite-fp32-t1-b1, not of pixel3/tflite-int8"):
        api.predict(["smallest"], "pixel3/tflite-int8", folder=imported)
    assert api.show_table(imported)["model"]["mape"] < 0.05
    assert next(entry["machine"] for entry in api.list_tables(imported)) == MACHINE
    table.save(tmp_path / "measured" / "table.jsonl")
    difference = api.diff_tables(tmp_path / "measured", imported)
    assert difference["shared"] == 120
    assert difference["median_ratio"] == pytest.approx(1.0)
    assert difference["identity"]["imported"] == (None, True)
    assert api.fit(imported).scores["model"].count == 24


def test_it_is_a_source_and_never_a_machines_own_table(imported: Path, space: MobileNetV3Space) -> None:
    own = {key: value for key, value in _identity(imported).items() if key != "imported"}
    measured = Fingerprint({**own, "arch": "aarch64"}, {})
    (found,) = find_sources(PHONE, space, measured, [imported])
    assert found.header.target == PHONE
    assert found.load_model(space).predict(np.stack([space.encode(space.largest)])).value[0] > 0
    assert find_table(PHONE, space, measured) is None
    with pytest.raises(FingerprintMismatchError, match="imported: stored True, here None"):
        found.load().require(space, measured)


def test_a_device_is_made_from_own_measurements_of_another(
    table: LatencyTable, space: MobileNetV3Space, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", [line_of(row) for row in table.rows])
    source = api.import_rows(path, "elsewhere/simulated-fp32", space, machine="a simulator", output=tmp_path / "source")
    target, output = "simulated-reference/simulated-int8", tmp_path / "made"
    sizes: dict[str, Any] = {"networks": 12, "held_out": 4, "overrides": ["profile.rounds=5"]}
    fitted = api.transfer_table(target, space, sources=[source.folder], output=output, **sizes)
    assert fitted.sources[0].startswith("elsewhere/simulated-fp32-t1-b1")
    assert fitted.scores["model"].mape < 0.1
    (predicted,) = api.predict(["largest"], target, folder=output)
    assert predicted["low"] < predicted["value"] < predicted["high"]
    with pytest.raises(TableError, match="its model was itself transferred"):
        find_sources(source.target, space, Fingerprint({"cpu_model": "another"}, {}), [output])


def _identity(folder: Path) -> dict[str, Any]:
    return LatencyTable.load(folder / "table.jsonl").header.fingerprint.identity


def test_it_is_not_merged(imported: Path, table: LatencyTable, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="share no canary; they cannot be compared"):
        api.merge_tables(imported, imported, tmp_path / "merged")
    table.save(tmp_path / "measured" / "table.jsonl")
    with pytest.raises(FingerprintMismatchError, match="Tables of different machines stay apart"):
        api.merge_tables(imported, tmp_path / "measured", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_its_own_name_and_no_overwriting(
    space: MobileNetV3Space, rows: list[LatencyRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl", [line_of(row) for row in rows])
    options: dict[str, Any] = {"machine": MACHINE, "held_out": 0.0}
    fitted = api.import_rows(path, str(PHONE), space, **options)
    assert fitted.folder.parent == data_home() / "tables" / "pixel3--tflite-fp32-t1-b1"
    assert fitted.folder.name.endswith("-imported")
    assert fitted.scores == {}
    assert _identity(fitted.folder)["runtime_version"] == "unknown"
    before = (fitted.folder / "table.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match=r"never overwritten. Use another folder: --output"):
        api.import_rows(path, str(PHONE), space, **options)
    assert (fitted.folder / "table.jsonl").read_bytes() == before
    with pytest.raises(RunFolderError, match="--output"):
        api.import_rows(path, str(PHONE), space, output=path, **options)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    api.import_rows(path, str(PHONE), space, output=Path("."), **options)
    assert (tmp_path / "empty" / "table.jsonl").exists()


def test_nothing_is_left_of_an_import_that_did_not_end(
    space: MobileNetV3Space, rows: list[LatencyRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl", [line_of(row) for row in rows])

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hwnas.runs.profiling.fit_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.import_rows(path, str(PHONE), space, machine=MACHINE, output=tmp_path / "out" / "table")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        ({"latency_ms": 1.0}, "give either encoding or architecture, not neither"),
        ({"encoding": [0], "architecture": {}, "latency_ms": 1.0}, "not both"),
        ({"encoding": [0]}, "latency_ms is missing"),
        ({"encoding": [0], "latency_ms": 1.0, "latency": 2.0}, "unknown key 'latency'; known: encoding, architecture"),
        ({"encoding": [0], "latency_ms": 0}, "latency_ms=0 must be a positive"),
        ({"encoding": [0], "latency_ms": -1.5}, "latency_ms=-1.5 must be a positive"),
        ('{"encoding": [0], "latency_ms": NaN}', "latency_ms=nan must be a positive"),
        ('{"encoding": [0], "latency_ms": Infinity}', "latency_ms=inf must be a positive"),
        ('{"encoding": [0], "latency_ms": 1' + 400 * "0" + "}", "must be a positive, finite"),
        ({"encoding": [0], "latency_ms": "3"}, "latency_ms=3 must be a positive"),
        ({"encoding": [0], "latency_ms": True}, "latency_ms=True must be a positive"),
        ({"encoding": [0], "latency_ms": None}, "latency_ms=None must be a positive"),
        ({"encoding": [0], "latency_ms": 1.0, "low_ms": 0.9}, "needs both low_ms and high_ms"),
        ({"encoding": [0], "latency_ms": 1.0, "low_ms": 1.1, "high_ms": 1.2}, "does not hold latency_ms=1"),
        ({"encoding": [0], "latency_ms": 1.0, "low_ms": -1, "high_ms": 1.2}, "low_ms=-1 must be a positive"),
        ({"encoding": [0], "latency_ms": 1.0}, "genes, not 1"),
        ({"encoding": [], "latency_ms": 1.0}, "genes, not 0"),
        ({"encoding": [[0]], "latency_ms": 1.0}, "expected a list of whole numbers"),
        ({"encoding": "0,1", "latency_ms": 1.0}, "expected a list of whole numbers"),
        ({"encoding": [99] * 8, "latency_ms": 1.0}, "gene resolution=99 of mobilenetv3 must lie in [0, 1]"),
        ({"encoding": [10**30] * 8, "latency_ms": 1.0}, "is no network of space"),
        ({"architecture": [], "latency_ms": 1.0}, "expected a JSON object, got list"),
        ({"architecture": {"resolution": 32}, "latency_ms": 1.0}, "needs resolution, width and stages"),
        (
            '{"architecture": {"resolution": Infinity, "width": 1, "stages": []}, "latency_ms": 1.0}',
            "is no network of space",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_said(refused: Callable[..., str], line: Any, said: str) -> None:
    message = refused(line)
    assert message.startswith(", line 3: ")
    assert said in message


def test_a_network_stands_once(refused: Callable[..., str], space: MobileNetV3Space, rows: list[LatencyRow]) -> None:
    assert "stands on line 1 already. Keep one line" in refused(line_of(rows[0], latency_ms=rows[0].value))
    architecture = space.decode(np.array(rows[1].encoding)).as_dict()
    assert "stands on line 2 already" in refused({"architecture": architecture, "latency_ms": 1.0})


def test_files_that_cannot_be_read_or_are_too_short(
    space: MobileNetV3Space, rows: list[LatencyRow], tmp_path: Path
) -> None:
    with pytest.raises(TableError, match=r"absent.jsonl does not exist. Give a file"):
        read_given(tmp_path / "absent.jsonl", space)
    with pytest.raises(TableError, match="cannot be read as text"):
        read_given(tmp_path, space)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match="cannot be read as text"):
        read_given(tmp_path / "binary", space)
    path = write(tmp_path / "rows.jsonl", [line_of(row) for row in rows[:11]])
    with pytest.raises(TableError, match="11 networks, 2 of them held out, leave 9 to fit on; at least 10"):
        import_table(path, PHONE, space, machine=MACHINE)
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(TableError, match="0 networks, 0 of them held out, leave 0"):
        import_table(empty, PHONE, space, machine=MACHINE)
    windows = tmp_path / "windows.jsonl"
    windows.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert [row.key for row in read_given(windows, space).rows] == [row.key for row in rows[:11]]


def test_what_else_is_asked_for(space: MobileNetV3Space, tmp_path: Path) -> None:
    asked: list[tuple[dict[str, Any], str]] = [
        ({"machine": " "}, "importing needs --machine"),
        ({"machine": MACHINE, "held_out": 0.6}, "--held-out 0.6 must lie between 0 and 0.5"),
        ({"machine": MACHINE, "held_out": float("nan")}, "--held-out nan must lie"),
    ]
    for options, said in asked:
        with pytest.raises(ConfigError, match=said):
            import_table(tmp_path / "rows.jsonl", PHONE, space, **options)
    with pytest.raises(ConfigError, match="hwnas profile --kernels"):
        import_table(tmp_path / "rows.jsonl", PHONE, SyntheticSpace(), machine=MACHINE)  # type: ignore[arg-type]


def test_a_coarse_clock_is_refused_unless_accepted(
    space: MobileNetV3Space, rows: list[LatencyRow], tmp_path: Path
) -> None:
    tick = 0.2 * float(np.median([row.latency for row in rows]))
    lines = [
        line_of(row, latency_ms=tick * max(1, round(row.latency / tick)), low_ms=None, high_ms=None) for row in rows
    ]
    path = write(tmp_path / "rows.jsonl", lines)
    with pytest.raises(
        TableError, match=r"whole multiples of .* ms, which is \d+% of their median .*--coarse"
    ) as caught:
        import_table(path, PHONE, space, machine=MACHINE)
    assert "Measure longer runs" in str(caught.value)
    table = import_table(path, PHONE, space, machine=MACHINE, coarse=True)
    for row in table.rows:
        assert row.disturbed == ("imported", "coarse_clock")
        assert (row.high or 0) - row.latency == pytest.approx(max(0.05 * row.latency, tick / 2))
    assert api.import_rows(path, str(PHONE), space, machine=MACHINE, coarse=True).networks == len(rows)


@pytest.mark.parametrize("tick", [1.0, 16.6667, 0.01])
def test_ticks_are_found_where_they_matter(tick: float) -> None:
    counts = np.random.default_rng(0).integers(3, 18, size=30)
    rounded = np.round(counts * tick, 4)
    assert coarse_tick(rounded) == pytest.approx(tick, rel=1e-3)
    assert coarse_tick(2 * counts * tick) == pytest.approx(2 * tick, rel=1e-3), "the largest of several"
    assert coarse_tick(10 * counts * tick + tick) == 0.0, "one tenth of it is fine enough"
    assert coarse_tick(np.full(12, tick)) == pytest.approx(tick), "nothing can be told apart"


def test_fine_clocks_are_never_taken_for_coarse_ones() -> None:
    rng = np.random.default_rng(1)
    for count in (10, 12, 30, 300, 3000):
        for width in (0.001, 0.02, 0.3, 1.0):
            values = 10.0 * np.exp(width * rng.standard_normal(count))
            assert coarse_tick(values) == 0.0
            assert coarse_tick(np.round(values, 3)) == 0.0


def test_judges_are_drawn_by_a_seed_and_stay_when_a_file_grows(
    space: MobileNetV3Space, table: LatencyTable, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", [line_of(row) for row in table.rows])
    rows = read_given(path, space).rows
    chosen = choose_held_out(rows, space, 0.2, 0)
    assert len(chosen) == 24
    assert chosen == choose_held_out(rows[::-1], space, 0.2, 0)
    assert chosen != choose_held_out(rows, space, 0.2, 1)
    assert space.id_of(space.encode(space.smallest)) not in choose_held_out(rows, space, 0.5, 0)
    fewer = choose_held_out(rows[:100], space, 0.2, 0)
    assert len(fewer - chosen) <= 4


def test_an_unknown_error_of_a_space_is_still_an_answer(
    space: MobileNetV3Space, rows: list[LatencyRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(value: object) -> None:
        raise KeyError("depth")

    monkeypatch.setattr(space, "from_dict", broken)
    path = write(tmp_path / "rows.jsonl", [{"architecture": {}, "latency_ms": 1.0}])
    with pytest.raises(HwnasError, match=r"line 1: architecture is no network .*KeyError\('depth'\)"):
        importing.read_given(path, space)


def test_a_profile_does_not_take_an_imported_table_for_its_own(imported: Path, space: MobileNetV3Space) -> None:
    target = read_header(imported / "table.jsonl").target
    before = (imported / "model" / "model.json").read_bytes()
    with pytest.raises(RunFolderError, match="holds an imported table, not a profile"):
        profile_folder(target, space, ProfileSection(), imported)
    assert (imported / "model" / "model.json").read_bytes() == before

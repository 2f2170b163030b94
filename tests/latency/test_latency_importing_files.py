"""HELP's columns and Once-for-All's tables of blocks through the command line, in this process."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwnas.cli import main
from hwnas.files import data_home, sha256_file
from hwnas.latency.importing.block_table import keys_of
from hwnas.latency.table import LatencyTable
from hwnas.spaces.mobilenetv3 import MobileNetV3Space

SETTINGS: dict[str, Any] = {"classes": 1000, "widths": [1.0], "resolutions": [132, 160]}
LENGTH = 60
Command = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """``hwnas tables import FILE ...`` as a person types it: exit code, standard output, standard error."""

    def call(file: Path, *options: object, space: dict[str, Any] = SETTINGS) -> tuple[int, str, str]:
        described = tmp_path / "space.yaml"
        described.write_text(yaml.safe_dump({"name": "mobilenetv3", "settings": space}))
        usual: dict[str, object] = {
            "--target": "gpu/torch-fp32",
            "--machine": "Titan RTX",
            "--output": tmp_path / "out",
        }
        named = [part for name, value in usual.items() if name not in options for part in (name, value)]
        arguments = ["hwnas", "tables", "import", file, "--space", described, *named, *options]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def refused(command: Command, tmp_path: Path) -> Refused:
    """An import that fails: one message, exit code 2, nothing left behind. Returns the message."""

    def call(*arguments: Any, **settings: Any) -> str:
        code, out, err = command(*arguments, **settings)
        assert (code, out) == (2, ""), err
        assert err.startswith("hwnas: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()
        assert not data_home().exists()
        assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
        return err

    return call


def ofa_networks(count: int = LENGTH) -> list[dict[str, Any]]:
    """Networks as HELP's ``ofa_arch.json`` has them: 20 positions whatever the depths."""
    rng = np.random.default_rng(0)
    return [
        {
            "ks": rng.choice([3, 5, 7], 20).tolist(),
            "e": rng.choice([3, 4, 6], 20).tolist(),
            "d": rng.choice([2, 3, 4], 5).tolist(),
            "r": int(rng.choice([132, 160])),
        }
        for _ in range(count)
    ]


def write_columns(folder: Path, networks: list[Any] | None = None, **columns: Any) -> Path:
    networks = ofa_networks() if networks is None else networks
    (folder / "ofa_arch.json").write_text(json.dumps(networks))
    spread = np.random.default_rng(1).uniform(4.0, 9.0, len(networks)).astype(np.float32)
    np.savez(folder / "ofa_latency.npz", **({"titan_rtx_1": spread, "titan_rtx_64": 5 * spread} | columns))
    return folder / "ofa_latency.npz"


def test_a_column_of_help_becomes_a_table(command: Command, tmp_path: Path) -> None:
    path = write_columns(tmp_path)
    code, out, err = command(path, "--column", "titan_rtx_1", "--runtime-version", "1.8")
    assert code == 0, err
    assert "latency model of gpu/torch-fp32" in out
    table = LatencyTable.load(tmp_path / "out" / "table.jsonl")
    networks, values = ofa_networks(), np.load(path)["titan_rtx_1"]
    space = MobileNetV3Space(**SETTINGS)
    by_key = {row.key: row for row in table.rows}
    for network, value in zip(networks, values, strict=True):
        depths = network["d"]
        stages = [
            {"kernels": network["ks"][4 * i : 4 * i + depth], "expands": network["e"][4 * i : 4 * i + depth]}
            for i, depth in enumerate(depths)
        ]
        encoding = space.encode(space.from_dict({"resolution": network["r"], "width": 1.0, "stages": stages}))
        assert by_key[space.id_of(encoding)].latency == pytest.approx(float(value))
    assert table.header.session["imported"] == {
        "file": "ofa_latency.npz",
        "sha256": sha256_file(path),
        "rows": LENGTH,
        "column": "titan_rtx_1",
        "architectures": {"file": "ofa_arch.json", "sha256": sha256_file(tmp_path / "ofa_arch.json")},
    }
    assert table.header.fingerprint.identity["cpu_model"] == "Titan RTX"
    assert table.header.fingerprint.identity["imported"] is True
    assert {row.disturbed for row in table.rows} == {("imported",)}
    assert "column `titan_rtx_1`" in (tmp_path / "out" / "README.md").read_text()
    code, _, err = command(path, "--column", "titan_rtx_1")
    assert code == 2
    assert "exists already" in err


def test_networks_of_another_setting_are_left_out_and_counted(command: Command, tmp_path: Path) -> None:
    path = write_columns(tmp_path)
    small = sum(network["r"] == 132 for network in ofa_networks())
    options = ("--column", "titan_rtx_1", "--json")
    code, out, err = command(path, *options, space={**SETTINGS, "resolutions": [132]})
    assert code == 0, err
    result = json.loads(out)
    assert result["networks"] == small
    assert f"{LENGTH - small} of {LENGTH} networks are not of space mobilenetv3 as set" in result["notes"][0]
    assert "resolution 160 is not in space" in result["notes"][0]


def test_batch_unit_and_number_of_networks(command: Command, refused: Refused, tmp_path: Path) -> None:
    path = write_columns(tmp_path)
    options = ("--column", "titan_rtx_64")
    assert "at batch 64, the target has batch 1. Give the target of batch 64" in refused(path, *options)
    assert "--unit min must be one of ms, us, s" in refused(path, *options, "--unit", "min")
    more = ("--target", "gpu/torch-fp32-b64", "--unit", "us", "--networks", "40", "--json")
    code, out, err = command(path, *options, *more)
    assert code == 0, err
    assert json.loads(out)["networks"] == 40
    assert "40 of the 60 networks were taken" in json.loads(out)["notes"][0]
    table = LatencyTable.load(tmp_path / "out" / "table.jsonl")
    assert table.header.session["imported"]["unit"] == "us"
    given = {round(float(value) / 1e3, 9) for value in np.load(path)["titan_rtx_64"]}
    assert {round(row.latency, 9) for row in table.rows} <= given


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"d": np.full(LENGTH, np.nan)}, "entry 1: latency=nan must be a positive, finite number of ms"),
        ({"d": np.r_[np.arange(1.0, LENGTH), 0.0]}, "entry 60: latency=0.0 must be a positive"),
        ({"d": np.arange(1.0, LENGTH)}, "has 59 latencies"),
        ({"d": np.ones((LENGTH, 2))}, "has shape [60, 2]"),
        ({"d": np.full(LENGTH, "fast")}, "of <U4"),
        ({"d": np.array([1.0, "x"] * 30, dtype=object)}, "cannot be read (Object arrays cannot be loaded"),
        ({"other": np.ones(LENGTH)}, "there is no column 'd': --column, one of titan_rtx_1, titan_rtx_64, other"),
        ({"d": np.random.default_rng(0).integers(3, 12, LENGTH)}, "whole multiples of 1 ms, which is"),
    ],
)
def test_columns_that_cannot_be_used(refused: Refused, tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    assert said in refused(write_columns(tmp_path, **columns), "--column", "d")


def test_a_coarse_column_can_be_accepted(command: Command, tmp_path: Path) -> None:
    path = write_columns(tmp_path, phone=np.random.default_rng(0).integers(3, 12, LENGTH))
    code, _, err = command(path, "--column", "phone", "--coarse")
    assert code == 0, err
    table = LatencyTable.load(tmp_path / "out" / "table.jsonl")
    assert {row.disturbed for row in table.rows} == {("imported", "coarse_clock")}


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        (["|avg_pool_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|none~2|"] * LENGTH, "cells of NAS-Bench-201"),
        (
            [[7, 8, 1] * 7 + [0]] * LENGTH,
            "operations of FBNet, a space that hwnas does not have. Networks of one space",
        ),
        ([{"ks": [3]}] * LENGTH, "no network of Once-for-All (KeyError('e')). It must be {\"ks\": [...]"),
        ([{"ks": [3] * 20, "e": [3] * 20, "d": [2, 2, 2, 2, 5], "r": 160}] * LENGTH, "d no more than that"),
        ([{"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 160}] * LENGTH, "entry 2: the same network as entry 1"),
        ([{"ks": [9] * 20, "e": [3] * 20, "d": [2] * 5, "r": 160}] * LENGTH, "60 of 60 networks are not of space"),
        ([{"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 160.5}] * LENGTH, "must be whole numbers"),
        ([5] * LENGTH, "no network of Once-for-All"),
        ({}, "holds no list of networks"),
    ],
)
def test_networks_that_are_none_of_a_space_here(refused: Refused, tmp_path: Path, networks: Any, said: str) -> None:
    path = write_columns(tmp_path, titan_rtx_1=np.linspace(4.0, 9.0, LENGTH), networks=networks)
    assert said in refused(path, "--column", "titan_rtx_1")


def test_files_beside_the_columns(command: Command, refused: Refused, tmp_path: Path) -> None:
    path = write_columns(tmp_path)
    assert "say which column: --column, one of titan_rtx_1, titan_rtx_64" in refused(path)
    listed = (tmp_path / "ofa_arch.json").rename(tmp_path / "networks.json")
    options = ("--column", "titan_rtx_1")
    assert "ofa_arch.json does not exist" in refused(path, *options)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "cannot be read as JSON" in refused(path, *options, "--architectures", broken)
    assert command(path, *options, "--architectures", listed)[0] == 0


def test_what_is_no_file_of_columns(refused: Refused, tmp_path: Path) -> None:
    empty, text, absent = tmp_path / "empty.npz", tmp_path / "text.npz", tmp_path / "absent.npz"
    empty.write_bytes(b"")
    text.write_text("1,2\n")
    for path in (empty, text):
        assert "cannot be read (File is not a zip file). It must be an .npz file of plain numbers" in refused(path)
    assert "does not exist" in refused(absent)
    np.save(tmp_path / "one.npy", np.ones(3))
    assert "is one array without names" in refused(tmp_path / "one.npy")


def test_graphs_of_nn_meter_are_refused_with_where_they_are_used(refused: Refused, tmp_path: Path) -> None:
    np.savez(tmp_path / "graphs.npz", rows=np.ones((3, 8)), offsets=[0, 3], ops=["conv"], cortexA76cpu_ms=[1.0])
    line = {"id": "alexnet_0", "cortexA76cpu_tflite21": 12.3, "graph": {"conv1": {"attr": {}, "inbounds": []}}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n")
    for name in ("graphs.npz", "rows.jsonl"):
        said = refused(tmp_path / name)
        assert "nn-Meter" in said
        assert "benchmarks/kernel_model_accuracy.py" in said
        assert "hwnas profile --kernels" in said


def test_no_pickle_is_read(refused: Refused, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([1.0, 2.0], tmp_path / "v100_1.pt")
    torch.save([1.0, 2.0], tmp_path / "zipped")
    torch.save([1.0, 2.0], tmp_path / "old", _use_new_zipfile_serialization=False)
    (tmp_path / "protocol0.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    (tmp_path / "latency").mkdir()
    torch.save([1.0], tmp_path / "latency" / "v100_1.pt")
    for name in ("v100_1.pt", "zipped", "old", "protocol0.pkl", "latency"):
        said = refused(tmp_path / name)
        assert "pickle" in said
        assert "weights_only=True" in said


def test_the_advised_conversion_gives_what_can_be_imported(
    command: Command, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "ofa"
    (folder / "latency").mkdir(parents=True)
    values = np.random.default_rng(0).uniform(4.0, 9.0, LENGTH)
    torch.save(values.tolist(), folder / "latency" / "v100_1.pt")
    torch.save({"arch": ofa_networks()}, folder / "ofa_archs.pt")
    advised = refused(folder / "latency").split('python -c "')[1].split('" and import')[0]
    monkeypatch.chdir(folder)
    exec(compile(advised, "advised", "exec"), {})
    code, _, err = command(folder / "ofa_latency.npz", "--column", "v100_1")
    assert code == 0, err


def entries_of(space: dict[str, Any], resolution: int) -> dict[str, dict[str, float]]:
    """A table of all blocks of a resolution, in the form of Once-for-All's files."""
    own, rng = MobileNetV3Space(**{**space, "resolutions": [resolution]}), np.random.default_rng(resolution)
    plans = [plan for row in own.sample(rng, 1500) for plan in own.plan(own.decode(row))]
    means = {}
    for plan in plans:
        work = 1e-6 * (plan.mid_channels or 8) * plan.side**2 * (8 + plan.kernel**2)
        means |= {key: 0.012345 + work / len(keys_of(plan)) for key in keys_of(plan)}
    return {key: {"count": 100, "mean": mean, "std": 0.01} for key, mean in means.items()}


def write_blocks(path: Path, entries: Any) -> Path:
    path.write_text(yaml.safe_dump(entries))
    return path


def test_keys_are_those_of_the_published_tables() -> None:
    entries = entries_of({"classes": 1000, "widths": [1.2]}, 160)
    assert len(entries) == 96, "as many as Note 10's 160_lookup_table.yaml has"
    assert {
        "AvgPool2D-input:5x5x1152-output:1x1x1152",
        "Conv-input:160x160x3-output:80x80x24",
        "Conv_1-input:5x5x192-output:5x5x1152",
        "Conv_2-input:1x1x1152-output:1x1x1536",
        "Logits-input:1x1x1536-output:1000",
        "expanded_conv-input:80x80x24-output:80x80x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0",
        "expanded_conv-input:80x80x24-output:40x40x32-expand:144-kernel:7-stride:2-idskip:0-se:0-hs:0",
        "expanded_conv-input:20x20x48-output:20x20x48-expand:192-kernel:5-stride:1-idskip:1-se:1-hs:0",
        "expanded_conv-input:10x10x96-output:10x10x136-expand:288-kernel:3-stride:1-idskip:0-se:1-hs:1",
        "expanded_conv-input:10x10x136-output:5x5x192-expand:408-kernel:3-stride:2-idskip:0-se:1-hs:1",
    } <= entries.keys()


def test_networks_are_composed_of_a_table_of_blocks(command: Command, tmp_path: Path) -> None:
    tables = {resolution: entries_of(SETTINGS, resolution) for resolution in (132, 160)}
    (tmp_path / "luts").mkdir()
    for resolution, entries in tables.items():
        write_blocks(tmp_path / "luts" / f"{resolution}_lookup_table.yaml", entries)
    code, out, err = command(tmp_path / "luts", "--networks", 80, "--json")
    assert code == 0, err
    (note, _) = json.loads(out)["notes"]
    assert "sums of 192 block entries, not measurements of networks" in note
    table = LatencyTable.load(tmp_path / "out" / "table.jsonl")
    assert len(table) == 80
    space = MobileNetV3Space(**SETTINGS)
    for row in table.rows:
        network = space.decode(np.array(row.encoding))
        own = tables[network.resolution]
        total = sum(own[key]["mean"] for plan in space.plan(network) for key in keys_of(plan))
        assert row.latency == pytest.approx(total)
        assert sum(row.kernels.values()) == pytest.approx(total)
        assert row.kernels.keys() == {plan.name for plan in space.plan(network)}
        assert (row.estimator, row.disturbed) == ("composed from block table", ("imported", "composed"))
        assert (row.low, row.high) == (pytest.approx(0.9 * total), pytest.approx(1.1 * total))
    assert table.header.session["imported"]["origin"] == "composed from block table"
    assert table.header.fingerprint.identity["imported"] == "composed from block table"
    assert "Nobody measured these networks" in (tmp_path / "out" / "README.md").read_text()
    baselines = json.loads((tmp_path / "out" / "evaluation.json").read_text())["baselines"]
    assert baselines["block_lut"]["mape"] < 0.01


def test_the_smallest_network_costs_what_its_keys_say(command: Command, tmp_path: Path) -> None:
    keys = ["Conv-input:160x160x3-output:80x80x16"]
    block = "expanded_conv-input:{0}x{0}x{1}-output:{2}x{2}x{3}-expand:{4}-kernel:3-stride:{5}-idskip:{6}-se:{7}-hs:{8}"
    keys.append(block.format(80, 16, 80, 16, 16, 1, 1, 0, 0))
    stages = [
        (80, 16, 40, 24, 2, 0, 0),
        (40, 24, 20, 40, 2, 1, 0),
        (20, 40, 10, 80, 2, 0, 1),
        (10, 80, 10, 112, 1, 1, 1),
        (10, 112, 5, 160, 2, 1, 1),
    ]
    for side, before, out, after, stride, se, hs in stages:
        keys.append(block.format(side, before, out, after, 3 * before, stride, 0, se, hs))
        keys.append(block.format(out, after, out, after, 3 * after, 1, 1, se, hs))
    keys += ["Conv_1-input:5x5x160-output:5x5x960", "AvgPool2D-input:5x5x960-output:1x1x960"]
    keys += ["Conv_2-input:1x1x960-output:1x1x1280", "Logits-input:1x1x1280-output:1000"]
    space = {**SETTINGS, "resolutions": [160]}
    entries = entries_of(space, 160)
    code, _, err = command(write_blocks(tmp_path / "lut.yml", entries), "--networks", 20, "--unit", "s", space=space)
    assert code == 0, err
    own = MobileNetV3Space(**space)
    table = LatencyTable.load(tmp_path / "out" / "table.jsonl")
    smallest = own.encode(own.smallest).tolist()
    value = next(row.latency for row in table.rows if list(row.encoding) == smallest)
    assert value == pytest.approx(1e3 * sum(entries[key]["mean"] for key in keys))


def test_networks_with_a_missing_block_are_left_out_and_the_key_is_named(
    command: Command, refused: Refused, tmp_path: Path
) -> None:
    space = {**SETTINGS, "resolutions": [160]}
    entries = entries_of(space, 160)
    missing = "expanded_conv-input:5x5x160-output:5x5x160-expand:960-kernel:7-stride:1-idskip:1-se:1-hs:1"
    del entries[missing]
    path = write_blocks(tmp_path / "lut.yaml", entries)
    assert "Conv-input:132x132x3-output:66x66x16" in refused(path, space={**SETTINGS, "resolutions": [132]})
    said = refused(path, space={**SETTINGS, "resolutions": [160], "classes": 10})
    assert "missing first: Logits-input:1x1x1280-output:10. It holds, for example" in said
    code, out, err = command(path, "--networks", 40, "--json", space=space)
    assert code == 0, err
    assert f"missing first: {missing}" in json.loads(out)["notes"][1]
    assert " of 4002 networks drawn have a block that lut.yaml lacks" in json.loads(out)["notes"][1]
    own = MobileNetV3Space(**space)
    for row in LatencyTable.load(tmp_path / "out" / "table.jsonl").rows:
        network = own.decode(np.array(row.encoding))
        assert missing not in {key for plan in own.plan(network) for key in keys_of(plan)}


STEM = "Conv-input:160x160x3-output:80x80x16"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no blocks"),
        ("- 1\n- 2\n", "holds no blocks"),
        ("a: [", "cannot be read as YAML of plain numbers"),
        ("a: !!python/object/apply:os.system [ls]\n", "cannot be read as YAML of plain numbers"),
        ("name: mobilenetv3\nsettings: {}\n", "'name' is no block of Once-for-All's tables"),
        (f"{STEM}: 0.5\n", "mean is missing. Each entry must be BLOCK"),
        (f"{STEM}: {{count: 5}}\n", "mean is missing"),
        (f"{STEM}: {{mean: -0.5}}\n", f"{STEM}: mean=-0.5 must be a positive, finite number of ms. Measure the block"),
        (f"{STEM}: {{mean: .nan}}\n", "mean=nan must be a positive"),
        (f"{STEM}: {{mean: fast}}\n", "mean=fast must be a positive"),
        (f"{STEM}: {{mean: 0.5}}\n{STEM}: {{mean: 0.6}}\n", f"{STEM} stands twice"),
        (f"{STEM}: {{mean: 0.5}}\n", "missing first: Conv-input:132x132x3"),
    ],
)
def test_yaml_that_is_no_table_of_blocks(refused: Refused, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lut.yaml"
    path.write_text(text)
    assert said in refused(path)


def test_other_refusals_of_tables_of_blocks(refused: Refused, tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read as YAML" in refused(tmp_path / "binary.yaml")
    (tmp_path / "none").mkdir()
    assert "is a folder without YAML files" in refused(tmp_path / "none")
    path = write_blocks(tmp_path / "lut.yaml", entries_of(SETTINGS, 160))
    assert "--column and --architectures are for .npz files" in refused(path, "--column", "v100_1")
    (tmp_path / "both").mkdir()
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / "both" / name).write_bytes(path.read_bytes())
    said = refused(tmp_path / "both")
    assert f"{STEM} stands in a.yaml and in b.yaml" in said
    coarse = {
        key: {"mean": float(max(1, round(4 * entry["mean"])))} for key, entry in entries_of(SETTINGS, 160).items()
    }
    assert "whole multiples of 1 ms" in refused(write_blocks(path, coarse), space={**SETTINGS, "resolutions": [160]})


def test_the_space_must_be_that_of_the_blocks(refused: Refused, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"name": "synthetic", "settings": {}}))
    path = write_blocks(tmp_path / "lut.yaml", entries_of(SETTINGS, 160))
    assert "networks of space synthetic share no blocks" in refused(path, "--space", other)


def test_options_for_files_of_rows(command: Command, refused: Refused, tmp_path: Path) -> None:
    space = MobileNetV3Space(**SETTINGS)
    rng = np.random.default_rng(0)
    lines = [{"encoding": row.tolist(), "latency_ms": float(rng.uniform(3, 9))} for row in space.sample(rng, 30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "latency_ms of" in refused(path, "--unit", "s")
    assert "--column and --architectures are for .npz files" in refused(path, "--column", "x")
    code, out, err = command(path, "--networks", 20, "--json")
    assert code == 0, err
    assert json.loads(out)["networks"] == 20


def test_a_zip_of_something_else(refused: Refused, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "none")
    (tmp_path / "other.zip").write_bytes(buffer.getvalue())
    (tmp_path / "other_arch.json").write_text(json.dumps(ofa_networks()))
    assert "--column, one of (the file has none)" in refused(tmp_path / "other.zip")

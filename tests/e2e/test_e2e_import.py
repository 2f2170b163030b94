from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from e2e_support import SPACE, Hwnas, refused

from hwnas.latency.importing.block_table import keys_of
from hwnas.spaces.base import unique_rows
from hwnas.spaces.mobilenetv3 import MobileNetV3Space

PHONE, MACHINE = "pixel3/tflite-fp32", "Pixel 3, Cortex-A76"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("import") / "space.yaml"
    path.write_text(yaml.safe_dump({"name": "mobilenetv3", **SPACE}))
    return path


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """What a person measured on a phone that does 2e9 multiply-accumulates a second."""
    own, rng = MobileNetV3Space(**SPACE["settings"]), np.random.default_rng(0)
    lines = []
    for encoding in unique_rows(own.sample(rng, 200))[:30]:
        macs = sum(layer.macs for layer in own.graph(own.decode(encoding)).layers)
        value = (0.02 + macs / 2e6) * float(np.exp(0.01 * rng.standard_normal()))
        lines.append({"encoding": encoding.tolist(), "latency_ms": value})
    return lines


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_own_measurements_become_a_table_like_any_other(
    hwnas: Hwnas, space: Path, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "phone"
    command = ("tables", "import", rows, "--target", PHONE, "--space", space, "--machine", MACHINE)
    made = hwnas(*command, "--runtime-version", "2.14.0", "--output", output)
    assert made.returncode == 0, made.stderr
    assert "latency model of pixel3/tflite-fp32-t1-b1" in made.stdout
    assert "hwnas predict ARCHITECTURE --target" in made.stdout
    again = hwnas(*command, "--output", output)
    refused(again, "exists already", "--output")
    predicted = hwnas("predict", "smallest", "largest", "--target", PHONE, "--model", output, "--json")
    assert predicted.returncode == 0, predicted.stderr
    smallest, largest = json.loads(predicted.stdout)
    assert 0 < smallest["low"] < smallest["value"] < largest["value"]
    shown = hwnas("tables", "show", output, "--json")
    assert json.loads(shown.stdout)["identity"]["cpu_model"] == MACHINE


def test_columns_and_tables_of_blocks_that_others_published(hwnas: Hwnas, tmp_path: Path) -> None:
    own, rng = MobileNetV3Space(**SPACE["settings"] | {"widths": [1.0]}), np.random.default_rng(0)
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({"name": "mobilenetv3", "settings": own.settings()}))
    networks = [own.decode(encoding) for encoding in unique_rows(own.sample(rng, 200))[:30]]
    listed = []
    for network in networks:
        kernels, expands = [*network.kernels[0], 3], [*map(int, network.expands[0]), 3]
        listed.append({"ks": kernels[:2], "e": expands[:2], "d": [network.depths[0]], "r": network.resolution})
    (tmp_path / "ofa_arch.json").write_text(json.dumps(listed))
    np.savez(tmp_path / "ofa_latency.npz", v100_1=rng.uniform(3, 9, len(networks)))
    given = ("--target", PHONE, "--space", space, "--machine", MACHINE, "--output")
    made = hwnas("tables", "import", tmp_path / "ofa_latency.npz", "--column", "v100_1", *given, tmp_path / "columns")
    assert made.returncode == 0, made.stderr
    means = {key: {"mean": 0.1 + len(key) / 100} for net in networks for plan in own.plan(net) for key in keys_of(plan)}
    (tmp_path / "blocks.yaml").write_text(yaml.safe_dump(means))
    made = hwnas("tables", "import", tmp_path / "blocks.yaml", "--networks", 30, *given, tmp_path / "blocks")
    assert made.returncode == 0, made.stderr
    assert "not measurements of networks" in " ".join(made.stdout.split())
    for folder in ("columns", "blocks"):
        predicted = hwnas("predict", "largest", "--target", PHONE, "--model", tmp_path / folder, "--json")
        assert predicted.returncode == 0, predicted.stderr
    (tmp_path / "v100_1.pt").write_bytes(b"PK")
    refused(
        hwnas("tables", "import", tmp_path / "v100_1.pt", *given, tmp_path / "out"), "is a pickle", "weights_only=True"
    )
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_imported_is_told_and_leaves_nothing(
    hwnas: Hwnas, space: Path, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "out"

    def importing(changed: list[dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
        rows = write(tmp_path / "rows.jsonl", changed)
        return hwnas("tables", "import", rows, "--target", PHONE, "--space", space, "--output", output, *options)

    machine = ("--machine", MACHINE)
    refused(importing(lines), "importing needs --machine", "refused everywhere")
    wrong = [*lines[:4], {**lines[4], "latency_ms": -1}, *lines[5:]]
    refused(importing(wrong, *machine), "rows.jsonl, line 5: latency_ms=-1 must be a positive")
    assert not output.exists()

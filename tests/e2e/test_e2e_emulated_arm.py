"""An ARM processor under emulation, made by the program that people use, measured in instructions over a command prefix."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_support import ROOT, Hwnas
from onnx import TensorProto, helper, numpy_helper, save

PREPARE = ROOT / "profilers" / "emulated_arm" / "prepare.py"
TARGET = "emulated-arm/onnxruntime-fp32"
SPACE = """
name: mobilenetv3
settings:
  classes: 10
  in_channels: 1
  resolutions: [8, 12]
  widths: [0.25]
  kernels: [3, 5]
  expands: [3, 4]
  depths: [1, 2]
  stem_stride: 1
  stages:
    - {channels: 16, stride: 2, activation: relu, se: false}
    - {channels: 24, stride: 2, activation: hswish, se: true}
"""

needs_an_emulator = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or shutil.which("debootstrap") is None,
    reason="needs qemu-user and debootstrap, which CI installs",
)


def prepare(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PREPARE), *map(str, arguments)], capture_output=True, text=True, timeout=280, **settings
    )


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm") / "device"
    done = prepare(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def added(device: Path, hwnas: Hwnas) -> dict[str, Any]:
    done = hwnas("devices", "add", "emulated-arm", "--command", device / "run", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def convolution(path: Path, channels: int) -> Path:
    weight = numpy_helper.from_array(np.ones((channels, 4, 3, 3), dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 64, 64])],
        [weight],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@needs_an_emulator
def test_the_device_says_what_it_is_and_that_it_counts(added: dict[str, Any]) -> None:
    identity = added["identity"]
    assert identity["arch"] == "aarch64"
    assert identity["counts"] == "instructions"
    assert "qemu-user" in identity["cpu_model"]


@needs_an_emulator
@pytest.mark.usefixtures("added")
def test_a_network_costs_the_same_instructions_every_time(home: Path, hwnas: Hwnas) -> None:
    values = []
    for channels in (8, 8, 32):
        model = convolution(home / f"arm-{channels}.onnx", channels)
        done = hwnas("measure", model, "--target", TARGET, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["unit"] == "instructions"
        assert "latency_ms" not in found
        assert found["grade"] == "A"
        values.append(found["value"])
    assert values[0] == pytest.approx(values[1], rel=0.01)
    assert values[2] > values[0] > 5e5


@needs_an_emulator
@pytest.mark.usefixtures("added")
def test_a_profile_in_instructions(home: Path, hwnas: Hwnas) -> None:
    space = home / "arm-space.yaml"
    space.write_text(SPACE, encoding="utf-8")
    folder = home / "arm-profile"
    sizes = ("--set", "profile.networks=12", "--set", "profile.held_out=4")
    done = hwnas("profile", "--target", TARGET, "--space", space, *sizes, "--output", folder, "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    del rows[0]
    assert len(rows) == 16
    assert {row["unit"] for row in rows} == {"instructions"}
    assert {row["grade"] for row in rows} == {"A"}
    assert not any(row.get("disturbed") for row in rows)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Counted, not timed" in card
    assert " instructions" in card
    accuracy = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert accuracy["metrics"]["mape"] < 0.1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    done = prepare(tmp_path / "device", env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "apt-get install qemu-user debootstrap" in done.stderr
    assert not (tmp_path / "device").exists()


@needs_an_emulator
def test_a_broken_download_leaves_nothing_half_made(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "debootstrap").write_text(
        '#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/usr"\necho no route; exit 1\n'
    )
    (programs / "debootstrap").chmod(0o755)
    folder = tmp_path / "device"
    done = prepare(folder, env={"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"})
    assert done.returncode == 2
    assert "no route" in done.stderr
    assert not list(folder.iterdir())

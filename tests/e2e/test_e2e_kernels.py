"""``profile --kernels`` and ``predict model.onnx`` as a person types them, with the real runtime."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from e2e_support import Hwnas, refused
from onnx import TensorProto, helper

from hwnas.backends.onnx_qdq import build_int8
from hwnas.testing.trained import example_space

TARGET = "local/onnxruntime-fp32"
SMALL = (
    *("--set", "profile.networks=30", "--set", "profile.held_out=8", "--set", "profile.rounds=4"),
    *("--set", "space.settings.side=[6,14]", "--set", "space.settings.macs=4e6", "--set", "space.settings.blocks=3"),
    *("--set", "space.settings.parameters=200000", "--set", "space.settings.elements=20000"),
)


class Net(torch.nn.Module):
    """A network of a user's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, width, 3, padding=1, groups=width),
            torch.nn.Conv2d(width, 2 * width, 1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(2 * width, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for width in (16, 32):
        path = folder / f"net{width}.onnx"
        torch.onnx.export(Net(width).eval(), (torch.zeros(1, 3, 12, 12),), str(path), dynamo=False)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def profiled(hwnas: Hwnas) -> dict[str, object]:
    result = hwnas("profile", "--kernels", "--target", TARGET, *SMALL, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_kernel_model_is_made_and_judged(profiled: dict[str, object]) -> None:
    assert profiled["networks"] == 38
    scores = profiled["scores"]
    assert set(scores) == {"model", "physics", "macs", "test_retest"}  # type: ignore[call-overload]
    model = json.loads((Path(str(profiled["folder"])) / "model" / "model.json").read_text())
    assert model["kind"] == "kernels"
    rows = [json.loads(line) for line in (Path(str(profiled["folder"])) / "table.jsonl").read_text().splitlines()[1:]]
    assert all(row["kernels"] for row in rows if row["split"] == "train" and "failure" not in row)


def test_files_are_predicted_kernel_by_kernel(hwnas: Hwnas, profiled: dict[str, object], files: list[Path]) -> None:
    assert profiled
    result = hwnas("predict", *files, "--target", TARGET, "--json")
    assert result.returncode == 0, result.stderr
    small, large = json.loads(result.stdout)
    for found in (small, large):
        assert found["low"] < found["value"] < found["high"]
        assert found["unit"] == "ms"
        assert sum(kernel["value"] for kernel in found["kernels"]) + found["overhead"] == pytest.approx(found["value"])
        assert {"conv", "depthwise", "linear", "global_pool"} <= {kernel["kind"] for kernel in found["kernels"]}
    assert small["value"] < large["value"]
    shown = hwnas("predict", files[0], "--target", TARGET)
    assert "costliest kernels of" in shown.stdout
    assert "kernel model: " in shown.stdout
    assert small["model"] == profiled["folder"]


def test_what_cannot_be_predicted(hwnas: Hwnas, profiled: dict[str, object], files: list[Path], tmp_path: Path) -> None:
    folder = profiled["folder"]
    refused(hwnas("predict", files[0], "smallest", "--target", TARGET), "not both at once")
    refused(
        hwnas("predict", files[0], "--target", "local/openvino-fp32-t2"),
        "no kernel model",
        "hwnas profile --kernels --target local/openvino-fp32-t2-b1",
    )
    refused(hwnas("predict", files[0], "--target", "local/openvino-fp32", "--model", folder), "runtime")
    refused(hwnas("predict", tmp_path / "absent.onnx", "--target", TARGET), "absent.onnx", "is not a file")
    refused(hwnas("predict", tmp_path / "model.xml", "--target", TARGET), "ONNX files only")
    refused(hwnas("predict", files[0], "--target", f"{TARGET}-b2"), "takes 1 images at once, the target 2")
    for kind, word in ((TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64")):
        ends = [helper.make_tensor_value_info(name, kind, [1, 3, 8, 8]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "other.onnx")
        refused(hwnas("predict", tmp_path / "other.onnx", "--target", TARGET), word, "hwnas measure")
    space = example_space()
    onnx.save(build_int8(space.graph(space.smallest)), tmp_path / "int8.onnx")
    refused(hwnas("predict", tmp_path / "int8.onnx", "--target", TARGET), "is quantised", "hwnas measure")
    (tmp_path / "broken.onnx").write_bytes(b"no model at all")
    refused(hwnas("predict", tmp_path / "broken.onnx", "--target", TARGET), "broken.onnx")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "dynamic.onnx")
    refused(hwnas("predict", tmp_path / "dynamic.onnx", "--target", TARGET), "fixed")
    for runtime in ("onnxruntime-int8", "torch-fp32"):
        refused(
            hwnas("profile", "--kernels", "--target", f"local/{runtime}"), "cannot be told from a file", "hwnas measure"
        )
    refused(hwnas("profile", "--space", "synthetic", "--target", "local/torch-fp32"), "cannot be told from a file")
    refused(hwnas("profile", "--kernels", "--target", TARGET, "--set", "profile.networks=12"), "at least 24 networks")
    refused(hwnas("tables", "transfer", "--space", "synthetic", "--target", TARGET), "hwnas profile --kernels")
    refused(hwnas("profile", "--kernels", "--refresh", "--target", TARGET), "--refresh")
    refused(hwnas("profile", "--kernels", "--space", "other.yaml", "--target", TARGET), "--kernels", "other.yaml")
    refused(hwnas("profile", "--kernels", "--target", TARGET, "--set", "space.settings.depth=3"), "depth")


def test_a_model_of_a_space_is_no_kernel_model(hwnas: Hwnas, files: list[Path], tmp_path: Path) -> None:
    settings = ("--set", "profile.networks=12", "--set", "profile.held_out=2", "--set", "profile.rounds=3")
    space = tmp_path / "space.yaml"
    space.write_text("name: mobilenetv3\nsettings: {classes: 4, resolutions: [32, 48], widths: [0.5]}\n")
    made = hwnas("profile", "--target", TARGET, "--space", space, *settings, "--output", tmp_path / "table")
    assert made.returncode == 0, made.stderr
    assert "judge by, chosen beforehand" in (tmp_path / "table" / "README.md").read_text()
    refused(hwnas("predict", files[0], "--target", TARGET, "--model", tmp_path / "table"), "not of kernels")

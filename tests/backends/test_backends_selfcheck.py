from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from hwnas.backends.base import Quantising
from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.cli.backends import app
from hwnas.devices.models import ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import MissingRuntimeError
from hwnas.targets import Device
from hwnas.testing.selfcheck import check_backend


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_session(Device("local")) as opened:
        yield opened


class Forgetful(OnnxRuntimeBackend):
    """Loses the biases of the last layer on the way, and cannot do int8."""

    def _export(
        self,
        module: nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        lossy = copy.deepcopy(module)
        nn.init.zeros_([layer for layer in lossy.modules() if isinstance(layer, nn.Linear)][-1].weight)
        if precision == "int8":
            precision, quantising = "fp32", None
        return super()._export(lossy, example, precision, folder, quantising, batch)


class Elsewhere(OnnxRuntimeBackend):
    """Makes files for a runtime that no device has."""

    name = "tensorrt"


def test_a_backend_that_works_is_said_to(session: Session) -> None:
    report = check_backend(OnnxRuntimeBackend(), session)
    assert list(report) == ["fp32", "int8"]
    for precision, found in report.items():
        assert (found["works"], found["failure"]) == (True, ""), precision
        assert found["provider"] == "CPUExecutionProvider"
        assert found["median"] > 0
        assert 30 < found["in_blocks"] <= found["kernels"]
    assert report["fp32"]["error"] < 1e-5 < report["int8"]["error"]


def test_a_backend_that_computes_something_else_is_found_out(session: Session) -> None:
    report = check_backend(Forgetful(), session)
    assert not report["fp32"]["works"]
    assert "away from torch" in report["fp32"]["failure"]
    assert report["fp32"]["error"] > 0.1
    assert not report["int8"]["works"]
    assert "fallback: int8 was asked for" in report["int8"]["failure"]


def test_a_device_without_the_runtime_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    with open_session(Device("local")) as opened:
        if opened.hello().runtimes["tensorrt"].available:
            pytest.skip("tensorrt is installed here")
        with pytest.raises(MissingRuntimeError, match="pip install tensorrt"):
            check_backend(Elsewhere(), opened)


def test_the_command_tells_what_works_and_leaves_with_1_where_it_does_not() -> None:
    good = CliRunner().invoke(app, ["check", "onnxruntime"])
    assert good.exit_code == 0, good.output
    assert good.output.count("works") == 2
    bad = CliRunner().invoke(app, ["check", "simulated", "--device", "simulated-reference", "--json"])
    assert bad.exit_code == 1
    report = json.loads(bad.stdout)
    assert set(report) == {"fp32", "fp16", "bf16", "int8"}
    assert not any(found["works"] for found in report.values())

"""A converter's environment that is made while a session is open: the worker finds its runtime."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from hwnas.devices.models import ModelFiles
from hwnas.devices.session import open_session
from hwnas.errors import MeasurementFailure, MissingRuntimeError
from hwnas.targets import Device, Target

TARGET = Target("local", "ncnn", "fp32")


@pytest.mark.skipif(importlib.util.find_spec("ncnn") is not None, reason="ncnn is installed beside hwnas here")
def test_a_runtime_is_found_in_an_environment_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    model = tmp_path / "model.param"
    model.write_text("no network")
    with open_session(Device("local")) as session:
        with pytest.raises(MissingRuntimeError, match="ncnn"):
            session.load(ModelFiles(model), TARGET)
        environment = tmp_path / "environments" / "ncnn-0123456789abcdef"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        package = environment / "lib" / version / "site-packages" / "ncnn"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("def get_cpu_count():\n    return 1\n")
        (environment / "ready.json").write_text(json.dumps({"name": "ncnn", "pip": []}))
        with pytest.raises(MeasurementFailure):  # the runtime is there now; the file is no network
            session.load(ModelFiles(model), TARGET)
        assert session.hello().runtimes["ncnn"].available

"""An artifact of every converter's backend checks itself with its own scripts, in an environment without hwnas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas import registry
from hwnas.artifacts.export import export_model
from hwnas.config import ExportSection
from hwnas.devices.session import open_session
from hwnas.environments.recipe import install
from hwnas.targets import Target, find_device
from hwnas.testing.trained import trained_example

pytestmark = [pytest.mark.environment, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("setting", ["litert-fp32", "litert-int8", "executorch-fp32", "executorch-int8", "ncnn-fp16"])
def test_verify_script_passes_without_hwnas(setting: str, tmp_path: Path) -> None:
    target = Target.parse(f"local/{setting}")
    backend = registry.load("backend", target.runtime)()
    example = trained_example()
    install(backend.recipe)  # before the worker starts, which then finds the runtime there
    with open_session(find_device("local")) as session:
        artifact = export_model(
            example.module,
            target=target,
            backend=backend,
            session=session,
            folder=tmp_path / "artifact",
            input_shape=(1, *example.images.shape[1:]),
            samples=example.calibration,
            section=ExportSection(rounds=5),
        )
    assert {"verify.py", "infer.py", "runtime.py"} <= {entry.path for entry in artifact.manifest.files}
    command = [str(backend.recipe.python), "-I", str(artifact.folder / "verify.py"), "--json", "--no-latency"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert {check["check"].split()[0] for check in checks} == {"files", "samples"}
    assert sys.executable != str(backend.recipe.python)

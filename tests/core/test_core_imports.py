from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_is_light() -> None:
    loaded = run(
        "import sys, hwnas, hwnas.config, hwnas.targets;"
        "print([m for m in ('torch', 'onnx', 'xgboost', 'pymoo', 'sklearn', 'plotly') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_torchvision_imports_beside_a_cpu_torch() -> None:
    assert run("import hwnas, torchvision; print(torchvision.models.mobilenet_v3_small().training)") == "True"


def test_every_public_name_resolves() -> None:
    assert run("import hwnas; print(all(getattr(hwnas, name) is not None for name in hwnas.__all__))") == "True"


def test_the_device_side_imports_nothing_of_the_host_side() -> None:
    loaded = run("import sys, hwnas_profilers.__main__; print([m for m in sys.modules if m.split('.')[0] == 'hwnas'])")
    assert loaded == "[]"


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch onnx onnxruntime openvino xgboost pymoo sklearn scipy plotly numpy pandas PIL jinja2"
    loaded = run(
        "import sys\nfrom typer.testing import CliRunner\nfrom hwnas.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([m for m in {heavy.split()!r} if m in sys.modules])"
    )
    assert loaded == "[]"

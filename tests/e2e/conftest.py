from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from e2e_support import ROOT, Hwnas, environment


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def hwnas(home: Path) -> Hwnas:
    """Run the command as a person would, from a folder that is not the checkout."""

    def call(*arguments: object, timeout: float = 280, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hwnas", *map(str, arguments)],
            cwd=cwd or home,
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call


@pytest.fixture(scope="session")
def tiny(home: Path, hwnas: Hwnas) -> subprocess.CompletedProcess[str]:
    """The whole loop, once: ``examples/tiny.yaml``."""
    return hwnas("run", ROOT / "examples" / "tiny.yaml", "--json", "--allow-broken")

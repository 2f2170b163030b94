from __future__ import annotations

from pathlib import Path

import pytest
from reporting_support import build_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("runs") / "fashion-demo")

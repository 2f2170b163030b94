from __future__ import annotations

from pathlib import Path

import pytest
from artifacts_support import build_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    build_package(folder)
    return folder

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HWNAS_CACHE", str(folder))
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    return folder


MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a folder of small lossless pictures: ``make_folder(["a", "b"], 6, parts=("train", "test"))``."""

    def make(
        classes: list[str], count: int, *, parts: tuple[str, ...] = ("",), mode: str = "RGB", name: str = "pictures"
    ) -> Path:
        rng = np.random.default_rng(0)
        root = tmp_path / name
        for part in parts:
            for label in classes:
                for index in range(count):
                    path = root / part / label / f"{index:03d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shape = (12, 12, 3) if mode == "RGB" else (12, 12)
                    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        return root

    return make

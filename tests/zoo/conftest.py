from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from zoo_support import NAME, Pictures, scratch_config

from hwnas import api
from hwnas.config import DataSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.zoo import Entry
from hwnas.zoo.maker import add_entry


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's data folder of these tests."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_HOME", str(folder / "home"))
        patch.setenv("HWNAS_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="session")
def scratch(home: Path) -> Path:
    """Folder of a run whose supernet was trained on the real digits; do not change it."""
    config = scratch_config()
    api.train(config, runs=home / "runs")
    return home / "runs" / config.name


@pytest.fixture(scope="session")
def entry(scratch: Path) -> Entry:
    """The entry made of it, in the user's zoo; do not change it."""
    return add_entry(scratch, NAME, note="Trained by a test.", randoms=4)


@pytest.fixture
def copied(entry: Entry, tmp_path: Path) -> Path:
    """A copy of the entry's folder, to be damaged."""
    return shutil.copytree(entry.folder, tmp_path / "copies" / entry.name)


@pytest.fixture(scope="session")
def data(home: Path) -> ImageData:
    return load_data(DataSection(source="digits", image_size=12))


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Write digits of some classes as pictures, gray or in colour; returns the ``data.source``."""

    def write(classes: range, *, colour: bool = False) -> str:
        digits = load_digits()
        for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            if label in classes:
                folder = tmp_path / "pictures" / f"digit-{label}"
                folder.mkdir(parents=True, exist_ok=True)
                values = np.clip(image * 16, 0, 255).astype(np.uint8)
                shown = np.stack([values, values // 2, 255 - values], axis=-1) if colour else values
                Image.fromarray(shown).resize((12, 12)).save(folder / f"{index}.png")
        return f"imagefolder:{tmp_path / 'pictures'}"

    return write

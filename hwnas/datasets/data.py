"""A data set as the rest of hwnas sees it: four splits and one definition of preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas.config import DataSection
from hwnas.datasets.folders import ImageFolderSource
from hwnas.datasets.pool import Pool, load_pool
from hwnas.datasets.preprocessing import Preprocessing
from hwnas.datasets.sources import FASHION_FOLDER, DigitsSource, FashionMnistSource, Source
from hwnas.datasets.split import Split
from hwnas.datasets.splits import SPLITS, split_rows
from hwnas.datasets.torch_sources import imported_source, torchvision_source
from hwnas.errors import DataError
from hwnas.files import data_home, digest

__all__ = ["ImageData", "Split", "build_data", "load_data", "open_source"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images in four disjoint splits.

    Attributes:
        name: What reports call it; no absolute path.
        classes: Names of the classes.
        image_size: Side of the stored images, pixels.
        train: What networks learn from.
        validation: Guides search and early stopping.
        gate: Never trained on; decides about int8.
        test: Reported once, chooses nothing.
        preprocess: Bytes to network input: ``preprocess(images_uint8, resolution)``.
        augment: The augmentation asked for in training: ``none``, ``shift`` or ``shift-flip``.
        digest: sha256 over images, labels, classes and splits.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Split
    validation: Split
    gate: Split
    test: Split
    preprocess: Preprocessing
    augment: str
    digest: str

    @property
    def channels(self) -> int:
        """1 (every picture is gray) or 3 (RGB)."""
        return len(self.preprocess.mean)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel of the training images, in [0, 1] units."""
        return self.preprocess.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel of the training images, in [0, 1] units."""
        return self.preprocess.std

    def preprocessing(self, resolution: int) -> dict[str, Any]:
        """Return the definition of :attr:`preprocess` at ``resolution`` as plain data, for manifests."""
        return self.preprocess.describe(resolution)

    def split(self, name: str) -> Split:
        """Return the split called ``name``.

        Raises:
            DataError: No such split.
        """
        if name not in SPLITS:
            raise DataError(f"unknown split {name!r}; known: {', '.join(SPLITS)}.")
        split: Split = getattr(self, name)
        return split

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images in each split."""
        return {name: len(self.split(name)) for name in SPLITS}


def _resolve(path: str, base: Path, root: str | None = None) -> Path:
    return base / Path(root or "").expanduser() / Path(path).expanduser()


def open_source(section: DataSection, base: Path | None = None) -> Source:
    """Open what ``section.source`` names; relative paths start at ``base`` (the current folder).

    Raises:
        DataError: The source is unknown or cannot be opened.
    """
    base = base or Path.cwd()
    kind, _, rest = section.source.partition(":")
    if section.source == "digits":
        return DigitsSource()
    if kind == "fashion-mnist":
        folder = rest or section.root
        return FashionMnistSource(_resolve(folder, base) if folder else FASHION_FOLDER)
    if kind == "imagefolder" and rest:
        return ImageFolderSource(_resolve(rest, base, section.root))
    if kind == "torchvision" and rest:
        root = _resolve(section.root, base) if section.root else data_home() / "datasets"
        return torchvision_source(rest, root, section.download)
    if rest and all(part.isidentifier() for part in (*kind.split("."), rest)):
        return imported_source(section.source, base)
    raise DataError(
        f"data.source {section.source!r} is unknown; expected digits, fashion-mnist[:FOLDER], "
        "imagefolder:FOLDER_OR_ARCHIVE, torchvision:NAME or pkg.mod:function."
    )


def build_data(name: str, pool: Pool, section: DataSection) -> ImageData:
    """Split a pool as ``section`` says.

    Raises:
        DataError: A split would be empty.
    """
    rows = split_rows(pool.labels, pool.parts, section)
    mean, std = pool.moments(rows["train"])
    preprocess = Preprocessing(section.image_size, mean, std)
    images, labels = torch.from_numpy(pool.images), torch.from_numpy(pool.labels)
    splits = {key: Split(key, images, labels, torch.from_numpy(rows[key]), preprocess) for key in SPLITS}
    return ImageData(
        name=name,
        classes=pool.classes,
        image_size=section.image_size,
        **splits,
        preprocess=preprocess,
        augment=section.augment,
        digest=_digest(pool, rows),
    )


def _digest(pool: Pool, rows: Mapping[str, NDArray[np.int64]]) -> str:
    return digest({"pool": pool.digest, "rows": {key: digest(value.tolist()) for key, value in rows.items()}})


def load_data(section: DataSection, *, base: Path | None = None) -> ImageData:
    """Read, decode (or take from the cache) and split the images a run file names.

    Args:
        section: Source, size, fractions, seed.
        base: Where relative paths start; the current folder if None.

    Raises:
        DataError: The source is unknown, absent or damaged, or a split would be empty.
        StorageError: The cache cannot be written.
    """
    source = open_source(section, base)
    return build_data(source.name, load_pool(source, section.image_size), section)

"""What a source of images is, and the two that need no folder of pictures."""

from __future__ import annotations

import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.datasets.images import Pixels, array_pixels
from hwnas.errors import DataError
from hwnas.files import sha256_file

TRAIN, VALIDATION, TEST = 0, 1, 2
"""The part of a data set an image was given for."""

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

Sample = tuple[int, Pixels, int]
"""Row, square picture, label."""


class Source(ABC):
    """Images with labels. ``name`` is what reports call it; it holds no absolute path."""

    name: str

    @abstractmethod
    def identity(self) -> dict[str, Any] | None:
        """Return what the decoded images depend on (names, sizes, digests of files); None: unknown, never cached."""

    @abstractmethod
    def parts(self) -> NDArray[np.int8]:
        """Return the part (:data:`TRAIN`, :data:`VALIDATION`, :data:`TEST`) each row was given for, shape ``[n]``."""

    @abstractmethod
    def samples(self, size: int) -> Iterator[Sample]:
        """Yield every row once, in any order, as a square picture of ``size``."""

    @abstractmethod
    def class_names(self, labels: Sequence[int]) -> tuple[str, ...]:
        """Return the name of each of these labels."""


class DigitsSource(Source):
    """The 1,797 handwritten digits (8 x 8, gray) that come inside scikit-learn."""

    name = "digits"

    def identity(self) -> dict[str, Any]:
        """The data never change."""
        return {"source": "digits"}

    def _load(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        from sklearn.datasets import load_digits

        data = load_digits()
        return np.rint(data.images * (255 / 16)).astype(np.uint8), data.target.astype(np.int64)

    def parts(self) -> NDArray[np.int8]:
        """No test set is given."""
        return np.full(len(self._load()[0]), TRAIN, dtype=np.int8)

    def samples(self, size: int) -> Iterator[Sample]:
        """Yield the digits in their own order."""
        for row, (image, label) in enumerate(zip(*self._load(), strict=True)):
            yield row, array_pixels(image, size), int(label)

    def class_names(self, labels: Sequence[int]) -> tuple[str, ...]:
        """The digits themselves."""
        return tuple(str(label) for label in labels)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of bytes.

    Raises:
        DataError: The file is damaged or of another kind.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a gzipped IDX file ({error}). Install it anew.") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an IDX file of bytes (it starts with {data[:4].hex() or 'nothing'}).")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    shape = tuple(int(value) for value in np.frombuffer(data[4:start], dtype=">u4"))
    if len(shape) != dimensions or len(data) - start != int(np.prod(shape)):
        raise DataError(f"{path} announces the shape {shape} but holds {len(data) - start} bytes of data.")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


class FashionMnistSource(Source):
    """Fashion-MNIST: 60,000 + 10,000 gray pictures of clothes, 28 x 28, as four gzipped IDX files.

    Args:
        folder: Where the files lie.

    Raises:
        DataError: A file is absent.
    """

    name = "fashion-mnist"

    def __init__(self, folder: Path = FASHION_FOLDER) -> None:
        self.files = {
            part: (folder / f"{stem}-images-idx3-ubyte.gz", folder / f"{stem}-labels-idx1-ubyte.gz")
            for part, stem in ((TRAIN, "train"), (TEST, "t10k"))
        }
        missing = [path.name for pair in self.files.values() for path in pair if not path.is_file()]
        if missing:
            raise DataError(
                f"Fashion-MNIST needs {', '.join(missing)} in {folder}. On Debian or Ubuntu: "
                "apt-get install dataset-fashion-mnist; elsewhere give the folder as source: fashion-mnist:FOLDER."
            )

    def identity(self) -> dict[str, Any]:
        """The digests of the four files."""
        return {"source": self.name, "files": [sha256_file(path) for pair in self.files.values() for path in pair]}

    def _labels(self, part: int) -> NDArray[np.uint8]:
        return read_idx(self.files[part][1])

    def parts(self) -> NDArray[np.int8]:
        """Training files first, then the test files."""
        return np.concatenate([np.full(len(self._labels(part)), part, dtype=np.int8) for part in self.files])

    def samples(self, size: int) -> Iterator[Sample]:
        """Yield the pictures in the order of the files."""
        row = 0
        for part, (images_path, labels_path) in self.files.items():
            images, labels = read_idx(images_path), self._labels(part)
            if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
                raise DataError(
                    f"{images_path} has shape {images.shape} and {labels_path.name} {labels.shape}; "
                    "one label for each 28 x 28 picture was expected."
                )
            for image, label in zip(images, labels, strict=True):
                yield row, array_pixels(image, size), int(label)
                row += 1

    def class_names(self, labels: Sequence[int]) -> tuple[str, ...]:
        """The ten kinds of clothes."""
        return tuple(FASHION_CLASSES[label] if label < len(FASHION_CLASSES) else str(label) for label in labels)

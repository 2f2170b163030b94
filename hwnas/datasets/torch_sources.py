"""Data sets of torchvision by name, and any torch ``Dataset`` by import path."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.datasets.images import any_pixels
from hwnas.datasets.sources import TEST, TRAIN, VALIDATION, Sample, Source
from hwnas.errors import DataError
from hwnas.files import digest

_SPLIT_NAMES = ((TRAIN, ("train", "trainval")), (VALIDATION, ("val", "valid")), (TEST, ("test",)))


class DatasetSource(Source):
    """Map-style data sets of ``(image, label)``; images are PIL images, arrays or tensors, not normalised.

    Args:
        name: What reports call it.
        datasets: Part -> data set.
        identity: What the images depend on; None: unknown, never cached.

    Raises:
        DataError: A data set has no length.
    """

    def __init__(self, name: str, datasets: dict[int, Any], identity: dict[str, Any] | None = None) -> None:
        self.name = name
        self.datasets = datasets
        self._identity = identity
        for dataset in datasets.values():
            if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
                raise DataError(
                    f"{name}: expected a torch.utils.data.Dataset with a length and indices (or a train/test pair), "
                    f"got {type(dataset).__name__}."
                )

    def identity(self) -> dict[str, Any] | None:
        """What was given."""
        return self._identity

    def parts(self) -> NDArray[np.int8]:
        """One part after the other."""
        return np.concatenate([np.full(len(dataset), part, dtype=np.int8) for part, dataset in self.datasets.items()])

    def _sample(self, dataset: Any, index: int, size: int) -> tuple[Any, int]:
        try:
            picture, label = dataset[index]
            if int(label) != label:
                raise ValueError(f"label {label!r} is not a whole number")
            return any_pixels(picture, size), int(label)
        except Exception as error:  # foreign code: whatever it raises is about this item
            raise DataError(
                f"{self.name}: item {index} is not a usable (image, label) pair ({type(error).__name__}: {error})."
            ) from error

    def samples(self, size: int) -> Iterator[Sample]:
        """Yield items in order, one at a time: data sets need not be safe in threads."""
        row = 0
        for dataset in self.datasets.values():
            for index in range(len(dataset)):
                yield row, *self._sample(dataset, index, size)
                row += 1

    def class_names(self, labels: Sequence[int]) -> tuple[str, ...]:
        """``dataset.classes`` where it fits, else the numbers."""
        names = getattr(next(iter(self.datasets.values())), "classes", None)
        if isinstance(names, (list, tuple)) and all(0 <= label < len(names) for label in labels):
            return tuple(str(names[label]) for label in labels)
        return tuple(str(label) for label in labels)


def _listing(root: Path) -> str:
    entries = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            status = path.stat()
            entries.append([path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns])
    return digest(entries)


def _make(factory: Callable[..., Any], name: str, root: Path, download: bool, **choice: Any) -> Any:
    known = inspect.signature(factory).parameters
    arguments = {key: value for key, value in {"root": str(root), "download": download}.items() if key in known}
    try:
        return factory(**arguments, **choice)
    except (TypeError, ValueError):  # an argument it does not take; the caller knows what that means
        raise
    except Exception as error:
        raise DataError(
            f"torchvision data set {name} cannot be opened in {root} ({error}). Put its files there, name their folder "
            "by data.root, or let torchvision fetch them with data.download: true."
        ) from error


def _make_parts(factory: Callable[..., Any], name: str, root: Path, download: bool) -> dict[int, Any]:
    known = inspect.signature(factory).parameters
    if "train" in known:
        return {part: _make(factory, name, root, download, train=part == TRAIN) for part in (TRAIN, TEST)}
    if "split" not in known:
        return {TRAIN: _make(factory, name, root, download)}
    found = {}
    for part, choices in _SPLIT_NAMES:
        for choice in choices:
            try:
                found[part] = _make(factory, name, root, download, split=choice)
                break
            except ValueError:  # torchvision's answer to a split that this data set does not have
                continue
    return found


def torchvision_source(name: str, root: Path, download: bool) -> DatasetSource:
    """Open ``torchvision.datasets.NAME`` with its own train, validation and test parts.

    Raises:
        DataError: No such data set, or its files are absent.
    """
    import torchvision.datasets as known

    factory = getattr(known, name, None)
    if not isinstance(factory, type) or not issubclass(factory, known.VisionDataset):
        near = difflib.get_close_matches(name, known.__all__, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"torchvision has no data set {name!r}.{hint}")
    try:
        parts = _make_parts(factory, name, root, download)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"torchvision data set {name} needs settings of its own ({error}). "
            "Write a function that returns it and give data.source as pkg.mod:function."
        ) from error
    if TRAIN not in parts:
        raise DataError(
            f"torchvision data set {name} has no training part under its own settings. "
            "Write a function that returns it and give data.source as pkg.mod:function."
        )
    return DatasetSource(name, parts, {"source": "torchvision", "name": name, "listing": _listing(root)})


def _import_function(path: str, base: Path) -> Callable[[], Any]:
    module_name, _, function_name = path.partition(":")
    sys.path.append(str(base))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"data.source {path!r} cannot be imported ({error}). Give it as pkg.mod:function.") from error
    finally:
        sys.path.remove(str(base))
    if not callable(function):
        raise DataError(f"data.source {path!r} is not a function but {type(function).__name__}.")
    return function  # type: ignore[no-any-return]


def imported_source(path: str, base: Path) -> DatasetSource:
    """Call ``pkg.mod:function`` (found as usual, or beside ``base``); it returns a data set or a train/test pair.

    Raises:
        DataError: It cannot be imported, fails, or returns something else.
    """
    function = _import_function(path, base)
    try:
        made = function()
    except Exception as error:
        raise DataError(f"data.source {path!r} failed ({type(error).__name__}: {error}).") from error
    if isinstance(made, tuple) and len(made) == 2:
        return DatasetSource(path, {TRAIN: made[0], TEST: made[1]})
    return DatasetSource(path, {TRAIN: made})

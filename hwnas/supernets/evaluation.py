"""Accuracy of architectures cut from a supernet, and of any module: recalibrate, run, compare."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.datasets.data import ImageData
from hwnas.datasets.split import Split
from hwnas.errors import ConfigError, SpaceError
from hwnas.spaces.base import SearchSpace
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.calibration import recalibrate_bn
from hwnas.supernets.folding import act_in_place, fold_in_place

Metric = Callable[[NDArray[np.float32], NDArray[np.int64]], float]
"""``metric(logits [n, classes], labels [n]) -> float``, larger is better."""

Batch = tuple[Tensor, Tensor]


def top1(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of images whose largest logit is the label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def balanced(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean over classes of the share of their images that are classified right."""
    right = logits.argmax(axis=1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


METRICS: dict[str, Metric] = {"top1": top1, "balanced": balanced}


def resolve_metric(name: str) -> Metric:
    """Return a metric by name (``top1``, ``balanced``) or import path (``pkg.mod:function``).

    Raises:
        ConfigError: Unknown name, or nothing callable at that path.
    """
    if name in METRICS:
        return METRICS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"unknown metric {name!r}; known: {', '.join(METRICS)}, or give pkg.mod:function.")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"metric {name!r} cannot be imported: {error}. It must read pkg.mod:function.") from error
    if not callable(found):
        raise ConfigError(f"metric {name!r} is not callable; it must take (logits, labels) and return a number.")
    metric: Metric = found
    return metric


def check_fits(space: SearchSpace[Any], data: ImageData) -> None:
    """Raise unless networks of ``space`` can read and classify ``data``.

    Raises:
        SpaceError: Channels or number of classes differ; the setting to change is named.
    """
    for key, here, wanted in (("classes", "classes", len(data.classes)), ("in_channels", "channels", data.channels)):
        found = getattr(space, key, wanted)
        if found != wanted:
            raise SpaceError(
                f"space {space.name} has {key}={found}, but data set {data.name} has {wanted} {here}. "
                f"Set space.settings.{key}={wanted}."
            )


@torch.inference_mode()
def predict_logits(module: nn.Module, batches: Iterable[Batch]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits ``[n, classes]`` and labels ``[n]`` of ``module`` in evaluation mode."""
    training = module.training
    module.eval()
    try:
        pairs = [(module(images), labels) for images, labels in batches]
    finally:
        module.train(training)
    logits, labels = torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
    return logits.float().cpu().numpy(), labels.cpu().numpy()


def evaluate_module(
    module: nn.Module, split: Split, *, resolution: int | None = None, metric: str = "top1", batch_size: int = 256
) -> float:
    """Return the metric of a module on a split; its batch-normalisation statistics are taken as they are.

    Args:
        module: Maps ``[b, c, r, r]`` to logits.
        split: The images.
        resolution: Side the module reads; None: that of ``module.architecture``.
        metric: Name or import path.
        batch_size: Images at once.

    Raises:
        ConfigError: Unknown metric.
        ValueError: No resolution is known.
    """
    resolution = resolution or getattr(getattr(module, "architecture", None), "resolution", None)
    if resolution is None:
        raise ValueError("the module has no architecture; give resolution=")
    return float(resolve_metric(metric)(*predict_logits(module, split.batches(batch_size, resolution))))


class _BatchCache:
    """Preprocessed batches by key, at most ``limit`` bytes; the least recently used are dropped first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, int], list[Batch]] = OrderedDict()

    def get(self, key: tuple[str, int], size_bytes: int, make: Callable[[], Iterator[Batch]]) -> Iterable[Batch]:
        """Return the batches of ``key``; those of more than ``limit`` bytes are made anew each time, one by one."""
        if size_bytes > self._limit:
            return make()
        if key not in self._kept:
            while self._kept and self.size_bytes + size_bytes > self._limit:
                self._kept.popitem(last=False)
            self._kept[key] = list(make())
        self._kept.move_to_end(key)
        return self._kept[key]

    @property
    def size_bytes(self) -> int:
        return sum(images.nbytes for batches in self._kept.values() for images, _ in batches)


class AccuracyEvaluator:
    """Accuracy of architectures of a supernet on the validation split.

    Every evaluation extracts the network, recalibrates its batch normalisation on always the same training images and
    runs always the same validation images, so one architecture always reads the same number.

    Args:
        supernet: Where weights come from; its present weights count at every call.
        data: The images.
        metric: Name or import path, larger is better.
        bn_images: Training images for recalibration.
        validation_images: Validation images (the first of the split's fixed random order); None: all.
        batch_size: Images at once.
        cache_mb: Memory for preprocessed images, in MiB; images beyond it are preprocessed anew each time.

    Raises:
        ConfigError: Unknown metric.
        SpaceError: The space does not fit the data.
    """

    def __init__(
        self,
        supernet: AnySupernet,
        data: ImageData,
        metric: str = "top1",
        *,
        bn_images: int = 512,
        validation_images: int | None = None,
        batch_size: int = 128,
        cache_mb: float = 512,
    ) -> None:
        check_fits(supernet.space, data)
        self._supernet = supernet
        self._data = data
        self._metric = resolve_metric(metric)
        self._bn_images = min(bn_images, len(data.train))
        self._validation_images = min(validation_images or len(data.validation), len(data.validation))
        self._batch_size = batch_size
        self._cache = _BatchCache(int(cache_mb * 2**20))

    def evaluate(self, architecture: Any) -> float:
        """Return the metric of one architecture.

        Raises:
            SpaceError: The architecture is not of the space.
        """
        network = self._supernet.extract(architecture).eval()
        act_in_place(network)
        self.recalibrate(network, architecture.resolution)
        fold_in_place(network)
        return self.evaluate_network(network, architecture.resolution)

    def extract(self, architecture: Any) -> nn.Module:
        """Return the architecture's network, recalibrated, in evaluation mode."""
        return self.recalibrate(self._supernet.extract(architecture).eval(), architecture.resolution)

    def recalibrate(self, network: nn.Module, resolution: int) -> nn.Module:
        """Return a module after its batch normalisation was recalibrated in place on the same training images."""
        recalibrate_bn(network, self._batches(self._data.train, self._bn_images, resolution))
        return network

    def evaluate_network(self, network: nn.Module, resolution: int) -> float:
        """Return the metric of a module on the same validation images, its statistics as they are."""
        batches = self._batches(self._data.validation, self._validation_images, resolution)
        return float(self._metric(*predict_logits(network, batches)))

    def evaluate_encodings(self, X: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the metric of each encoding, ``[n, n_genes] -> [n]``."""
        space = self._supernet.space
        return np.array([self.evaluate(space.decode(row)) for row in X], dtype=np.float64)

    def _batches(self, split: Split, count: int, resolution: int) -> Iterable[Batch]:
        size_bytes = count * self._data.channels * resolution**2 * 4
        return self._cache.get(
            (split.name, resolution),
            size_bytes,
            lambda: split.batches(self._batch_size, resolution, indices=np.arange(count)),
        )

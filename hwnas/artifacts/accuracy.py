"""Accuracy of an exported file on the target, and the gate that an int8 file must pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas.artifacts.parity import Runner, run_images, torch_outputs
from hwnas.artifacts.records import GateEntry
from hwnas.datasets.split import Split
from hwnas.devices.models import LoadedModel
from hwnas.errors import RefusedError
from hwnas.supernets.evaluation import resolve_metric

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Answers:
    """Outputs ``[n, classes]`` of a network on a split, and the labels ``[n]``."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each top-1 answer is right, ``[n]``."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels)

    def score(self, metric: str) -> float:
        """Return a metric by name or import path (:func:`hwnas.supernets.evaluation.resolve_metric`)."""
        return float(resolve_metric(metric)(self.logits, self.labels))


def accuracy_on(session: Runner, loaded: LoadedModel, split: Split, resolution: int) -> Answers:
    """Run every image of ``split`` through the exported file on the target."""
    name = loaded.outputs[0].name
    return _answers(lambda images: run_images(session, loaded, images)[name], split, resolution)


def torch_accuracy(module: torch.nn.Module, split: Split, resolution: int) -> Answers:
    """Run every image of ``split`` through the module in torch fp32."""
    return _answers(lambda images: torch_outputs(module, images)[0], split, resolution)


def _answers(network: Callable[[NDArray[np.float32]], NDArray[Any]], split: Split, resolution: int) -> Answers:
    logits, labels = [], []
    for images, batch_labels in split.batches(_BATCH, resolution):
        output = network(np.ascontiguousarray(images.numpy(), dtype=np.float32))
        logits.append(np.asarray(output, dtype=np.float32).reshape(len(images), -1))
        labels.append(batch_labels.numpy())
    return Answers(np.concatenate(logits), np.concatenate(labels))


def gate_counts(reference: NDArray[np.bool_], found: NDArray[np.bool_], max_drop: float) -> GateEntry:
    """Compare right answers image by image.

    Accuracy on ``n`` images moves in steps of ``1/n``; the net loss allowed is therefore a count of images:
    ``floor(max_drop * n)``, and at least one where any drop is allowed, since no smaller one can be seen.
    """
    count = len(reference)
    allowed = max(1, math.floor(max_drop * count + 1e-9)) if max_drop > 0 else 0
    return GateEntry(
        images=count,
        correct=int(found.sum()),
        fp32_correct=int(reference.sum()),
        lost=int((reference & ~found).sum()),
        gained=int((found & ~reference).sum()),
        allowed=allowed,
    )


def check_gate(counts: GateEntry, precision: str, max_drop: float) -> None:
    """Raise if the exported file loses more images of the gate split than allowed.

    Raises:
        RefusedError: With the counts.
    """
    net = counts.lost - counts.gained
    if net > counts.allowed:
        raise RefusedError(
            f"accuracy failed: on {counts.images} gate images {precision} gets {counts.correct} right, fp32 "
            f"{counts.fp32_correct} (lost {counts.lost}, gained {counts.gained}); a net loss of {counts.allowed} is "
            f"allowed (export.max_int8_drop={max_drop:g}). The file is no artifact and was removed. Raise "
            "export.calibration_images or export.max_int8_drop, or export for an fp32 target."
        )

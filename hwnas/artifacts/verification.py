"""What a file must pass before it is called an artifact: parity, accuracy, and a verdict per budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwnas.artifacts.manifest import GateEntry, OutputParity
from hwnas.devices.models import LoadedModel
from hwnas.errors import ArtifactError

if TYPE_CHECKING:
    import torch

    from hwnas.datasets.data import Split

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""Largest relative L2 distance to torch fp32, worst image; int8 is decided by accuracy on the gate split."""
ATTEMPTS = 4
"""One measurement and up to three more while the confidence interval straddles the budget."""
_TORCH_BATCH = 64


class Runner(Protocol):
    """The one thing asked of a session here."""

    def run(self, handle: str, inputs: dict[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run a loaded model: outputs by name for inputs by name."""
        ...


class Interval(Protocol):
    """What a verdict reads of a measurement."""

    @property
    def low(self) -> float:
        """Lower end of the confidence interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the confidence interval."""
        ...

    @property
    def statistic(self) -> str:
        """Statistic the interval is of."""
        ...


MeasurementT = TypeVar("MeasurementT", bound=Interval)


@dataclass(frozen=True)
class Verdict(Generic[MeasurementT]):
    """The outcome for one budget.

    Attributes:
        kind: ``kept`` or ``broken``.
        statistic: Statistic of the budget.
        budget_ms: The budget.
        measurements: Every measurement that was taken, in order; the last one decided.
    """

    kind: Literal["kept", "broken"]
    statistic: str
    budget_ms: float
    measurements: tuple[MeasurementT, ...]

    @property
    def tries(self) -> int:
        """Number of measurements."""
        return len(self.measurements)

    @property
    def decisive(self) -> MeasurementT:
        """The measurement that decided."""
        return self.measurements[-1]


def verdict(
    measure: Callable[[], MeasurementT], budget_ms: float, statistic: str, attempts: int = ATTEMPTS
) -> Verdict[MeasurementT]:
    """Measure until the confidence interval of ``statistic`` lies on one side of the budget.

    ``kept`` if the upper end is within the budget, ``broken`` if the lower end is above it; otherwise measured again,
    ``attempts`` times in all, and then ``broken``: what cannot be shown to keep a budget does not keep it.

    Raises:
        ValueError: The budget is not positive, or a measurement is of another statistic.
    """
    if not (budget_ms > 0 and math.isfinite(budget_ms)) or attempts < 1:
        raise ValueError(f"budget_ms={budget_ms} must be positive and finite, attempts={attempts} at least 1")
    taken: list[MeasurementT] = []
    while len(taken) < attempts:
        taken.append(measure())
        if taken[-1].statistic != statistic:
            raise ValueError(f"the budget is on {statistic}, the measurement is of {taken[-1].statistic}")
        if taken[-1].high <= budget_ms:
            return Verdict("kept", statistic, budget_ms, tuple(taken))
        if taken[-1].low > budget_ms:
            break
    return Verdict("broken", statistic, budget_ms, tuple(taken))


def compare_outputs(reference: NDArray[Any], found: NDArray[Any], tolerance: float | None) -> OutputParity:
    """Compare one output over images, both ``[n, ...]``; the relative L2 distance and cosine are of the worst image.

    Raises:
        ArtifactError: Shapes differ or a value is not finite.
    """
    if reference.shape != found.shape or reference.ndim == 0:
        raise ArtifactError(f"an output has shape {found.shape} in the exported file, {reference.shape} in torch.")
    a = reference.reshape(len(reference), -1).astype(np.float64)
    b = found.reshape(len(found), -1).astype(np.float64)
    if not np.isfinite(b).all() or not np.isfinite(a).all():
        raise ArtifactError("an output holds NaN or an infinity: the network or its exported file computes no numbers.")
    norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    tiny = np.finfo(np.float64).tiny
    return OutputParity(
        relative_l2=float(np.max(np.linalg.norm(a - b, axis=1) / np.maximum(norm_a, tiny))),
        max_abs=float(np.max(np.abs(a - b))),
        cosine=float(np.min(np.where(norm_a + norm_b > 0, (a * b).sum(1) / np.maximum(norm_a * norm_b, tiny), 1.0))),
        argmax_agreement=float(np.mean(a.argmax(1) == b.argmax(1))),
        tolerance=tolerance,
        images=len(a),
    )


def run_images(session: Runner, loaded: LoadedModel, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Run ``images`` ``[n, c, h, w]`` through a loaded model of fixed batch; the last batch is filled up and cut again.

    Returns:
        Output name -> ``[n, ...]``.
    """
    entry = loaded.inputs[0]
    batch = max(1, entry.shape[0]) if entry.shape else 1
    parts: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])
        for name, value in session.run(loaded.handle, {entry.name: np.ascontiguousarray(filled)}).items():
            parts.setdefault(name, []).append(np.asarray(value)[: len(chunk)])
    return {name: np.concatenate(values) for name, values in parts.items()}


def torch_outputs(module: torch.nn.Module, images: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return the outputs of ``module`` in evaluation mode on the CPU, each ``[n, ...]``, in order."""
    import torch

    training = module.training
    module.eval()
    parts: list[tuple[Any, ...]] = []
    with torch.no_grad():
        for start in range(0, len(images), _TORCH_BATCH):
            answer = module(torch.from_numpy(np.ascontiguousarray(images[start : start + _TORCH_BATCH])))
            parts.append(tuple(answer) if isinstance(answer, tuple | list) else (answer,))
    module.train(training)
    return [torch.cat(values).float().numpy() for values in zip(*parts, strict=True)]


def parity(
    session: Runner,
    loaded: LoadedModel,
    module: torch.nn.Module,
    images: NDArray[np.float32],
    precision: str,
) -> dict[str, OutputParity]:
    """Run the exported file on the target and ``module`` in torch on the same real images ``[n, c, h, w]``.

    Raises:
        ArtifactError: Outputs differ in number or shape, are not finite, or are further apart than the tolerance.
    """
    return check_parity(torch_outputs(module, images), run_images(session, loaded, images), loaded, precision)


def check_parity(
    reference: list[NDArray[Any]], found: Mapping[str, NDArray[Any]], loaded: LoadedModel, precision: str
) -> dict[str, OutputParity]:
    """Compare outputs by position and hold them to the tolerance of ``precision``.

    Raises:
        ArtifactError: As :func:`parity`.
    """
    names = [output.name for output in loaded.outputs]
    if len(names) != len(reference):
        raise ArtifactError(f"the exported file has {len(names)} outputs ({', '.join(names)}), torch {len(reference)}.")
    tolerance = TOLERANCE.get(precision)
    result = {name: compare_outputs(ours, found[name], tolerance) for name, ours in zip(names, reference, strict=True)}
    for name, entry in result.items():
        if tolerance is not None and entry.relative_l2 > tolerance:
            raise ArtifactError(
                f"parity failed: output {name!r} on {loaded.runtime} is {entry.relative_l2:.2e} (relative L2, worst of "
                f"{entry.images} images) from torch, the tolerance of {precision} is {tolerance:.0e}. "
                "The file is no artifact and was removed; export for another runtime, or report the network."
            )
    return result


def _batches(split: Split, resolution: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    for images, labels in split.batches(_TORCH_BATCH, resolution):
        yield np.ascontiguousarray(images.numpy(), dtype=np.float32), labels.numpy()


def _right(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(logits.reshape(len(labels), -1).argmax(1) == labels)


def accuracy_on(session: Runner, loaded: LoadedModel, split: Split, resolution: int) -> NDArray[np.bool_]:
    """Return for every image of ``split`` whether the exported file's top-1 answer is right, ``[n]``."""
    name = loaded.outputs[0].name
    right = [
        _right(run_images(session, loaded, images)[name], labels) for images, labels in _batches(split, resolution)
    ]
    return np.concatenate(right)


def torch_accuracy(module: torch.nn.Module, split: Split, resolution: int) -> NDArray[np.bool_]:
    """Return for every image of ``split`` whether the module's top-1 answer is right, ``[n]``."""
    return np.concatenate(
        [_right(torch_outputs(module, images)[0], labels) for images, labels in _batches(split, resolution)]
    )


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
        ArtifactError: With the counts.
    """
    net = counts.lost - counts.gained
    if net > counts.allowed:
        raise ArtifactError(
            f"accuracy failed: on {counts.images} gate images {precision} gets {counts.correct} right, fp32 "
            f"{counts.fp32_correct} (lost {counts.lost}, gained {counts.gained}); a net loss of {counts.allowed} is "
            f"allowed (export.max_int8_drop={max_drop:g}). The file is no artifact and was removed. Raise "
            "export.calibration_images or export.max_int8_drop, or export for an fp32 target."
        )

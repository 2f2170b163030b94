"""Train one fixed network from scratch: what a person would do without a supernet, and the baseline of experiments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from hwnas.config import TrainSection
from hwnas.datasets.data import ImageData
from hwnas.finetuning.loop import (
    EpochRecord,
    cosine,
    epoch_batches,
    epoch_seed,
    make_optimizer,
    train_epoch,
    train_step,
    validate,
)
from hwnas.progress import Advance
from hwnas.supernets.evaluation import resolve_metric
from hwnas.supernets.steps import LossSetting

Batch = tuple[Tensor, Tensor]


class _Clock:
    """How far training has come: by steps, or by seconds spent in training (validation does not count)."""

    def __init__(self, steps: float | None, seconds: float | None, now: Callable[[], float]) -> None:
        self._steps = steps
        self._seconds = seconds
        self._now = now
        self._spent = 0.0
        self._since = 0.0
        self.done = 0

    def resume(self) -> None:
        self._since = self._now()

    def pause(self) -> None:
        self._spent += self._now() - self._since
        self._since = self._now()

    @property
    def fraction(self) -> float:
        shares = []
        if self._steps is not None:
            shares.append(self.done / self._steps)
        if self._seconds is not None:
            shares.append((self._spent + self._now() - self._since) / self._seconds)
        return max(shares)


def _until_done(batches: Iterator[Batch], clock: _Clock) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        if clock.fraction >= 1:
            return


def train_alone(
    module: nn.Module,
    data: ImageData,
    section: TrainSection,
    *,
    resolution: int | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    seed: int = 0,
    metric: str = "top1",
    on_progress: Advance | None = None,
    now: Callable[[], float] = time.perf_counter,
) -> list[EpochRecord]:
    """Train ``module`` in place on the train split with SGD, linear warm-up and a cosine over the whole run.

    Args:
        module: Static network, left in evaluation mode.
        data: The images; test and gate splits are not read.
        section: Batch size, learning rate, weight decay, label smoothing, warm-up epochs.
        resolution: Side of the input, pixels; None: that of ``module.architecture``.
        minutes: Wall-clock limit of the training itself (validation does not count); the cosine follows the clock.
        epochs: Limit in epochs; with ``minutes`` too, whichever comes first.
        seed: Seed of order and augmentation; under ``epochs`` alone the result is the same for the same seed.
        metric: Recorded after every epoch.
        on_progress: Moved by one in all.
        now: Clock in seconds.

    Returns:
        One record per epoch, the last perhaps cut short.

    Raises:
        ValueError: Neither ``minutes`` nor ``epochs`` is given, or no resolution is known.
        ConfigError: Unknown metric, or training diverged.
    """
    side = resolution or getattr(getattr(module, "architecture", None), "resolution", None)
    if side is None or (minutes is None and epochs is None):
        raise ValueError(f"resolution={resolution!r}, minutes={minutes!r}, epochs={epochs!r}: give a side and a limit")
    steps = data.train.steps(section.batch_size)
    clock = _Clock(None if epochs is None else epochs * steps, None if minutes is None else 60 * minutes, now)
    optimizer = make_optimizer(module, "sgd", section.learning_rate, section.weight_decay)
    setting = LossSetting(section.label_smoothing)
    score = resolve_metric(metric)
    history: list[EpochRecord] = []

    def one(index: int, batch: Batch) -> float:
        warm = min(1.0, (clock.done + 1) / max(1.0, section.warmup_epochs * steps))
        loss = train_step(module, optimizer, batch, warm * cosine(section.learning_rate, clock.fraction), setting)
        clock.done += 1
        return loss

    clock.resume()
    while clock.fraction < 1:
        epoch, before = len(history) + 1, clock.fraction
        batch_seed = epoch_seed(seed, epoch)
        batches = epoch_batches(data.train, section.batch_size, side, data.augment, batch_seed)
        loss = train_epoch(module, _until_done(batches, clock), one, batch_seed)
        clock.pause()
        history.append(EpochRecord(epoch, loss, *validate(module, data.validation, side, score)))
        clock.resume()
        if on_progress is not None:
            on_progress(min(clock.fraction, 1.0) - before, f"epoch {epoch}: {history[-1].validation_accuracy:.4f}")
    module.eval()
    return history

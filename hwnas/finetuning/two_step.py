"""Two-step post-processing of a winner.

Source: NATv2's standard post-processing (Sarti et al., 2023; public code ``finetune_natnet.py``). Step 1 trains the extracted
network on the train split, stops when the validation loss has not improved for ``patience`` epochs, and keeps only one
number: E*, the epoch with the best validation metric. Step 2 extracts the network again and trains it on train + validation
for exactly E* epochs under the same schedule. Unlike that code, nothing here reads the test split, which there chose the
last epoch. An ensemble of exits goes the same way; where it is pruned, step 1 also says which exits step 2 trains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.config import ExitWeights, FinetuneSection
from hwnas.datasets.data import ImageData
from hwnas.datasets.split import Split
from hwnas.finetuning import checkpoint
from hwnas.finetuning.checkpoint import Stand
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
from hwnas.finetuning.pruning import Pruner
from hwnas.finetuning.variant import Variant, finished, variant_of
from hwnas.finetuning.winner import DESCRIPTION, Winner, load_winner, save_winner
from hwnas.progress import Advance
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.calibration import recalibrate_bn
from hwnas.supernets.evaluation import Metric, check_fits, resolve_metric
from hwnas.supernets.steps import LossSetting
from hwnas.supernets.storage import tensor_bytes

BN_IMAGES = 512
"""Training images for the batch-normalisation statistics of an extracted network."""

BN_BATCH = 128


def best_epoch(history: list[EpochRecord]) -> int:
    """Return E*: the first epoch with the highest validation metric of what is kept; 0 if training helped nothing."""
    return max(history, key=lambda record: (record.accuracy, -record.epoch)).epoch


def out_of_patience(history: list[EpochRecord], patience: int) -> bool:
    """Return whether the validation loss has not improved for ``patience`` epochs."""
    losses = [record.validation_loss or 0.0 for record in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _nothing(step: float, note: str) -> None:
    pass


@dataclass(frozen=True)
class Training:
    """A network in training."""

    variant: Variant
    module: nn.Module
    optimizer: torch.optim.Optimizer


class TwoStep:
    """The fine-tuning of one architecture.

    Args:
        supernet: Where weights come from; not changed.
        architecture: What to fine-tune.
        data: The images; ``data.test`` and ``data.gate`` are never read.
        section: Epochs, patience, rates.
        folder: Where checkpoints and the winner are kept.
        metric: Chooses E*.
        exit_ensemble: How a teacher with early exits weighs their logits.
    """

    def __init__(
        self,
        supernet: AnySupernet,
        architecture: Any,
        data: ImageData,
        section: FinetuneSection,
        folder: Path,
        metric: str = "top1",
        exit_ensemble: ExitWeights = "ascending",
    ) -> None:
        check_fits(supernet.space, data)
        self.supernet = supernet
        self.architecture = architecture
        self.variant = variant_of(section, supernet.space, architecture)
        self.resolution = int(architecture.resolution)
        self.data = data
        self.section = section
        self.folder = folder
        self.metric = metric
        self.score: Metric = resolve_metric(metric)
        prunes = section.exit_pruning and self.variant.several
        self.pruner = Pruner(supernet.space, self.variant, self.score) if prunes else None
        self.exit_ensemble = exit_ensemble
        self.teacher = self._calibrate(supernet.teacher(exit_ensemble)) if section.distillation else None
        self.identity = self._identity()

    def _identity(self) -> dict[str, Any]:
        weights = [self.variant.extract(self.supernet)]
        taught: dict[str, Any] = {}
        if self.teacher is not None:
            weights.append(self.teacher)
            taught = {} if self.exit_ensemble == "ascending" else {"exit_ensemble": self.exit_ensemble}
        return {
            "space": self.supernet.space.digest,
            "architecture": self.architecture.as_dict(),
            "data": self.data.digest,
            "augment": self.data.augment,
            "metric": self.metric,
            "weights": [hashlib.sha256(tensor_bytes(module.state_dict())).hexdigest() for module in weights],
            **taught,
            **self.section.model_dump(mode="json", exclude={"candidates"}),
        }

    def _bn_batches(self) -> list[tuple[Tensor, Tensor]]:
        indices = torch.arange(min(BN_IMAGES, len(self.data.train)))
        return list(self.data.train.batches(BN_BATCH, self.resolution, indices=indices))

    def _calibrate(self, module: nn.Module) -> nn.Module:
        recalibrate_bn(module.eval(), self._bn_batches())
        return module

    def _fresh(self, variant: Variant) -> Training:
        module = self._calibrate(variant.extract(self.supernet))
        section = self.section
        optimizer = make_optimizer(module, section.optimizer, section.learning_rate, section.weight_decay)
        return Training(variant, module, optimizer)

    def _variant(self, stand: Stand) -> Variant:
        """Return what the step in progress trains."""
        if stand.step == 1 or self.pruner is None:
            return self.variant
        first = stand.histories[1]
        return self.variant.pruned(self.supernet.space, first[best_epoch(first)].kept_exits or ())

    def _record(self, module: nn.Module, epoch: int, train_loss: float | None) -> EpochRecord:
        if self.pruner is not None:
            return self.pruner.record(module, self.data.validation, epoch, train_loss)
        loss, accuracy = validate(module, self.data.validation, self.resolution, self.score)
        return EpochRecord(epoch, train_loss, loss, accuracy)

    def _train_epoch(self, training: Training, split: Split, step: int, epoch: int) -> float:
        section, variant = self.section, training.variant
        setting = LossSetting(section.label_smoothing, section.distillation, variant.loss if variant.several else None)
        seed = epoch_seed(section.seed, step, epoch)
        steps = split.steps(section.batch_size)

        def one(index: int, batch: tuple[Tensor, Tensor]) -> float:
            rate = cosine(section.learning_rate, (epoch - 1 + index / steps) / section.epochs)
            return train_step(training.module, training.optimizer, batch, rate, setting, self.teacher)

        batches = epoch_batches(split, section.batch_size, self.resolution, self.data.augment, seed)
        return train_epoch(training.module, batches, one, seed)

    def find_epochs(self, stand: Stand, training: Training, advance: Advance) -> int:
        """Run (or go on with) step 1; returns E*."""
        module, optimizer = training.module, training.optimizer
        history = stand.histories[1]
        if not history:
            history.append(self._record(module, 0, None))
        while history[-1].epoch < self.section.epochs and not out_of_patience(history, self.section.patience):
            epoch = history[-1].epoch + 1
            loss = self._train_epoch(training, self.data.train, 1, epoch)
            history.append(self._record(module, epoch, loss))
            checkpoint.save(self.folder, self.identity, stand, module, optimizer)
            advance(1, f"step 1, epoch {epoch}: {self.metric} {history[-1].validation_accuracy:.4f}")
        return best_epoch(history)

    def train_final(self, stand: Stand, training: Training, epochs: int, advance: Advance) -> nn.Module:
        """Run (or go on with) step 2 for exactly ``epochs`` epochs; returns the network as it is shipped."""
        module, optimizer = training.module, training.optimizer
        history = stand.histories[2]
        split = self.data.train.joined(self.data.validation)
        for epoch in range(len(history) + 1, epochs + 1):
            history.append(EpochRecord(epoch, self._train_epoch(training, split, 2, epoch)))
            checkpoint.save(self.folder, self.identity, stand, module, optimizer)
            advance(1, f"step 2, epoch {epoch} of {epochs}: loss {history[-1].train_loss:.4f}")
        return finished(module.eval())

    def _resume(self) -> tuple[Stand, Training]:
        found = checkpoint.load(self.folder, self.identity)
        stand = Stand() if found is None else found[0]
        training = self._fresh(self._variant(stand))
        if found is not None:
            checkpoint.restore(self.folder, found[1], training.module, training.optimizer)
        return stand, training

    def run_first(self, advance: Advance) -> float:
        """Do step 1 from where it stands; returns the metric after E* epochs, of the exits that would be kept."""
        stand, training = self._resume()
        advance(len(stand.histories[1][1:]), "")
        epochs = self.find_epochs(stand, training, advance) if stand.step == 1 else best_epoch(stand.histories[1])
        advance(self.section.epochs - stand.histories[1][-1].epoch, "")
        return stand.histories[1][epochs].accuracy

    def run(self, advance: Advance) -> Winner:
        """Do both steps from where they stand."""
        stand, training = self._resume()
        advance(len(stand.histories[1][1:]) + len(stand.histories[2]), "")
        if stand.step == 1:
            self.find_epochs(stand, training, advance)
            stand.step = 2
            training = self._fresh(self._variant(stand))
        epochs = best_epoch(stand.histories[1])
        advance(self.section.epochs - stand.histories[1][-1].epoch, "")
        module = self.train_final(stand, training, epochs, advance)
        advance(self.section.epochs - epochs, "")
        histories = (tuple(stand.histories[1]), tuple(stand.histories[2]))
        variant = training.variant
        exits = dict(zip(variant.exits, variant.output, strict=True))
        return Winner(variant.architecture, module, epochs, self.metric, *histories, self.identity, exits)


def _earlier(task: TwoStep) -> Winner | None:
    """Return the winner that an earlier call finished, if there is one."""
    if not (task.folder / DESCRIPTION).exists():
        return None
    winner = load_winner(task.folder, task.supernet.space)
    checkpoint.refuse_foreign(winner.identity, task.identity, task.folder)
    checkpoint.remove(task.folder)
    return winner


def try_out(
    supernet: AnySupernet,
    architecture: Any,
    data: ImageData,
    section: FinetuneSection,
    folder: Path,
    *,
    on_progress: Advance | None = None,
    metric: str = "top1",
    exit_ensemble: ExitWeights = "ascending",
) -> float:
    """Do only the first step of :func:`finetune` and return the metric on the validation split after E* epochs.

    :func:`finetune` with the same arguments goes on from there. Arguments and errors are those of :func:`finetune`;
    ``on_progress`` is moved by ``section.epochs`` in all.
    """
    advance = on_progress or _nothing
    task = TwoStep(supernet, architecture, data, section, folder, metric, exit_ensemble)
    winner = _earlier(task)
    if winner is not None:
        advance(section.epochs, "already finished")
        return winner.validation_accuracy
    return task.run_first(advance)


def finetune(
    supernet: AnySupernet,
    architecture: Any,
    data: ImageData,
    section: FinetuneSection,
    folder: Path,
    *,
    on_progress: Advance | None = None,
    metric: str = "top1",
    exit_ensemble: ExitWeights = "ascending",
) -> Winner:
    """Fine-tune one architecture in two steps and keep the result in ``folder``.

    A finished winner is loaded, an interrupted one goes on after its last whole epoch.

    Args:
        supernet: Where weights come from; not changed.
        architecture: An architecture of the supernet's space.
        data: The images; the test and gate splits are never read.
        section: Epochs, patience, optimiser, rates, distillation from the supernet's largest network, seed.
        folder: Created if absent; holds ``weights.safetensors`` and ``winner.json`` in the end.
        on_progress: Moved by one per epoch, by ``2 * section.epochs`` in all.
        metric: Chooses E*.
        exit_ensemble: How a teacher with early exits weighs their logits (``train.exit_ensemble``).

    Raises:
        RunFolderError: ``folder`` holds the fine-tuning of another configuration.
        SpaceError: The architecture or the data do not fit the space.
        ConfigError: Unknown metric, training diverged, or exits are asked for that the space does not have.
    """
    advance = on_progress or _nothing
    task = TwoStep(supernet, architecture, data, section, folder, metric, exit_ensemble)
    earlier = _earlier(task)
    if earlier is not None:
        advance(2 * section.epochs, "already finished")
        return earlier
    winner = task.run(advance)
    save_winner(winner, supernet, folder)
    checkpoint.remove(folder)
    return winner

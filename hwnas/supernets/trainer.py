"""The loop of progressive shrinking: phases, steps, checkpoints.

Sources: Cai et al., "Once-for-All" (ICLR 2020), section 3.3, for phases and loss; the teacher is the largest network as it
stands when a phase begins (Sarti et al., "OFAv2", 2023: progressive teacher extraction). While all exits of a space with
early exits train at once, the loss is the weighted sum of theirs (Sarti et al., "Anticipate, Ensemble and Prune", 2023).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hwnas.config import TrainSection
from hwnas.datasets.data import ImageData
from hwnas.progress import Advance
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.supernets import probes, processes
from hwnas.supernets.base import Supernet
from hwnas.supernets.checkpoints import (
    Counters,
    load_checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    with_prefix,
)
from hwnas.supernets.exits import exit_weights
from hwnas.supernets.pace import Pace, in_words
from hwnas.supernets.phases import Phase, learning_rate_at, phases_of, steps_per_epoch
from hwnas.supernets.placing import placed, training_device
from hwnas.supernets.steps import BatchOrder, LossSetting, accumulate, make_optimizer, resolution_stream, subnet_stream
from hwnas.supernets.storage import load_tensors

Sampling = Literal["uniform", "sandwich"]
"""``uniform``: every network of a step is drawn at random. ``sandwich``: of two or more, the first is the phase's largest
and the second its smallest."""

NOT_IDENTITY = ("time_budget_minutes", "checkpoint_minutes", "device")
HISTORY_PER_PHASE = 20

MobileNetSupernet = Supernet[MobileNetV3Architecture]


def training_steps(section: TrainSection, data: ImageData, space: MobileNetV3Space) -> list[tuple[Phase, int]]:
    """Return each phase with its number of steps."""
    images = len(data.train)
    return [(phase, phase.steps(images, section.batch_size)) for phase in phases_of(section, space)]


class Trainer:
    """The state of a training run and its one step.

    Args:
        supernet: Trained in place.
        data: The images.
        section: Phases, epochs, rates, seeds.
        folder: Where checkpoints are kept.
        sampling: How the networks of a step are drawn.
    """

    def __init__(
        self, supernet: MobileNetSupernet, data: ImageData, section: TrainSection, folder: Path, sampling: Sampling
    ) -> None:
        assert isinstance(supernet.space, MobileNetV3Space)
        self.space = supernet.space
        self.device = training_device(section)
        self.supernet = supernet.to(self.device)
        self.section = section
        self.folder = folder
        self.sampling = sampling
        self.schedule = training_steps(section, data, self.space)
        self.total = sum(steps for _, steps in self.schedule)
        self.data = placed(data, self.device)
        self.batches = BatchOrder(self.data, section.batch_size, section.seed)
        processes.check_parts(min(section.batch_size, len(data.train)))
        self.epoch_steps = steps_per_epoch(len(data.train), section.batch_size)
        self.counters = Counters()
        self.teacher: nn.Module | None = None
        self.optimizer = self._fresh_optimizer()
        self.identity = {
            "supernet": supernet.name,
            "space": self.space.settings(),
            "data": data.digest,
            "augment": data.augment,
            "sampling": sampling,
            **{f"train.{k}": v for k, v in section.model_dump(mode="json").items() if k not in NOT_IDENTITY},
        }

    def _fresh_optimizer(self) -> torch.optim.SGD:
        return make_optimizer(self.supernet, self.section.learning_rate, self.section.weight_decay)

    @property
    def phase(self) -> Phase:
        """The phase in progress."""
        return self.schedule[self.counters.phase][0]

    def restore(self) -> bool:
        """Take up the checkpoint of the folder, if there is one."""
        found = load_checkpoint(self.folder, self.identity)
        if found is None:
            return False
        self.counters, tensors = found
        load_tensors(self.supernet, with_prefix("supernet", tensors), self.folder)
        restore_optimizer(self.optimizer, self.supernet, with_prefix("momentum", tensors))
        teacher = with_prefix("teacher", tensors)
        if teacher:
            self.teacher = self._largest()
            load_tensors(self.teacher, teacher, self.folder)
        return True

    def checkpoint(self) -> None:
        """Write everything the rest of the run depends on; momentum and teacher begin anew with a phase."""
        if processes.index():
            return
        tensors: dict[str, Tensor] = module_tensors("supernet", self.supernet)
        if self.counters.step:
            tensors |= optimizer_tensors("momentum", self.optimizer, self.supernet)
            tensors |= module_tensors("teacher", self.teacher) if self.teacher is not None else {}
        save_checkpoint(self.folder, self.identity, self.counters, tensors)

    def _largest(self) -> nn.Module:
        # The published script leaves the teacher in training mode: it normalises by the batch, so no recalibration.
        return self.supernet.teacher(self.section.exit_ensemble).requires_grad_(False).train()

    def begin_phase(self) -> None:
        """Sort channels, choose the teacher, forget momentum; all processes begin with the first one's weights."""
        processes.take_from_first(self.supernet)
        if self.phase.sort_stage is not None:
            self.supernet.sort_channels(self.phase.sort_stage)
        teaches = self.phase.distil and self.section.distillation > 0
        self.teacher = self._largest() if teaches else None
        self.optimizer = self._fresh_optimizer()

    def step(self) -> float:
        """Do one optimiser step and move the counters; returns the loss."""
        counters, seed = self.counters, self.section.seed
        index, step, steps = counters.phase, counters.step, self.schedule[counters.phase][1]
        resolutions = self.space.resolutions
        resolution = resolutions[int(resolution_stream(seed, index, step).integers(len(resolutions)))]
        warmup = min(round(self.phase.warmup_epochs * self.epoch_steps), steps // 5)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, warmup, self.phase.learning_rate)
        self.optimizer.zero_grad()
        batch = self.batches.batch(index, step, resolution)
        architectures = [self._draw(index, step, subnet) for subnet in range(self.phase.subnets)]
        exits = exit_weights(self.section.exit_loss, len(self.space.stages)) if self.phase.all_exits else None
        setting = LossSetting(self.section.label_smoothing, self.section.distillation, exits)
        loss = accumulate(self.supernet, architectures, batch, self.teacher, setting, self.section.precision)
        self.optimizer.step()
        self._count(loss, steps)
        return loss

    def _draw(self, index: int, step: int, subnet: int) -> MobileNetV3Architecture:
        widths = self.space.widths
        if self.sampling == "sandwich" and self.phase.subnets > 1 and subnet < 2:
            return self.phase.extreme(self.space, widths[-1 if subnet == 0 else 0], largest=subnet == 0)
        width = widths[(step + subnet) % len(widths)]
        return self.phase.sample(self.space, subnet_stream(self.section.seed, index, step, subnet), width)

    def _count(self, loss: float, steps: int) -> None:
        counters = self.counters
        counters.step += 1
        counters.done += 1
        counters.loss_sum += loss
        counters.loss_count += 1
        if counters.loss_count >= max(1, steps // HISTORY_PER_PHASE) or counters.step == steps:
            counters.history.append([counters.done, counters.loss_sum / counters.loss_count])
            counters.loss_sum, counters.loss_count = 0.0, 0
        if counters.step == steps:
            counters.phase, counters.step = counters.phase + 1, 0
            counters.complete = counters.phase == len(self.schedule)

    def _told(self, index: int, loss: float, left: float) -> str:
        name = self.schedule[index][0].name
        return f"{name} ({index + 1} of {len(self.schedule)}), loss {loss:.3f}, {in_words(left)} left"

    def _probe(self, index: int) -> None:
        """Evaluate a few networks of the phase that ended; a kill meanwhile costs the steps since the last checkpoint."""
        if processes.index():
            return
        section, named = self.section, probes.of_phase(self.schedule[index][0], index, self.space, self.section.seed)
        self.counters.accuracies[str(index)] = probes.accuracies(
            self.supernet, self.data, named, section.bn_images, probes.PHASE_IMAGES
        )

    def run(self, advance: Advance) -> bool:
        """Train to the end or until the time budget, over all starts, is spent; returns whether it came to the end."""
        start = saved = time.monotonic()
        before, pace = self.counters.seconds, Pace(self.schedule, self.counters.done)
        budget = (self.section.time_budget_minutes or float("inf")) * 60
        out_of_time = processes.decided(self.counters.seconds >= budget)
        while not self.counters.complete and not out_of_time:
            self.supernet.train()
            if self.counters.step == 0:
                self.begin_phase()
            index, loss = self.counters.phase, self.step()
            left = pace.seconds_left(self.counters.done, time.monotonic() - start)
            advance(1, self._told(index, loss, left))
            if self.counters.step == 0:
                self._probe(index)
            now = time.monotonic()
            self.counters.seconds = before + now - start
            out_of_time = processes.decided(self.counters.seconds >= budget)
            if self.counters.step == 0 or out_of_time or now - saved >= self.section.checkpoint_minutes * 60:
                self.checkpoint()
                saved = time.monotonic()
        return self.counters.complete

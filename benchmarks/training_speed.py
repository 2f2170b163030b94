"""Time of a training step of a run's supernet: as it is, and what layout, precision, batch size or compilation would change.

    python benchmarks/training_speed.py examples/fashion-mnist-cpu.yaml [--compile] [--json]

``largest`` is a step of the first phase (one network, the largest), ``random`` one of the last phase (as many networks as it
samples, always the same ones). All settings take turns in random order, round by round. On a processor the time is that of
its threads, which other programs disturb less than a clock; on a GPU the clock's. ``ratio`` compares images a second with the
present setting: channels last, ``train.precision`` fp32, eager, the first batch size. ``--compile`` adds torch.compile of the
largest network at that size; the first step's seconds, by the clock, hold the compilation, which every other network would
need again. Figures go beside this file.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _runs import keep, open_run, parser_of
from torch import Tensor

from hwnas.cli._common import print_json, print_table
from hwnas.config import Precision
from hwnas.runs.session import Run
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.phases import phases_of
from hwnas.supernets.placing import device_name, placed, training_device
from hwnas.supernets.steps import BatchOrder, LossSetting, accumulate, make_optimizer, subnet_stream

RESULTS = Path(__file__).with_name("training_speed.json")
PRESENT, NCHW, BF16, COMPILED = "present", "contiguous", "bf16", "compiled"

Networks = Sequence[MobileNetV3Architecture]
Batch = tuple[Tensor, Tensor]


@dataclass
class Cell:
    """One setting: its supernet, its batch, and the seconds of its steps."""

    setting: str
    networks: str
    batch_size: int
    supernet: AnySupernet
    architectures: Networks
    batch: Batch
    seconds: list[float] = field(default_factory=list)
    first_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.supernet, 0.01, 3e-5)
        self.precision: Precision = "bf16" if self.setting == BF16 else "fp32"

    def step(self) -> float:
        """Do one optimiser step; returns its seconds."""
        device = self.batch[0].device
        start = _clock(device)
        self.optimizer.zero_grad()
        accumulate(self.supernet, self.architectures, self.batch, None, LossSetting(0.1), self.precision)
        self.optimizer.step()
        return _clock(device) - start

    def as_dict(self, present: float) -> dict[str, Any]:
        """Return what was measured; ``present`` is images a second in the present setting."""
        seconds = float(np.median(self.seconds))
        return {
            "setting": self.setting,
            "networks": self.networks,
            "batch_size": self.batch_size,
            "seconds": seconds,
            "images_per_second": self.batch_size / seconds,
            "ratio": self.batch_size / seconds / present,
            "first_step_seconds": self.first_seconds,
            "rounds": len(self.seconds),
        }


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _contiguous(tensor: Tensor) -> Tensor:
    # Of one channel, contiguous() keeps the strides of channels last, and convolutions go by strides.
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def cells_of(run: Run, sizes: Sequence[int], compiled: bool) -> list[Cell]:
    """Return every setting of a run's supernet, each with a supernet of its own."""
    section, space = run.config.train, run.space
    assert isinstance(space, MobileNetV3Space)
    device = training_device(section)
    data = placed(run.data, device)
    last = phases_of(section, space)[-1]
    drawn = [last.sample(space, subnet_stream(section.seed, 0, 0, i), space.widths[-1]) for i in range(last.subnets)]
    cells = []
    for name, networks in (("largest", [space.largest]), ("random", drawn)):
        for size in sizes:
            batch = BatchOrder(data, size, section.seed).batch(0, 0, space.resolutions[-1])
            extra = [COMPILED] if compiled and name == "largest" and size == sizes[0] else []
            for setting in (PRESENT, NCHW, BF16, *extra):
                supernet = run.new_supernet().to(device).train()
                images = batch[0]
                if setting == NCHW:
                    for parameter in supernet.parameters():
                        parameter.data = _contiguous(parameter.data)
                    images = _contiguous(images)
                if setting == COMPILED:
                    supernet.compile()
                cells.append(Cell(setting, name, len(batch[1]), supernet, networks, (images, batch[1])))
    return cells


def measure(cells: Sequence[Cell], rounds: int) -> None:
    """Do one step of every cell to begin with, and one more in each round."""
    for cell in cells:
        start = time.perf_counter()
        cell.step()
        cell.first_seconds = time.perf_counter() - start
    order = list(cells)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for cell in order:
            cell.seconds.append(cell.step())


def shares_of(cell: Cell, steps: int = 4, most: int = 8) -> dict[str, float]:
    """Return the operators that take most of a step's processor time, by torch's profiler, and their shares of it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            cell.step()
    times = {event.key: float(event.self_cpu_time_total) for event in profiler.key_averages()}
    largest = sorted(times, key=lambda name: -times[name])[:most]
    return {name: times[name] / sum(times.values()) for name in largest}


def rows_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return what was measured, with ratios to the present setting of the same networks at the first batch size."""
    present = {}
    for cell in cells:
        if cell.setting == PRESENT and cell.networks not in present:
            present[cell.networks] = cell.batch_size / float(np.median(cell.seconds))
    return [cell.as_dict(present[cell.networks]) for cell in cells]


def main() -> None:
    """Measure, keep and print."""
    parser: argparse.ArgumentParser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128, 256], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=7, help="steps of every setting")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes minutes")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    run = open_run(arguments)
    threads = run.use_threads()
    cells = cells_of(run, arguments.batch, arguments.compile)
    measure(cells, arguments.rounds)
    rows = rows_of(cells)
    where = {"device": device_name(cells[0].batch[0].device), "threads": threads, "torch": torch.__version__}
    operators = shares_of(next(cell for cell in cells if cell.networks == "random" and cell.setting == PRESENT))
    entry = {**where, "load": os.getloadavg()[1], "cells": rows, "operators": operators}
    keep(RESULTS, run, entry)
    if arguments.as_json:
        print_json(entry)
    else:
        columns = tuple(rows[0])
        print_table(f"training step of {run.config.name}", columns, [tuple(row.values()) for row in rows])
        print_table("operators of a step of random networks", ("operator", "share"), list(operators.items()))


if __name__ == "__main__":
    main()

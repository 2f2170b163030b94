"""Where training computes: the processor or a GPU, and the images brought there once."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from hwnas.config import TrainSection
from hwnas.datasets.data import ImageData
from hwnas.datasets.splits import SPLITS
from hwnas.errors import ConfigError
from hwnas.supernets import processes


def training_device(section: TrainSection) -> torch.device:
    """Return the device of ``train.device``; ``auto`` is a GPU where torch sees one. Each process of a machine has its own.

    Raises:
        ConfigError: ``cuda`` was asked for and there is none, or there are fewer than processes.
    """
    found = torch.cuda.is_available()
    if section.device == "cpu" or (section.device == "auto" and not found):
        return torch.device("cpu")
    if not found:
        built = "torch sees no GPU" if torch.version.cuda else f"torch {torch.__version__} is not built for CUDA"
        raise processes.said_once(
            ConfigError(
                f"train.device=cuda: {built}. Set train.device to auto or cpu, or install a torch built for CUDA."
            )
        )
    index, there = processes.local_index(), torch.cuda.device_count()
    if index >= there:
        raise ConfigError(
            f"this machine has {there} GPUs for {processes.local_processes()} processes. Lower torchrun's --nproc-per-node, or "
            "set train.device=cpu."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def placed(data: ImageData, device: torch.device) -> ImageData:
    """Return the images with all their bytes on a device: resizing and augmentation then run there too.

    Raises:
        ConfigError: They do not fit its memory.
    """
    if device.type == "cpu":
        return data
    try:
        pool, labels = data.train.pool.to(device), data.train.pool_labels.to(device)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the {data.train.pool.nbytes / 2**30:.1f} GiB of images do not fit the GPU's memory. Lower data.image_size, or set "
            "train.device=cpu."
        ) from error
    splits: dict[str, Any] = {
        name: dataclasses.replace(data.split(name), pool=pool, pool_labels=labels) for name in SPLITS
    }
    return dataclasses.replace(data, **splits)


def device_name(device: torch.device) -> str:
    """Return what a report calls a device: ``cpu``, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

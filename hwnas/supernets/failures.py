"""Training steps that fail for want of memory or of another process: said with the key that mends them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from hwnas.errors import ConfigError, DeviceError
from hwnas.supernets import processes

_NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc")
_NO_PEER = ("gloo", "nccl", "connection closed", "connection reset")


@contextlib.contextmanager
def explained(batch_size: int) -> Iterator[None]:
    """Say in a person's words why training could not go on.

    Args:
        batch_size: Images a step.

    Raises:
        ConfigError: A step does not fit the memory; the former checkpoint is intact.
        DeviceError: Another process of the training is gone.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _says(reason, _NO_MEMORY):
            raise ConfigError(
                f"a step of train.batch_size={batch_size} images does not fit the memory here ({reason or 'none left'}). Lower "
                "train.batch_size, space.settings.resolutions or the number of other programs, or share the batch among machines "
                "with torchrun."
            ) from error
        if processes.count() > 1 and (isinstance(error, dist.DistError) or _says(reason, _NO_PEER)):
            raise DeviceError(
                f"another process of this training is gone ({reason}). What it said tells why; the same command goes on from "
                "the last checkpoint."
            ) from error
        raise


def _says(reason: str, words: tuple[str, ...]) -> bool:
    return any(word in reason.lower() for word in words)

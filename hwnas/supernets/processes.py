"""Training in several processes (``torchrun``): each takes its part of every batch, and all keep the same weights.

Without a process group of :mod:`torch.distributed` everything here is that of the one process there is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hwnas.errors import ConfigError, HwnasError

WAIT = timedelta(hours=2)
"""How long a process waits for another: the first one evaluates networks alone."""


def asked_processes() -> int:
    """Return how many processes ``torchrun`` started for this command; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def asked_index() -> int:
    """Return the number ``torchrun`` gave this process; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def local_processes() -> int:
    """Return how many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_index() -> int:
    """Return the number of this process on this machine, from 0 on."""
    return int(os.environ.get("LOCAL_RANK", "0")) if "RANK" in os.environ else 0


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """Return the number of this process among them; the first one, 0, writes and reports."""
    return dist.get_rank() if count() > 1 else 0


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes ``torchrun`` started, through NCCL on GPUs and gloo elsewhere; does nothing without it."""
    if asked_processes() == 1:
        yield
        return
    gpu = device.type == "cuda"
    dist.init_process_group("nccl" if gpu else "gloo", timeout=WAIT, device_id=device if gpu else None)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process run the body before the others do; where it fails they leave with its exit code 2, silently.

    Raises:
        SystemExit: In the others, where the first one failed.
    """
    if index():
        if not decided(True):
            raise SystemExit(2)
        yield
        return
    try:
        yield
    except BaseException:
        decided(False)
        raise
    decided(True)


def decided(value: bool) -> bool:
    """Return what the first process says, in all of them; they wait for it."""
    if count() == 1:
        return value
    told = torch.tensor([int(value)], device=_device())
    dist.broadcast(told, 0)
    return bool(told.item())


def part_of(images: int) -> slice:
    """Return which images of a batch are this process's; the parts differ by one image at most."""
    return slice(images * index() // count(), images * (index() + 1) // count())


def check_parts(images: int) -> None:
    """Raise unless every process gets an image of a batch.

    Raises:
        ConfigError: There are more processes than images.
    """
    if images < count():
        raise ConfigError(
            f"a batch of {images} images cannot be shared by {count()} processes. Raise train.batch_size, or lower torchrun's "
            "--nproc-per-node."
        )


class _Sum(torch.autograd.Function):
    """The sum over processes of a tensor that each of them holds; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def summed(x: Tensor) -> Tensor:
    """Return the sum over all processes, differentiable: the gradient is that of the sum of their losses."""
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes.

    DistributedDataParallel would look for the parameters a step leaves out anew in every pass, and a step is several passes
    through different networks. All processes draw the same networks, so the same parameters have gradients in all of them.
    """
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def take_from_first(module: nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    if count() > 1:
        for tensor in module.state_dict().values():
            own = tensor.contiguous()
            dist.broadcast(own, 0)
            tensor.copy_(own)


def total(value: float) -> float:
    """Return the sum of every process's value."""
    if count() == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=_device())
    dist.all_reduce(told)
    return float(told)


def said_once(error: HwnasError) -> BaseException:
    """Return what to raise for a mistake that all processes meet at once: only the first one says it."""
    return SystemExit(error.exit_code) if index() or asked_index() else error


def agree(value: int) -> bool:
    """Whether all processes hold the same value."""
    if count() == 1:
        return True
    ends = torch.tensor([value, -value], device=_device())
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    return int(ends[0]) == -int(ends[1])


def _device() -> torch.device:
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")

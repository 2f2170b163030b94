"""What the tests of fine-tuning share."""

from __future__ import annotations

import torch
from torch import nn

from hwnas.progress import Advance


class Stop(Exception):
    """An interruption."""


def stop_at(count: int) -> Advance:
    """Return an ``on_progress`` that interrupts at the ``count``-th epoch it is told of."""
    seen = [0]

    def advance(step: float, note: str) -> None:
        seen[0] += bool(note)
        if seen[0] == count:
            raise Stop

    return advance


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

"""Pretrained supernets: entries that ship with the package, a person's own, and those that others share as folders.

``hwnas.zoo.load("NAME")`` returns the supernet; the command line is ``hwnas zoo``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.zoo.card import Card
from hwnas.zoo.entry import Entry, find_entry, list_entries

if TYPE_CHECKING:
    from hwnas.supernets.base import AnySupernet

__all__ = ["Card", "Entry", "find_entry", "list_entries", "load"]


def load(name: str) -> AnySupernet:
    """Return the supernet of an entry, its weights in single precision, in evaluation mode.

    Args:
        name: Name of an entry, or path of an entry's folder.

    Raises:
        ConfigError: There is no such entry, or its space or supernet is not installed here.
        ModelFileError: Card or weights are absent, damaged, or do not fit each other.
    """
    # Imported only now: cards are read without torch.
    from hwnas.zoo.weights import load_entry

    return load_entry(find_entry(name))

"""The README of an entry, made from its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwnas.files import write_text
from hwnas.markdown import render
from hwnas.zoo.card import Card

README = "README.md"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _count(value: int) -> str:
    return f"{value:,}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def card_text(card: Card) -> str:
    """Return the card as Markdown."""
    filters = {"percent": _percent, "count": _count, "minutes": _minutes, "value": _value}
    return render("hwnas.zoo", "card.md.j2", filters, card=card)


def write_readme(folder: Path, card: Card) -> None:
    """Write the README of an entry.

    Raises:
        StorageError: Writing failed.
    """
    write_text(folder / README, card_text(card))

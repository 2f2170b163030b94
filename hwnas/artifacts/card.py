"""The model card: README.md of an artifact, written from its manifest."""

from __future__ import annotations

import math
from pathlib import Path

from hwnas.artifacts.manifest import Manifest
from hwnas.files import write_text
from hwnas.markdown import render

CARD = "README.md"


def _share(value: float | None) -> str:
    return "not evaluated" if value is None else f"{100 * value:.2f} %"


def _number(value: float) -> str:
    """Write four significant digits without an exponent."""
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits)}f}"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def render_card(manifest: Manifest) -> str:
    """Return the card as Markdown."""
    filters = {"share": _share, "cell": _cell, "number": _number}
    return render("hwnas.artifacts", "card.md.j2", filters, m=manifest)


def write_card(folder: Path, manifest: Manifest) -> Path:
    """Write ``README.md`` into ``folder`` and return its path."""
    write_text(folder / CARD, render_card(manifest))
    return folder / CARD

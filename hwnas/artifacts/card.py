"""The model card: README.md of an artifact, written from its manifest."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from hwnas.artifacts.manifest import Manifest
from hwnas.files import write_text

CARD = "README.md"


def _share(value: float | None) -> str:
    return "not evaluated" if value is None else f"{100 * value:.2f} %"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def render_card(manifest: Manifest) -> str:
    """Return the card as Markdown."""
    environment = Environment(
        loader=PackageLoader("hwnas.artifacts"), undefined=StrictUndefined, trim_blocks=True, autoescape=False
    )
    environment.filters |= {"share": _share, "cell": _cell}
    return environment.get_template("card.md.j2").render(m=manifest)


def write_card(folder: Path, manifest: Manifest) -> Path:
    """Write ``README.md`` into ``folder`` and return its path."""
    write_text(folder / CARD, render_card(manifest))
    return folder / CARD

"""``hwnas zoo``: pretrained supernets that a search can start from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_json, print_table

app = typer.Typer(help="List, show, check and add pretrained supernets.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of an entry, or path of its folder.")]


@app.command("list")
def list_entries(as_json: JsonFlag = False) -> None:
    """List pretrained supernets: the user's own, and those shipped. A run file takes one with ``train.pretrained``."""
    from hwnas import api

    entries, problems = api.list_zoo()
    for problem in problems:
        print(f"hwnas: {problem}", file=sys.stderr)
    if as_json:
        print_json(entries)
        return
    columns = ("name", "data", "space", "million parameters, MB", "smallest, largest", "minutes", "from")
    rows = [
        (
            *(entry[key] for key in ("name", "data", "space")),
            f"{entry['parameters'] / 1e6:.3g}, {entry['size_bytes'] / 1e6:.3g}",
            f"{entry['smallest']:.3f}, {entry['largest']:.3f}",
            entry["minutes"],
            entry["from"],
        )
        for entry in entries
    ]
    print_table("pretrained supernets (accuracy on validation, minutes of training)", columns, rows)


@app.command("show")
def show(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Show the card of an entry."""
    from hwnas.zoo import find_entry
    from hwnas.zoo.readme import card_text

    entry = find_entry(name)
    if as_json:
        print_json(entry.card.model_dump(mode="json"))
    else:
        print(card_text(entry.card), end="")
        print(f"\nfolder: {entry.folder}")


@app.command("check")
def check(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this entry, by name or path.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check the digests of an entry, or of all. Leaves with 1 if one is damaged."""
    from hwnas import api

    checked = api.check_zoo(name)
    if as_json:
        print_json(checked)
    else:
        rows = [(entry["name"], "; ".join(entry["problems"]) or "whole", entry["folder"]) for entry in checked]
        print_table("entries", ("name", "state", "folder"), rows)
    if any(entry["problems"] for entry in checked):
        raise typer.Exit(1)


@app.command("add")
def add(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a run: runs/NAME.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the entry.")],
    note: Annotated[str, typer.Option(help="A sentence for the card.")] = "",
    output: Annotated[Path | None, typer.Option(help="Folder of entries (default: the user's data folder).")] = None,
    randoms: Annotated[int, typer.Option(min=1, help="Random networks to measure for the card.")] = 8,
    limit_mb: Annotated[float, typer.Option(help="Most megabytes of all entries in that folder.")] = 30.0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an entry of that name.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make an entry of a run's trained supernet: weights in half precision, their accuracies measured again, a card."""
    from hwnas.zoo.maker import add_entry

    entry = add_entry(run_folder, name, note=note, output=output, randoms=randoms, limit_mb=limit_mb, replace=replace)
    if as_json:
        print_json({"folder": str(entry.folder), "card": entry.card.model_dump(mode="json")})
        return
    columns = ("network", "accuracy", "standard error", "million MACs")
    rows = [(n.name, n.accuracy, n.standard_error, n.macs / 1e6) for n in entry.card.accuracies.networks]
    print_table(f"{entry.name}: accuracy on validation, half precision", columns, rows)
    print(f"{entry.card.size_bytes / 1e6:.1f} MB in {entry.folder}")

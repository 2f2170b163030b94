"""What the verbs share: options, JSON output, small tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hwnas.runs.profiling import Fitted

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
SetOption = Annotated[
    list[str], typer.Option("--set", help="Set any key of the run file: --set search.iterations=3. Repeatable.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds run folders.")]
RunFile = Annotated[Path, typer.Argument(help="Run file (YAML).", metavar="RUN.yaml")]
TargetOption = Annotated[str, typer.Option("--target", "-t", help="DEVICE/RUNTIME-PRECISION[-tN][-bN].")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="Shorthand; must agree with the target.")]
SpaceOption = Annotated[
    str, typer.Option("--space", help="Space by name, or a YAML file with 'name' and 'settings', or a run file.")
]
TableFolderOption = Annotated[
    Path | None, typer.Option("--output", help="Folder of table and model (default: the user's data folder).")
]

RUNS = Path("runs")


def without_nan(value: Any) -> Any:
    """Return plain data with None for numbers that are not finite, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(without_nan(value), indent=1, sort_keys=True, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one table on standard output; wide content folds instead of being cut."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)


def print_fitted(fitted: Fitted, as_json: bool) -> None:
    """Print how good a latency model is and where it lies."""
    if as_json:
        print_json(fitted.as_dict())
    else:
        print_table(f"latency model of {fitted.target}", ("what", "value"), fitted.rows)
        if fitted.moved is not None:
            print_difference(f"{fitted.target} against its older table", fitted.moved)
        print(f"table and model: {fitted.folder}")


def print_stored(title: str, described: Mapping[str, Any]) -> None:
    """Print what a table holds, and how good its model is beside its baselines."""
    facts = {name: value for name, value in described.items() if name not in ("model", "baselines")}
    print_table(title, ("what", "value"), [(name, _in_words(value)) for name, value in sorted(facts.items())])
    scores = {"model": described.get("model"), **(described.get("baselines") or {})}
    columns = ("mape", "within_5", "within_10", "spearman", "coverage")
    rows = [
        (name, *("" if found.get(column) is None else float(found[column]) for column in columns))
        for name, found in scores.items()
        if found
    ]
    if rows:
        print_table("on the networks held out", ("by", *columns), rows)


def _in_words(value: object) -> object:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else value


def print_difference(title: str, difference: Mapping[str, Any]) -> None:
    """Print what two tables differ in, and the blocks that moved otherwise than the rest."""
    shown = {name: len(value) if isinstance(value, list) else value for name, value in difference.items()}
    blocks = difference["blocks"]
    shown["blocks"] = f"{len(blocks)} moved otherwise than the rest"
    print_table(title, ("what", "value"), sorted(shown.items()))
    if blocks:
        columns = ("block", "ratio", "first", "second")
        print_table("moved otherwise", columns, [tuple(block[name] for name in columns) for block in blocks[:20]])

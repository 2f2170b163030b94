"""Progress bars on standard error, silent when it is not a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[float, str], None]
"""``advance(step, note)``: move the bar by ``step`` and show ``note``."""


@contextlib.contextmanager
def progress_bar(description: str, total: float, *, clock: bool = True) -> Iterator[Advance]:
    """Show a bar for work of ``total`` steps; yields the function that moves it.

    Args:
        description: What is being done.
        total: Steps.
        clock: Whether it shows the time left, as if all steps took equally long.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda step, note: None
        return
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] if clock else []),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, note="")
        yield lambda step, note: bar.update(task, advance=step, note=note)

"""``hwnas verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_json, print_table


def verify(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder or .zip.")],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Measure on this target instead of its own.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check an artifact again: digests, parity on its samples, latency on the target, budgets. Leaves with 1 on failure."""
    from hwnas import api

    result = api.verify(artifact, target=target)
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(f"{artifact}", ("check", "result", "detail"), result.rows)
    if not result.passed:
        raise typer.Exit(1)

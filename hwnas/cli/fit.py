"""``hwnas fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_fitted


def fit(
    folder: Annotated[Path, typer.Argument(help="Folder of a profile: holds table.jsonl.")],
    coverage: Annotated[float, typer.Option(help="Share of networks the interval should hold.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of folds and trees.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Fit the latency model of a table again and evaluate it on the held-out networks."""
    from hwnas import api

    result = api.fit(folder, coverage=coverage, seed=seed)
    print_fitted(result, as_json)

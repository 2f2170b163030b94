"""``hwnas report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_json


def report(
    run_folder: Annotated[Path, typer.Argument(help="Run folder, for example runs/demo.")], as_json: JsonFlag = False
) -> None:
    """Write the HTML report of a run folder from what is in it."""
    from hwnas import api

    path = api.report(run_folder)
    if as_json:
        print_json({"report": str(path)})
    else:
        print(path)

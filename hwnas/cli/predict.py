"""``hwnas predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, PrecisionOption, SetOption, SpaceOption, TargetOption, print_json, print_table


def predict(
    architectures: Annotated[
        list[str],
        typer.Argument(
            help="smallest, largest, random:N[:SEED], a comma-separated encoding, or a JSON file with one architecture."
        ),
    ],
    target: TargetOption,
    space: SpaceOption = "mobilenetv3",
    precision: PrecisionOption = None,
    overrides: SetOption = [],
    model: Annotated[
        Path | None, typer.Option("--model", help="Folder of a profile (default: looked up in the stores).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict the latency of architectures: value and calibrated interval."""
    from hwnas import api

    results = api.predict(architectures, target, space, precision=precision, overrides=overrides, folder=model)
    if as_json:
        print_json(results)
    else:
        columns = ("architecture", "value", "low", "high", "unit", "in distribution")
        print_table(
            f"predicted on {target}",
            columns,
            [
                (r["architecture"], r["value"], r["low"], r["high"], r["unit"], "yes" if r["in_distribution"] else "no")
                for r in results
            ],
        )

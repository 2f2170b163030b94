"""``hwnas predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli._common import JsonFlag, PrecisionOption, SetOption, SpaceOption, TargetOption, print_json, print_table

_SHOWN = 10


def predict(
    architectures: Annotated[
        list[str],
        typer.Argument(
            help="ONNX files; or smallest, largest, random:N[:SEED], a comma-separated encoding, a JSON file with one."
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
    """Predict the latency of model files or architectures: value, calibrated interval, costliest kernels of a file."""
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
        for result in results:
            _print_kernels(result)


def _print_kernels(result: dict[str, Any]) -> None:
    kernels = sorted(result.get("kernels", []), key=lambda kernel: -float(kernel["value"]))
    if not kernels:
        return
    rows: list[tuple[object, ...]] = [
        (kernel["name"], kernel["kind"], kernel["value"], f"{kernel['value'] / result['value']:.1%}")
        for kernel in kernels[:_SHOWN]
    ]
    rest = kernels[_SHOWN:]
    if rest:
        total = sum(kernel["value"] for kernel in rest)
        rows.append((f"{len(rest)} more", "", total, f"{total / result['value']:.1%}"))
    if result["overhead"] > 0:
        rows.append(("per inference", "", result["overhead"], f"{result['overhead'] / result['value']:.1%}"))
    print(f"kernel model: {result['model']}")
    print_table(f"costliest kernels of {result['architecture']}", ("kernel", "kind", result["unit"], "share"), rows)

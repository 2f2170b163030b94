"""``hwnas export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import RUNS, JsonFlag, PrecisionOption, RunsOption, SetOption, print_json


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="Run file, winner folder (runs/NAME/winners/ID), ONNX file, or pkg.mod:function (a torch module)."
        ),
    ],
    target: Annotated[str | None, typer.Option("--target", "-t", help="DEVICE/RUNTIME-PRECISION[-tN][-bN].")] = None,
    precision: PrecisionOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder the artifacts go into (default: the run's artifacts).")
    ] = None,
    max_ms: Annotated[float | None, typer.Option(help="Budget for a source without a run file, milliseconds.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Input of a torch module, for example 1,3,224,224.")] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="Real inputs of an ONNX file or module, preprocessed, [n, ...] as .npy; int8 needs them."),
    ] = None,
    overrides: SetOption = [],
    runs: RunsOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Export for a target, then verify: parity, accuracy, measured latency, verdict per budget.

    Leaves with 1 if a budget is broken.
    """
    from hwnas import api
    from hwnas.reporting.tables import print_manifests

    artifacts = api.export(
        source,
        target=target,
        precision=precision,
        output=output,
        max_ms=max_ms,
        input_shape=input_shape,
        samples=samples,
        overrides=overrides,
        runs=runs,
    )
    if as_json:
        print_json({"artifacts": [artifact.as_dict() for artifact in artifacts]})
    else:
        print_manifests([artifact.manifest for artifact in artifacts])
        for artifact in artifacts:
            print(artifact.folder)
    if any(artifact.broken for artifact in artifacts):
        raise typer.Exit(1)

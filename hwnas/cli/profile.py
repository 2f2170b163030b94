"""``hwnas profile``."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli._common import (
    JsonFlag,
    PrecisionOption,
    SetOption,
    SpaceOption,
    TableFolderOption,
    TargetOption,
    print_fitted,
)


def profile(
    target: TargetOption,
    space: SpaceOption = "mobilenetv3",
    precision: PrecisionOption = None,
    overrides: SetOption = [],
    budget_minutes: Annotated[float | None, typer.Option(help="Spend at most this long on measuring.")] = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Stop when the intervals' median half-width is at most this share, for example 0.05."),
    ] = None,
    output: TableFolderOption = None,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="After a runtime upgrade: 20 networks, the older table's model, which blocks moved."
        ),
    ] = False,
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels", help="Measure random networks: the model by which any ONNX file is predicted (30 min)."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure networks of a space on a target; leave a latency table and a latency model.

    ``--set`` takes keys of the run file's ``space.settings`` and ``profile`` sections, for example
    ``--set profile.networks=200 --set 'space.settings.resolutions=[128,160]'``. The same command resumes.
    """
    from hwnas import api

    result = api.profile(
        target,
        space,
        precision=precision,
        overrides=overrides,
        budget_minutes=budget_minutes,
        interval=interval,
        output=output,
        refresh=refresh,
        kernels=kernels,
    )
    print_fitted(result, as_json)

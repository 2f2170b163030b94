"""``hwnas measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, PrecisionOption, TargetOption, print_json, print_table


def measure(
    model: Annotated[Path, typer.Argument(help="Model file the runtime of the target can open (ONNX, OpenVINO IR).")],
    target: TargetOption,
    precision: PrecisionOption = None,
    statistic: Annotated[str, typer.Option(help="p50, p90 or p99.")] = "p50",
    rounds: Annotated[int, typer.Option(help="Most rounds to measure.")] = 40,
    as_json: JsonFlag = False,
) -> None:
    """Measure the latency of a model file by the protocol: statistic, confidence interval, grade, what disturbed it."""
    from hwnas import api

    result = api.measure(model, target, precision=precision, statistic=statistic, rounds=rounds)
    if as_json:
        print_json(result)
    else:
        print_table(f"{model} on {result['target']}", ("what", "value"), sorted(result.items()))

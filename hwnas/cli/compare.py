"""``hwnas compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_json, print_table


def compare(
    old: Annotated[Path, typer.Argument(help="Artifact folder or .zip that is in use.")],
    new: Annotated[Path, typer.Argument(help="Artifact folder or .zip that shall replace it.")],
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Device and threads to compare on (default: the artifacts' own)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Run file: compare the answers on the gate images of its data, image by image.")
    ] = None,
    statistic: Annotated[str, typer.Option(help="p50, p90 or p99.")] = "p50",
    margin: Annotated[float, typer.Option(help="By how much the new one may be slower: 0.02 is 2 %.")] = 0.0,
    loads: Annotated[int, typer.Option(help="Fresh worker processes that both files are loaded into.")] = 8,
    rounds: Annotated[int, typer.Option(help="Bursts of each file in each process.")] = 6,
    as_json: JsonFlag = False,
) -> None:
    """Say whether the new artifact is slower or less accurate than the old one, beyond noise. Leaves with 1 if it is."""
    from hwnas import api

    result = api.compare(
        old, new, target=target, data=data, statistic=statistic, margin=margin, loads=loads, rounds=rounds
    )
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(
            f"{new} against {old} on {result.target}", ("what", "old", "new", "difference", "verdict"), _rows(result)
        )
        if result.note:
            print(result.note)
    if result.worse:
        raise typer.Exit(1)


def _rows(result: object) -> list[tuple[str, str, str, str, str]]:
    from hwnas.artifacts.comparing import Comparison

    assert isinstance(result, Comparison)
    one = result.latency
    interval = f"x {one.ratio:.4f}, {one.confidence:.0%} interval {one.low:.4f} to {one.high:.4f}, p {one.p_value:.2g}"
    rows = [
        (f"latency {one.statistic}", f"{one.old:.4g} {one.unit}", f"{one.new:.4g} {one.unit}", interval, one.verdict)
    ]
    two = result.accuracy
    if two is not None:
        told = f"{two.test}, p {two.p_value:.2g}: {two.source}"
        rows.append(("accuracy", f"{two.old:.2%}", f"{two.new:.2%}", told, two.verdict))
    return rows

"""``hwnas run``: everything from a run file to verified artifacts."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli._common import RUNS, JsonFlag, RunFile, RunsOption, SetOption, print_json


def run(
    run_file: RunFile,
    overrides: SetOption = [],
    runs: RunsOption = RUNS,
    as_json: JsonFlag = False,
    allow_broken: Annotated[bool, typer.Option(help="Leave with 0 even if a budget is broken.")] = False,
) -> None:
    """Profile, fit, train, search, fine-tune, export, verify and report. The same command resumes what was stopped.

    Leaves with 1 if a budget is broken or a file failed verification, 2 if the input is wrong.
    """
    from hwnas import api
    from hwnas.reporting.tables import print_manifests

    summary = api.run(api.load(run_file, overrides), runs=runs)
    if as_json:
        print_json(summary.as_dict())
    else:
        print_manifests([artifact.manifest for artifact in summary.artifacts])
        for name, reason in summary.refused.items():
            print(f"refused: {name}: {reason}")
        for gap in summary.gaps:
            print(gap.sentence)
        print(f"report: {summary.report}")
    if summary.refused or (summary.broken and not allow_broken):
        raise typer.Exit(1)

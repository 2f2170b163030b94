"""``hwnas check``: what a run would do, what it costs, and whether its budgets can be kept."""

from __future__ import annotations

import typer

from hwnas.cli._common import RUNS, JsonFlag, RunFile, RunsOption, SetOption, print_json, print_table


def check(
    run_file: RunFile,
    overrides: SetOption = [],
    runs: RunsOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Say what ``run`` would do without doing it: steps, time, disk, and the budgets against three networks.

    Leaves with 1 if none of the three keeps a latency budget, with 2 if no network of the space keeps another budget.
    """
    from hwnas import api

    result = api.check(api.load(run_file, overrides), runs=runs)
    if as_json:
        print_json(result.as_dict())
    else:
        steps = [(name, state, f"{minutes:.1f}") for name, state, minutes in result.steps]
        print_table("steps", ("step", "state", "about minutes"), steps)
        print_table("budgets (✗: broken by that network)", result.columns, [row.cells() for row in result.budgets])
        print(f"disk: about {result.disk_bytes / 1e6:.0f} MB in {result.run_folder}")
    if result.infeasible:
        raise typer.Exit(1)

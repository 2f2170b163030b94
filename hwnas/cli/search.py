"""``hwnas search``."""

from __future__ import annotations

from hwnas.cli._common import RUNS, JsonFlag, RunFile, RunsOption, SetOption, print_json, print_table


def search(
    run_file: RunFile,
    overrides: SetOption = [],
    runs: RunsOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Search under the budgets of a run file; profiles and trains first if that is missing."""
    from hwnas import api

    result = api.search(api.load(run_file, overrides), runs=runs)
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(result.title, result.columns, result.rows)

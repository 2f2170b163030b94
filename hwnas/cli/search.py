"""``hwnas search``."""

from __future__ import annotations

from hwnas.cli._common import RUNS, JsonFlag, RunFile, RunsOption, SetOption, print_json


def search(
    run_file: RunFile,
    overrides: SetOption = [],
    runs: RunsOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Search under the budgets of a run file; profiles and trains first if that is missing.

    Prints the front of every target; front.json in the run's folder says more.
    """
    from hwnas import api
    from hwnas.reporting.front_table import print_fronts

    result = api.search(api.load(run_file, overrides), runs=runs)
    if as_json:
        print_json(result.as_dict())
    else:
        print_fronts(result.document, result.measured)
        print(
            f"{len(result.picks)} candidates for fine-tuning in shortlist.json, on a front or close to it; fronts: {result.path}"
        )

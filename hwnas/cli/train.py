"""``hwnas train``."""

from __future__ import annotations

from hwnas.cli._common import RUNS, JsonFlag, RunFile, RunsOption, SetOption, print_json, print_table


def train(
    run_file: RunFile,
    overrides: SetOption = [],
    runs: RunsOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Train the supernet of a run file (progressive shrinking)."""
    from hwnas import api

    result = api.train(api.load(run_file, overrides), runs=runs)
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(result.title, result.columns, result.rows)

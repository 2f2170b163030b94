"""``hwnas train``."""

from __future__ import annotations

from hwnas.cli._common import RUNS, JsonFlag, RunFile, RunsOption, SetOption, print_json, print_table


def train(
    run_file: RunFile,
    overrides: SetOption = [],
    runs: RunsOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Train the supernet of a run file (progressive shrinking).

    In several processes: torchrun --nproc-per-node N -m hwnas train RUN.yaml. The weights are those of one process, up to
    rounding.
    """
    from hwnas import api
    from hwnas.supernets.processes import asked_index

    result = api.train(api.load(run_file, overrides), runs=runs)
    if asked_index():
        return  # the first process prints
    if as_json:
        print_json(result.as_dict())
    else:
        print_table(result.title, result.columns, result.rows)

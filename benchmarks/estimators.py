"""What the estimators of a latency are worth on the stored bursts of a run's profiles.

    python benchmarks/estimators.py examples/digits-cpu.yaml --runs runs [--set seed=1 --set name=seed-1]

Needs a run whose profiles are done; measures nothing. For every target the stored bursts are analysed with each estimator
alone and with the session's own choice, and a latency model is fitted on what comes out: its out-of-fold error is small
where the values are consistent. Figures go beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _runs import keep, open_run, parser_of
from rich.console import Console
from rich.table import Table

from hwnas.latency.analysis import analyse
from hwnas.latency.bursts import BURSTS_FILE, load_bursts
from hwnas.latency.canaries import CANARIES
from hwnas.latency.estimation import ESTIMATORS
from hwnas.latency.model import LatencyModel
from hwnas.latency.profiling import TABLE_FILE
from hwnas.latency.protocol import Protocol
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import SearchSpace

RESULTS = Path(__file__).with_name("estimators.json")


def judge(folder: Path, space: SearchSpace[Any], estimators: Sequence[str]) -> tuple[str, float]:
    """Return the estimator chosen among some for a profile, and the out-of-fold MAPE of a model of its values."""
    table = LatencyTable.load(folder / TABLE_FILE)
    protocol = Protocol.from_dict(table.header.protocol)
    result = analyse(load_bursts(folder / BURSTS_FILE), list(CANARIES), protocol, estimators=estimators)
    found = {measurement.key: measurement for measurement in result.measurements}
    rows = [
        replace(row, value=found[row.key].value, low=found[row.key].low, high=found[row.key].high)
        for row in table.measured()
    ]
    model = LatencyModel.fit(LatencyTable(table.header, tuple(rows)), space, seed=0)
    return result.estimator, float(model.facts["out_of_fold_mape"])


def main() -> None:
    """Judge and print."""
    run = open_run(parser_of(__doc__).parse_args())
    shown = Table("target", *ESTIMATORS, "chosen", "its MAPE", title=f"out-of-fold MAPE, run {run.config.name}")
    entries: dict[str, Any] = {}
    for target in run.targets:
        folder = run.folder.table(target)
        alone = {name: judge(folder, run.space, [name])[1] for name in ESTIMATORS}
        chosen, error = judge(folder, run.space, ESTIMATORS)
        entries[str(target)] = {"alone": alone, "chosen": chosen, "chosen_mape": error}
        shown.add_row(str(target), *(f"{value:.1%}" for value in alone.values()), chosen, f"{error:.1%}")
    Console(width=140).print(shown)
    keep(RESULTS, run, entries)


if __name__ == "__main__":
    main()

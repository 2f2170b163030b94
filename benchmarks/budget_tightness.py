"""How tight the budgets of a run are: 200 random networks and the largest one, measured on every target.

    python benchmarks/budget_tightness.py examples/digits-cpu.yaml --runs runs [--networks 200]

Needs a run folder whose profiles are done. Prints, per target, the budget, the share of random networks that break it, and
whether the largest does; stores the figures beside this file. Resumes: bursts are journalled in the run folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _runs import keep, open_run, parser_of

from hwnas.runs.budgets import budgets_of, statistic_of
from hwnas.runs.shortlist import at_statistic, measure_rows
from hwnas.spaces.base import unique_rows

RESULTS = Path(__file__).with_name("budget_tightness.json")
SEED = 20_000


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    run = open_run(arguments)
    largest = run.space.encode(run.space.largest)
    drawn = run.space.sample(np.random.default_rng(SEED), 2 * arguments.networks)
    X = np.vstack([unique_rows(drawn, [largest.tobytes()])[: arguments.networks], largest[None]])
    print(f"{'target':34} {'budget ms':>10} {'random that break it':>21} {'largest ms':>11}")
    entries = {}
    for target, budget in budgets_of(run).items():
        rows = measure_rows(
            run, target, X, run.path / "tightness" / target.slug, rounds=arguments.rounds, title=str(target)
        )
        values = np.array([at_statistic(row, statistic_of(run, target))["value"] for row in rows if row.measured])
        share = float(np.mean(values[:-1] > budget))
        print(f"{target!s:34} {budget:10.4f} {share:21.1%} {values[-1]:11.4f}")
        entries[str(target)] = {
            "budget_ms": budget,
            "networks": len(values) - 1,
            "share_that_breaks_it": share,
            "largest_ms": float(values[-1]),
            "largest_breaks_it": bool(values[-1] > budget),
        }
    keep(RESULTS, run, {"targets": entries})


if __name__ == "__main__":
    main()

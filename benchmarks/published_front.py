"""Fronts on CIFAR-10 beside the points that NATv2 published: accuracy against MACs and against parameters.

    python benchmarks/published_front.py examples/cifar10-zoo.yaml --set data.root=FOLDER --finetune 3

The run file names a supernet (``train.pretrained``) and how it is searched; MACs and parameters are the objectives besides
accuracy. For every published point the most accurate member that costs no more is taken, by accuracy on validation;
``--finetune N`` of them, spread over the costs, are trained on (``finetune`` of the run file). Only then is the test split read,
once per network. All of it resumes.

Published: "NATv2" (Sarti et al., 2023), figure 5, CIFAR-10, supernet with dense skips and early exits, 32 pixels, networks
post-processed. Results: ``published_front.json`` beside this file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from _runs import open_run, parser_of

from hwnas.files import write_json
from hwnas.finetuning.two_step import finetune
from hwnas.progress import progress_bar
from hwnas.runs.searching import drive_search, searched_supernet
from hwnas.runs.session import Run
from hwnas.runs.training import train_stage, trained_supernet
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import Member
from hwnas.strategies.costs import GraphCounter
from hwnas.strategies.problem import FloatArray, Problem
from hwnas.supernets.evaluation import AccuracyEvaluator, evaluate_module

HERE = Path(__file__).parent
COSTS = ("macs", "parameters")
PUBLISHED = {
    "macs": ((2.8, 83.3), (4.6, 88.9), (6.3, 90.3), (8.7, 91.0)),
    "parameters": ((0.11, 89.9), (0.18, 91.0), (0.26, 91.4), (1.28, 92.7)),
}
"""Millions, and accuracy in per cent."""


def counted_problem(run: Run) -> Problem:
    """Return the problem: accuracy against millions of MACs and of parameters."""
    counter = GraphCounter(run.space, list(COSTS))

    def predict(X: IntArray) -> tuple[FloatArray, FloatArray]:
        value = counter(X) / 1e6
        return value, value

    return Problem(run.space, COSTS, predict)


def picks_of(members: list[Member]) -> dict[bytes, Member]:
    """Return the most accurate member within the cost of each published point, and the most accurate of all."""
    chosen = [max(members, key=lambda member: member.accuracy)]
    for column, name in enumerate(COSTS):
        for limit, _ in PUBLISHED[name]:
            within = [member for member in members if member.costs[column] <= limit]
            if within:
                chosen.append(max(within, key=lambda member: member.accuracy))
    return {member.key: member for member in sorted(chosen, key=lambda member: member.costs)}


def trained_on(run: Run, result: Any, picks: dict[bytes, Member], count: int) -> dict[bytes, Any]:
    """Fine-tune ``count`` of the picks, spread over their costs; returns the winners."""
    supernet = searched_supernet(run, result)
    keys = list(picks)
    chosen = [keys[int(index)] for index in np.unique(np.linspace(len(keys) - 1, 0, count).round())] if count else []
    winners = {}
    section = run.config.finetune
    for number, key in enumerate(chosen):
        architecture = run.space.decode(np.array(picks[key].encoding))
        folder = run.path / "candidates" / run.space.id_of(np.array(picks[key].encoding))
        with progress_bar(f"fine-tuning {number + 1} of {len(chosen)}", 2.0 * section.epochs) as advance:
            winners[key] = finetune(supernet, architecture, run.data, section, folder, on_progress=advance)
    return winners


def row_of(run: Run, member: Member, evaluator: AccuracyEvaluator, winner: Any) -> dict[str, Any]:
    """Return the figures of one network; the test split is read here, once as it was found and once trained on."""
    architecture = run.space.decode(np.array(member.encoding))
    test = run.data.test
    found = evaluate_module(evaluator.extract(architecture), test, resolution=architecture.resolution)
    row = {
        "id": run.space.id_of(np.array(member.encoding)),
        **{f"million_{name}": value for name, value in zip(COSTS, member.costs, strict=True)},
        "validation": member.accuracy,
        "test_as_found": found,
        "test_finetuned": None,
    }
    if winner is not None:
        row["test_finetuned"] = evaluate_module(winner.module, test, resolution=architecture.resolution)
    return row


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for every published point, the best of ours that costs no more."""
    found = []
    for name in COSTS:
        for limit, accuracy in PUBLISHED[name]:
            within = [row for row in rows if row[f"million_{name}"] <= limit]
            best = max(within, key=lambda row: row["test_finetuned"] or row["test_as_found"], default=None)
            ours = None if best is None else 100.0 * (best["test_finetuned"] or best["test_as_found"])
            cost = None if best is None else best[f"million_{name}"]
            found.append({"cost": name, "million": limit, "published": accuracy, "ours": ours, "our_million": cost})
    return found


def main() -> None:
    """Search, fine-tune, read the test split, print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--finetune", type=int, default=0, help="how many networks are trained on")
    parser.add_argument("--out", type=Path, default=HERE / "published_front.json")
    arguments = parser.parse_args()
    run, start = open_run(arguments), time.monotonic()
    run.use_threads()
    train_stage(run)
    result = drive_search(run, counted_problem(run), trained_supernet(run), "searching")
    searched_s = time.monotonic() - start
    picks = picks_of(result.members)
    winners = trained_on(run, result, picks, arguments.finetune)
    evaluator = AccuracyEvaluator(searched_supernet(run, result), run.data, bn_images=run.config.train.bn_images)
    rows = [row_of(run, member, evaluator, winners.get(key)) for key, member in picks.items()]
    points = compared(rows)
    facts = {
        "run": run.config.name,
        "train_images": len(run.data.train),
        "test_images": len(run.data.test),
        "evaluated": len(result.archive),
        "epochs_finetuned": run.config.finetune.epochs,
        "seconds_search": round(searched_s, 1),
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(arguments.out, {"facts": facts, "networks": rows, "points": points})
    print("| at most | published | ours | at |\n|---|---|---|---|")
    for point in points:
        ours = "none so small" if point["ours"] is None else f"{point['ours']:.2f} %"
        at = "" if point["our_million"] is None else f"{point['our_million']:.2f} M"
        print(f"| {point['million']} M {point['cost']} | {point['published']} % | {ours} | {at} |")


if __name__ == "__main__":
    main()

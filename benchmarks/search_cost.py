"""What a search costs: the published loop of NATv2 against ours, both live, the supernet adapting, in images forwarded.

    hwnas train examples/fashion-mnist-zoo.yaml      # takes the weights of the zoo
    python benchmarks/search_cost.py examples/fashion-mnist-zoo.yaml

The run file names a run whose supernet is trained; MACs are the second objective. The published loop evaluates a pool of
3,000 networks, then 30 times 25 candidates and its whole archive of 300 again, with five epochs of adaptation between (here
of 2,000 images, drawn from all: two cores cannot do more). Ours evaluates fewer, after an adaptation only what may still
be on the front, and in the end reads what may be on the front on more images. ``frozen`` is ours without adaptation, at about
the same number of images. All resume where they were stopped. In the end fronts are scored anew, on validation images that no
loop has read (the second half), with the weights of one common supernet: the one the published loop ended with, the one ours
ended with, and the one all started from.

An image counts once for every network it goes through: recalibration of batch normalisation, validation (the readings of the
end included), training of sampled networks and their teacher. Results: ``search_cost.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hwnas.config import RunConfig, load_run_config
from hwnas.datasets.data import ImageData
from hwnas.files import Journal, write_json
from hwnas.progress import progress_bar
from hwnas.runs.searching import PUPILS, drive_search
from hwnas.runs.session import Run
from hwnas.runs.training import trained_supernet
from hwnas.spaces.base import IntArray
from hwnas.strategies.archive import front, read_member
from hwnas.strategies.confirming import CONFIRMED
from hwnas.strategies.costs import GraphCounter
from hwnas.strategies.hypervolume import MARGIN, normalised_hypervolume
from hwnas.strategies.problem import FloatArray, Problem
from hwnas.strategies.state import read_result
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.supernets.phases import steps_per_epoch

HERE = Path(__file__).parent

PUBLISHED: dict[str, Any] = {
    "initial": 300,
    "oversample": 10,
    "archive": 300,
    "iterations": 30,
    "candidates": 25,
    "adapt_epochs": 5.0,
    "adapt_top": 150,
    "adapt_subnets": 4,
    "reevaluate": "all",
    "confirm": False,
}
OURS: dict[str, Any] = {
    "initial": 100,
    "oversample": 1,
    "archive": 60,
    "iterations": 12,
    "candidates": 16,
    "adapt_epochs": 2.0,
    "adapt_top": 30,
    "adapt_subnets": 2,
}
FROZEN: dict[str, Any] = {**OURS, "iterations": 40, "adapt_epochs": 0.0}
"""Ours without adaptation; what that and evaluating again would cost goes into more iterations."""

SCORED_EVERY = {"published": 5, "ours": 1, "frozen": 10}
"""Of which iterations fronts are scored anew; the last one always."""

LOOPS = {"published": PUBLISHED, "ours": OURS, "frozen": FROZEN}


@dataclass(frozen=True)
class Iteration:
    """Where a loop stood after an iteration.

    Attributes:
        number: The iteration; 0: the first members, before any adaptation; one more than the last: the confirmed front.
        images: Images forwarded until then: ``evaluating``, ``adapting``, and ``confirming`` the front in the end.
        encodings: The front then, by the accuracies of that moment.
    """

    number: int
    images: dict[str, int]
    encodings: list[list[int]]


def halves(data: ImageData) -> tuple[ImageData, ImageData]:
    """Return the data with the first half of the validation images, for the loops, and with the second, for scoring."""
    rows = data.validation.rows
    parts = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    first, second = (replace(data, validation=replace(data.validation, rows=part)) for part in parts)
    return first, second


def macs_problem(run: Run) -> Problem:
    """Return the problem: accuracy against millions of MACs."""
    counter = GraphCounter(run.space, ["macs"])

    def predict(X: IntArray) -> tuple[FloatArray, FloatArray]:
        value = counter(X) / 1e6
        return value, value

    return Problem(run.space, ("macs",), predict)


def run_of(trained: Run, name: str, arguments: argparse.Namespace) -> Run:
    """Return the run of one loop, in a folder of its own."""
    config, share = trained.config, arguments.epoch_images / len(trained.data.train)
    search = {**LOOPS[name], "validation_images": arguments.validation_images, "seed": arguments.seed}
    search["adapt_epochs"] *= min(1.0, share)
    changed = config.model_dump(mode="json")
    changed |= {"name": f"{config.name}-{name}-{arguments.seed}", "search": search}
    changed["train"]["bn_images"] = arguments.bn_images
    run = Run(RunConfig.model_validate(changed), arguments.runs)
    run.data = halves(trained.data)[0]
    return run


def trace_of(run: Run, problem: Problem) -> list[Iteration]:
    """Return where a finished loop stood after each adaptation (or, without, each iteration), from its journal."""
    section, train = run.config.search, run.config.train
    members = [read_member(record) for record in Journal(run.folder.search / "archive.jsonl")]
    per_evaluation = train.bn_images + min(section.validation_images or 10**9, len(run.data.validation))
    steps = round(section.adapt_epochs * steps_per_epoch(len(run.data.train), train.batch_size))
    # The teacher is counted as if it always taught; four pupils are evaluated to decide whether it does.
    per_adaptation = steps * train.batch_size * (section.adapt_subnets + 1) + PUPILS * per_evaluation
    adapts = section.adapt_epochs > 0
    result = read_result(run.folder.search)
    ages = [member.version if adapts else member.generation for member in members]
    trace = []
    for age in range(max(ages) + 1):
        until = [member for member, own in zip(members, ages, strict=True) if own <= age]
        now = [member for member in until if not adapts or member.version == age]
        images = {"evaluating": per_evaluation * len(until), "adapting": per_adaptation * age if adapts else 0}
        best = front(list({member.key: member for member in now}.values()), problem.views[0])
        trace.append(Iteration(age, images, [list(member.encoding) for member in best]))
    if result.confirmed:
        readings = Journal(run.folder.search / CONFIRMED)
        images = {**trace[-1].images, "confirming": sum(train.bn_images + record["images"] for record in readings)}
        best = front(list(result.confirmed), problem.views[0])
        trace.append(Iteration(trace[-1].number + 1, images, [list(member.encoding) for member in best]))
    return trace


class Judge:
    """Hypervolume of fronts under one common supernet, on validation images that no loop has read.

    Args:
        evaluator: Of that supernet.
        problem: Gives MACs.
    """

    def __init__(self, evaluator: AccuracyEvaluator, problem: Problem) -> None:
        self._evaluator = evaluator
        self._problem = problem
        self._known: dict[bytes, float] = {}
        smallest = problem.smallest()[None]
        error = 1.0 - float(self._accuracy(smallest)[0])
        largest = float(problem.costs(problem.largest()[None]).F[0, 0])
        self.reference = np.array([MARGIN * error, MARGIN * largest])

    def _accuracy(self, X: IntArray) -> FloatArray:
        for row in X:
            if row.tobytes() not in self._known:
                self._known[row.tobytes()] = float(self._evaluator.evaluate_encodings(row[None])[0])
        return np.array([self._known[row.tobytes()] for row in X])

    def volume(self, encodings: list[list[int]]) -> float:
        """Return the hypervolume of a front."""
        X = np.array(encodings, dtype=np.int64)
        costs = self._problem.costs(X)
        return normalised_hypervolume(np.column_stack([1.0 - self._accuracy(X), costs.F]), costs.G, self.reference)


def evaluator_of(supernet: AnySupernet, run: Run, images: int) -> AccuracyEvaluator:
    """Return what reads the accuracies by which fronts are scored."""
    return AccuracyEvaluator(supernet, halves(run.data)[1], bn_images=1000, validation_images=images)


def judge(traces: dict[str, list[Iteration]], judges: dict[str, Judge]) -> list[dict[str, Any]]:
    """Score every front under every common supernet."""
    rows = []
    traces = {name: [*trace[: -1 : SCORED_EVERY[name]], trace[-1]] for name, trace in traces.items()}
    total = sum(len(trace) for trace in traces.values())
    with progress_bar("scoring fronts under common supernets", total * len(judges)) as advance:
        for common, one in judges.items():
            for name, trace in traces.items():
                for iteration in trace:
                    volume = one.volume(iteration.encodings)
                    facts = {"common": common, "loop": name, "iteration": iteration.number}
                    images = sum(iteration.images.values())
                    size = len(iteration.encodings)
                    rows.append({**facts, **iteration.images, "images": images, "front": size, "hypervolume": volume})
                    advance(1, common)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for every common supernet and loop, what it reached and when it reached 99 % of the published one's end."""
    found = []
    for common in dict.fromkeys(row["common"] for row in rows):
        of_common = [row for row in rows if row["common"] == common]
        end = [row for row in of_common if row["loop"] == "published"][-1]
        for loop in dict.fromkeys(row["loop"] for row in of_common):
            own = [row for row in of_common if row["loop"] == loop]
            there = next((row for row in own if row["hypervolume"] >= 0.99 * end["hypervolume"]), None)
            facts = {"common": common, "loop": loop, "front": own[-1]["front"], "hypervolume": own[-1]["hypervolume"]}
            found.append(
                {
                    **facts,
                    "of_published": own[-1]["hypervolume"] / end["hypervolume"],
                    "images": own[-1]["images"],
                    "images_to_99_percent": None if there is None else there["images"],
                    "times_less": None if there is None else end["images"] / there["images"],
                }
            )
    return found


def show(found: list[dict[str, Any]], console: Console) -> None:
    """Print one row per common supernet and loop."""
    table = Table(title="hypervolume under one common supernet, and images forwarded")
    for name in ("common", "loop", "hypervolume", "of published", "images", "until 99 %", "times less"):
        table.add_column(name)
    for row in found:
        there = row["images_to_99_percent"]
        table.add_row(
            row["common"],
            row["loop"],
            f"{row['hypervolume']:.4f}",
            f"{row['of_published']:.1%}",
            f"{row['images']:,}",
            "not reached" if there is None else f"{there:,}",
            "" if there is None else f"{row['times_less']:.1f}",
        )
    console.print(table)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--validation-images", type=int, default=500)
    parser.add_argument("--bn-images", type=int, default=200)
    parser.add_argument(
        "--epoch-images", type=int, default=2000, help="images of what counts as an epoch of adaptation"
    )
    parser.add_argument("--score-images", type=int, default=3000, help="validation images by which fronts are scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loops", default=",".join(LOOPS))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "search_cost.json")
    return parser.parse_args()


def main() -> None:
    """Run both loops, score their fronts, print the table."""
    arguments = read_arguments()
    console = Console(stderr=arguments.json)
    config = load_run_config(arguments.run_file, arguments.overrides)
    trained = Run(config, arguments.runs)
    traces, supernets = {}, {}
    supernets["start"] = trained_supernet(trained)
    for name in arguments.loops.split(","):
        run = run_of(trained, name, arguments)
        run.use_threads()
        problem = macs_problem(run)
        supernets[name] = trained_supernet(trained)
        drive_search(run, problem, supernets[name], run.config.name)
        traces[name] = trace_of(run, problem)
    problem = macs_problem(trained)
    judges = {
        name: Judge(evaluator_of(supernet, trained, arguments.score_images), problem)
        for name, supernet in supernets.items()
        if name != "frozen"
    }
    rows = judge(traces, judges)
    found = summary(rows) if "published" in traces else []
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    facts = {
        "run": config.name,
        "loops": LOOPS,
        "validation_images": arguments.validation_images,
        "bn_images": arguments.bn_images,
        "epoch_images": arguments.epoch_images,
        "score_images": arguments.score_images,
        "seed": arguments.seed,
        "peak_memory_gib": peak_gib,
    }
    write_json(arguments.out, {"facts": facts, "summary": found, "iterations": rows})
    if arguments.json:
        print(json.dumps({"facts": facts, "summary": found}))
    show(found, console)


if __name__ == "__main__":
    main()

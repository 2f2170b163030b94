"""Compare search strategies: hypervolume and regret with the same number of accuracy evaluations of a frozen supernet.

    python benchmarks/search_quality.py                                        # analytic accuracies, minutes
    python benchmarks/search_quality.py --oracle supernet --supernet fashion-mnist-dense-early --data fashion-mnist
        --image-size 28 --data-validation 0.1 --data-gate 0.02 --validation-images 1500 --bn-images 300 --subspace --budgets none

``natv2`` is what the project searches with, ``natv2-paper`` the same strategy with the published choices and proportions
(pool, share of candidates). With ``--subspace`` every architecture of a small part of
the space is evaluated first; strategies get 10 % of that number, and are judged by the share of the true front's hypervolume
that they miss (regret), the reference point being the nadir of the true front x 1.01.

Every cell (budget, strategy, seed) is stored as one line of ``search_quality-ORACLE.jsonl`` and every accuracy of a
supernet as one line of ``search_quality-accuracies.jsonl`` beside this file; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _entries import add_data_arguments, data_of
from rich.console import Console
from rich.table import Table

from hwnas.config import SearchSection, TrainSection
from hwnas.files import Journal, cache_home, digest
from hwnas.progress import progress_bar
from hwnas.registry import load
from hwnas.spaces.base import IntArray, unique_rows
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.archive import key_of, objectives_of, read_member
from hwnas.strategies.costs import GraphCounter
from hwnas.strategies.hypervolume import MARGIN, normalised_hypervolume
from hwnas.strategies.problem import FloatArray, Limit, Problem
from hwnas.strategies.runner import run_search
from hwnas.strategies.sorting import non_dominated
from hwnas.testing.toy import AnalyticAccuracy

HERE = Path(__file__).parent
Accuracy = Callable[[IntArray], FloatArray]

CANDIDATES = 8
PUBLISHED = {"reevaluate": "all"}

SPACE: dict[str, Any] = {
    "classes": 10,
    "in_channels": 1,
    "resolutions": (16, 24, 32),
    "widths": (0.5, 1.0),
    "stages": (
        {"channels": 16, "stride": 1},
        {"channels": 24, "stride": 2, "se": True},
        {"channels": 40, "stride": 2, "activation": "hswish"},
    ),
    "stem_channels": 8,
    "stem_stride": 1,
    "first_channels": 8,
    "head_channels": (96, 128),
}
TRAIN = TrainSection(epochs=12, batch_size=64)


def section_of(name: str, evaluations: int, seed: int) -> SearchSection:
    """Return the section with which a strategy makes (at least) ``evaluations``; more are cut off.

    The published proportions: NATv2 spends 3,000 of 3,750 evaluations on its first pool, NAT 100 of 340.
    """
    share = {"natv2": 0.2, "natv2-paper": 0.8, "nat": 0.3, "evolution": 0.2, "random": 1.0}[name]
    first = max(4, round(share * evaluations))
    iterations = max(1, -(-(evaluations - first) // CANDIDATES))
    sizes: dict[str, Any] = {"initial": first, "oversample": 1, "archive": 60}
    if name == "natv2-paper":
        sizes = {"initial": max(4, first // 10), "oversample": 10, "archive": max(4, first // 10), **PUBLISHED}
    return SearchSection(seed=seed, adapt_epochs=0.0, candidates=CANDIDATES, iterations=iterations, **sizes)


STRATEGIES = ("natv2", "natv2-paper", "nat", "evolution", "random")


class StoredAccuracy:
    """Accuracies of a frozen supernet, each evaluated once and kept as one line of a file.

    Args:
        name: Digest of what is evaluated; lines of other supernets are left alone.
        space: Space of the supernet; encodings of others are translated through their architectures.
        evaluate: Asked for what the file does not hold.
        path: The file.
    """

    def __init__(self, name: str, space: MobileNetV3Space, evaluate: Accuracy, path: Path) -> None:
        self._name = name
        self._space = space
        self._evaluate = evaluate
        self._journal = Journal(path)
        self._known = {key_of(r["encoding"]): r["accuracy"] for r in self._journal if r["supernet"] == name}

    def of(self, space: MobileNetV3Space) -> Accuracy:
        """Return the accuracies ``[n]`` as a function of encodings ``[n, n_genes]`` of a part of the space."""

        def accuracy(X: IntArray) -> FloatArray:
            return self(np.stack([self._space.encode(space.decode(row)) for row in X]))

        return accuracy

    def __call__(self, X: IntArray) -> FloatArray:
        """Return accuracies ``[n]`` of encodings ``[n, n_genes]``."""
        for row in X:
            if row.tobytes() not in self._known:
                accuracy = float(self._evaluate(row[None])[0])
                self._journal.append({"supernet": self._name, "encoding": row.tolist(), "accuracy": accuracy})
                self._known[row.tobytes()] = accuracy
        return np.array([self._known[row.tobytes()] for row in X], dtype=np.float64)


@dataclass(frozen=True)
class Oracle:
    """Accuracies of one seed, and what names them."""

    accuracy: Accuracy
    identity: dict[str, Any]


def part_of(space: MobileNetV3Space) -> MobileNetV3Space:
    """Return a part small enough to be walked through: one width and kernel, two expansions, depths and resolutions."""
    ends = (space.expands[0], space.expands[-1])
    parts = {"resolutions": space.resolutions[:2], "widths": space.widths[:1], "kernels": space.kernels[:1]}
    return MobileNetV3Space(**{**space.settings(), **parts, "expands": ends, "depths": space.depths[:2]})


def everything(space: MobileNetV3Space) -> IntArray:
    """Return every canonical encoding of a small space."""
    ranges = [range(int(low), int(high) + 1) for low, high in zip(space.lower, space.upper, strict=True)]
    return unique_rows(space.repair(np.array(list(itertools.product(*ranges)), dtype=np.int64)))


def supernet_oracle(arguments: argparse.Namespace, subspace: bool) -> tuple[MobileNetV3Space, Oracle]:
    """Return space and stored accuracies of a trained supernet; train a small one if none is given."""
    import torch

    from hwnas.files import sha256_file
    from hwnas.supernets.evaluation import AccuracyEvaluator
    from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
    from hwnas.supernets.storage import load_supernet
    from hwnas.supernets.training import train_supernet
    from hwnas.zoo.entry import find_entry
    from hwnas.zoo.weights import load_entry

    torch.set_num_threads(arguments.threads)
    data = data_of(arguments)
    if arguments.supernet is None:
        folder = cache_home() / "benchmarks" / "search_quality-supernet"
        if not train_supernet(MobileNetV3Supernet(MobileNetV3Space(**SPACE)), data, TRAIN, folder).complete:
            raise SystemExit(f"training in {folder} is not complete; give the same command again")
        supernet = load_supernet(folder)
    else:
        folder = find_entry(arguments.supernet).folder
        supernet = load_entry(find_entry(arguments.supernet))
    assert isinstance(supernet.space, MobileNetV3Space)
    weights = sorted(sha256_file(path) for path in folder.glob("*.safetensors"))
    identity = {"weights": digest(weights), "data": data.digest}
    evaluator = AccuracyEvaluator(
        supernet, data, bn_images=arguments.bn_images, validation_images=arguments.validation_images
    )
    path = arguments.results / "search_quality-accuracies.jsonl"
    name = digest([identity, arguments.validation_images, arguments.bn_images])
    stored = StoredAccuracy(name, supernet.space, evaluator.evaluate_encodings, path)
    space = part_of(supernet.space) if subspace else supernet.space
    return space, Oracle(stored.of(space), identity)


def make_oracles(arguments: argparse.Namespace) -> tuple[MobileNetV3Space, list[Oracle]]:
    """Return the space and, for each seed, an oracle.

    Every seed has an analytic oracle of its own: one landscape would say more about itself than about strategies.
    """
    if arguments.oracle == "supernet":
        space, oracle = supernet_oracle(arguments, arguments.subspace)
        return space, [oracle] * arguments.seeds
    analytic = MobileNetV3Space(**SPACE)
    space = part_of(analytic) if arguments.subspace else analytic
    return space, [Oracle(AnalyticAccuracy(space, seed=seed), {"analytic": seed}) for seed in range(arguments.seeds)]


def make_problem(space: MobileNetV3Space, model: Path | None, budget: float | None) -> Problem:
    """Return the problem: latency by a model, or one unit per million MACs; the budget is a share of the largest's."""
    if model is None:
        counter = GraphCounter(space, ["macs"])

        def predict(X: IntArray) -> tuple[FloatArray, FloatArray]:
            value = counter(X) / 1e6
            return value, value

        unit, provenance = "M MACs", {"costs": "macs"}
    else:
        from hwnas.latency.model import LatencyModel

        latency = LatencyModel.load(model, space)

        def predict(X: IntArray) -> tuple[FloatArray, FloatArray]:
            prediction = latency.predict(X)
            return prediction.value[:, None], prediction.high[:, None]

        unit, provenance = (
            latency.unit,
            {"costs": str(latency.target), "fingerprint": latency.fingerprint.identity_digest},
        )
    largest = float(predict(space.encode(space.largest)[None])[1][0, 0])
    limits = () if budget is None else (Limit("latency", budget * largest, unit),)
    return Problem(space, ("latency",), predict, limits, targets=("latency",), provenance=provenance)


@dataclass(frozen=True)
class Yardstick:
    """What strategies are judged by: one reference point, and the best hypervolume where it is known."""

    reference: FloatArray
    best: float | None
    evaluations: int
    facts: dict[str, Any]


def rough_yardstick(problem: Problem, accuracy: Accuracy, evaluations: int) -> Yardstick:
    """Return the error of the smallest network and the cost of the largest feasible one as the reference point."""
    ends = np.vstack([problem.smallest(), problem.largest()])
    error = float(1.0 - accuracy(ends[:1])[0])
    cost = problem.limits[0].maximum if problem.limits else float(problem.costs(ends).F[1, 0])
    return Yardstick(np.array([MARGIN * error, MARGIN * cost]), None, evaluations, {})


def exact_yardstick(problem: Problem, space: MobileNetV3Space, accuracy: Accuracy, share: float) -> Yardstick:
    """Evaluate every architecture; the reference point is the nadir of the true front x 1.01."""
    X = everything(space)
    values = np.empty(len(X))
    with progress_bar("evaluating every architecture", len(X)) as advance:
        for index, row in enumerate(X):
            values[index] = accuracy(row[None])[0]
            advance(1, "")
    costs = problem.costs(X)
    F = np.column_stack([1.0 - values, costs.F])
    front = non_dominated(F, costs.G)
    reference = F[front].max(axis=0) * MARGIN
    best = normalised_hypervolume(F, costs.G, reference)
    facts = {"architectures": len(X), "front": len(front), "accuracy": [float(values.min()), float(values.max())]}
    return Yardstick(reference, best, round(share * len(X)), facts)


def run_cell(problem: Problem, accuracy: Accuracy, name: str, seed: int, yardstick: Yardstick) -> dict[str, Any]:
    """Run one search; return its hypervolume and best accuracy after each tenth of the evaluations."""
    section = section_of(name, yardstick.evaluations, seed)
    with tempfile.TemporaryDirectory() as folder:
        search = load("strategy", name.partition("-")[0])(problem, section)
        result = run_search(search, problem, evaluate=accuracy, folder=Path(folder))
        members = [read_member(record) for record in Journal(Path(folder) / "archive.jsonl")]
    members = members[: yardstick.evaluations]
    F, G = objectives_of(members, problem.views[0])
    counts = sorted({round(len(members) * tenth / 10) for tenth in range(1, 11)})
    volumes = [normalised_hypervolume(F[:n], G[:n], yardstick.reference) for n in counts]
    kept = (G <= 0).all(axis=1)
    return {
        "evaluations": counts,
        "hypervolume": volumes,
        "regret": None if yardstick.best is None else 1.0 - volumes[-1] / yardstick.best,
        "best_accuracy": float(1.0 - F[kept, 0].min()) if kept.any() else None,
        "feasible_share": float(kept.mean()),
        "tau": [record["tau"] for record in result.history if record.get("tau") is not None],
        **yardstick.facts,
    }


def show(cells: list[dict[str, Any]], console: Console) -> None:
    """Print one row per budget and strategy, mean and standard deviation over seeds."""
    table = Table(title="hypervolume after the same number of accuracy evaluations (mean ± std over seeds)")
    columns = ("budget", "strategy", "seeds", "evaluations", "after half", "after all", "regret", "best accuracy")
    for name in (*columns, "feasible", "tau"):
        table.add_column(name)
    for budget, strategy in dict.fromkeys((cell["budget"], cell["strategy"]) for cell in cells):
        rows = [cell for cell in cells if (cell["budget"], cell["strategy"]) == (budget, strategy)]
        best = [row["best_accuracy"] for row in rows if row["best_accuracy"] is not None]
        taus = [tau for row in rows for tau in row["tau"]]
        regrets = [row["regret"] for row in rows if row["regret"] is not None]
        table.add_row(
            "none" if budget is None else f"{budget:.0%} of largest",
            strategy,
            str(len(rows)),
            str(rows[0]["evaluations"][-1]),
            *(_mean_std([row["hypervolume"][i] for row in rows]) for i in (4, -1)),
            ", ".join(f"{regret:.2%}" for regret in regrets),
            _mean_std(best) if best else "none feasible",
            f"{statistics.mean(row['feasible_share'] for row in rows):.0%}",
            f"{statistics.mean(taus):.2f}" if taus else "",
        )
    console.print(table)


def _mean_std(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", choices=("analytic", "supernet"), default="analytic")
    parser.add_argument(
        "--supernet",
        help="entry of the zoo, or path of one; default: train a small supernet, keep it in the cache",
    )
    parser.add_argument("--data", default="digits", help="data source of the supernet")
    add_data_arguments(parser)
    parser.add_argument("--validation-images", type=int, default=None)
    parser.add_argument("--bn-images", type=int, default=512, help="training images for batch normalisation")
    parser.add_argument("--subspace", action="store_true", help="a part of the space, every accuracy evaluated once")
    parser.add_argument("--share", type=float, default=0.1, help="evaluations as a share of the sub-space")
    parser.add_argument("--evaluations", type=int, default=124, help="evaluations without --subspace")
    parser.add_argument("--latency-model", type=Path, help="folder of a latency model; without it MACs are the cost")
    parser.add_argument("--budgets", default="none,0.3,0.1", help="shares of the largest network's cost, or none")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--results", type=Path, default=HERE)
    return parser.parse_args()


def main() -> None:
    """Run what is missing, then print the table of all cells asked for."""
    arguments = read_arguments()
    space, oracles = make_oracles(arguments)
    kind = f"{arguments.oracle}-subspace" if arguments.subspace else arguments.oracle
    journal = Journal(arguments.results / f"search_quality-{kind}.jsonl")
    known = {cell["cell"]: cell for cell in journal}
    console = Console()
    cells: list[dict[str, Any]] = []
    for text in arguments.budgets.split(","):
        budget = None if text == "none" else float(text)
        problem = make_problem(space, arguments.latency_model, budget)
        for seed, oracle in enumerate(oracles):
            if arguments.subspace:
                yardstick = exact_yardstick(problem, space, oracle.accuracy, arguments.share)
            else:
                yardstick = rough_yardstick(problem, oracle.accuracy, arguments.evaluations)
            for strategy in arguments.strategies.split(","):
                section = section_of(strategy, yardstick.evaluations, seed).model_dump(mode="json")
                key = digest([oracle.identity, problem.identity, strategy, section, yardstick.reference.tolist()])
                if key not in known:
                    cell = run_cell(problem, oracle.accuracy, strategy, seed, yardstick)
                    journal.append({"cell": key, "budget": budget, "strategy": strategy, "seed": seed, **cell})
                    known[key] = journal.records[-1]
                    console.print(f"budget {text}, {strategy}, seed {seed}: {cell['hypervolume'][-1]:.4f}")
                cells.append(known[key])
    show(cells, console)


if __name__ == "__main__":
    main()

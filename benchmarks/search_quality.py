"""Compare search strategies: hypervolume and best accuracy with the same number of accuracy evaluations.

    python benchmarks/search_quality.py                                   # analytic accuracies, MACs as latency, minutes
    python benchmarks/search_quality.py --oracle supernet --data digits   # one frozen supernet, trained on first use
    python benchmarks/search_quality.py --oracle supernet --supernet FOLDER --data digits --latency-model FOLDER

Every cell (budget, strategy, seed) is stored as one line of ``search_quality-ORACLE.jsonl`` and every accuracy of a
supernet as one line of ``search_quality-accuracies.jsonl`` beside this file; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hwnas.config import DataSection, SearchSection, TrainSection
from hwnas.files import Journal, cache_home, digest
from hwnas.registry import load
from hwnas.spaces.base import IntArray, SearchSpace
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.archive import key_of, objectives_of, read_member
from hwnas.strategies.costs import GraphCounter
from hwnas.strategies.hypervolume import normalised_hypervolume
from hwnas.strategies.problem import FloatArray, Limit, Problem
from hwnas.strategies.runner import run_search
from hwnas.testing.toy import AnalyticAccuracy

HERE = Path(__file__).parent
Accuracy = Callable[[IntArray], FloatArray]

FIRST, CANDIDATES, ITERATIONS, OVERSAMPLE = 60, 8, 8, 3
COMMON = {"candidates": CANDIDATES, "iterations": ITERATIONS, "adapt_epochs": 0.0}
SECTIONS: dict[str, dict[str, Any]] = {
    "natv2": {"initial": FIRST // OVERSAMPLE, "oversample": OVERSAMPLE, "archive": 40, **COMMON},
    "nat": {"initial": FIRST, **COMMON},
    "random": {"initial": FIRST // OVERSAMPLE, "oversample": OVERSAMPLE, **COMMON},
}
"""All three evaluate the same number of architectures before the first iteration and in each one."""

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


class StoredAccuracy:
    """Accuracies of a frozen supernet, each evaluated once and kept as one line of a file.

    Args:
        name: Digest of what is evaluated; lines of other supernets are left alone.
        evaluate: Asked for what the file does not hold.
        path: The file.
    """

    def __init__(self, name: str, evaluate: Accuracy, path: Path) -> None:
        self._name = name
        self._evaluate = evaluate
        self._journal = Journal(path)
        self._known = {key_of(r["encoding"]): r["accuracy"] for r in self._journal if r["supernet"] == name}

    def __call__(self, X: IntArray) -> FloatArray:
        """Return accuracies ``[n]`` of encodings ``[n, n_genes]``."""
        for row in X:
            if row.tobytes() not in self._known:
                accuracy = float(self._evaluate(row[None])[0])
                self._journal.append({"supernet": self._name, "encoding": row.tolist(), "accuracy": accuracy})
                self._known[row.tobytes()] = accuracy
        return np.array([self._known[row.tobytes()] for row in X], dtype=np.float64)


def supernet_oracle(arguments: argparse.Namespace) -> tuple[SearchSpace[Any], Accuracy, dict[str, Any]]:
    """Return space, stored accuracies and identity of a trained supernet; train a small one if none is given."""
    import torch

    from hwnas.datasets.data import load_data
    from hwnas.files import sha256_file
    from hwnas.supernets.evaluation import AccuracyEvaluator
    from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
    from hwnas.supernets.storage import load_supernet
    from hwnas.supernets.training import train_supernet

    torch.set_num_threads(arguments.threads)
    data = load_data(DataSection(source=arguments.data, image_size=arguments.image_size))
    folder = arguments.supernet
    if folder is None:
        folder = cache_home() / "benchmarks" / "search_quality-supernet"
        if not train_supernet(MobileNetV3Supernet(MobileNetV3Space(**SPACE)), data, TRAIN, folder).complete:
            raise SystemExit(f"training in {folder} is not complete; give the same command again")
    supernet = load_supernet(folder)
    weights = sorted(sha256_file(path) for path in folder.glob("*.safetensors"))
    identity = {"weights": digest(weights), "data": data.digest}
    evaluator = AccuracyEvaluator(supernet, data, validation_images=arguments.validation_images)
    path = arguments.results / "search_quality-accuracies.jsonl"
    name = digest([identity, arguments.validation_images])
    return supernet.space, StoredAccuracy(name, evaluator.evaluate_encodings, path), identity


def make_oracles(arguments: argparse.Namespace) -> tuple[SearchSpace[Any], list[tuple[Accuracy, dict[str, Any]]]]:
    """Return the space and, for each seed, an oracle with its identity.

    Every seed has an analytic oracle of its own: one landscape would say more about itself than about strategies.
    """
    if arguments.oracle == "supernet":
        space, accuracy, identity = supernet_oracle(arguments)
        return space, [(accuracy, identity)] * arguments.seeds
    analytic = MobileNetV3Space(**SPACE)
    return analytic, [(AnalyticAccuracy(analytic, seed=seed), {"analytic": seed}) for seed in range(arguments.seeds)]


def make_problem(space: SearchSpace[Any], model: Path | None, budget: float | None) -> Problem:
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


def reference_of(problem: Problem, accuracy: Accuracy) -> FloatArray:
    """Return one reference point for all strategies: the error of the smallest network, the cost of the largest feasible."""
    ends = np.vstack([problem.smallest(), problem.largest()])
    error = float(1.0 - accuracy(ends[:1])[0])
    cost = problem.limits[0].maximum if problem.limits else float(problem.costs(ends).F[1, 0])
    return np.array([1.01 * error, 1.01 * cost])


def run_cell(problem: Problem, accuracy: Accuracy, strategy: str, seed: int, reference: FloatArray) -> dict[str, Any]:
    """Run one search; return its hypervolume and best accuracy after each block of evaluations."""
    section = SearchSection(seed=seed, **SECTIONS[strategy])
    with tempfile.TemporaryDirectory() as folder:
        search = load("strategy", strategy)(problem, section)
        result = run_search(search, problem, evaluate=accuracy, folder=Path(folder))
        members = [read_member(record) for record in Journal(Path(folder) / "archive.jsonl")]
    F, G = objectives_of(members, problem.views[0])
    counts = [*range(FIRST, len(members), CANDIDATES), len(members)]
    kept = (G <= 0).all(axis=1)
    return {
        "evaluations": counts,
        "hypervolume": [normalised_hypervolume(F[:n], G[:n], reference) for n in counts],
        "best_accuracy": float(1.0 - F[kept, 0].min()) if kept.any() else None,
        "feasible_share": float(kept.mean()),
        "tau": [record["tau"] for record in result.history if record["tau"] is not None],
    }


def show(cells: list[dict[str, Any]], console: Console) -> None:
    """Print one row per budget and strategy, mean and standard deviation over seeds."""
    table = Table(title="hypervolume after the same number of accuracy evaluations (mean ± std over seeds)")
    half, last = cells[0]["evaluations"][ITERATIONS // 2], cells[0]["evaluations"][-1]
    for name in ("budget", "strategy", "seeds", f"after {FIRST}", f"after {half}", f"after {last}", "best accuracy"):
        table.add_column(name)
    table.add_column("feasible")
    table.add_column("tau")
    for budget, strategy in dict.fromkeys((cell["budget"], cell["strategy"]) for cell in cells):
        rows = [cell for cell in cells if (cell["budget"], cell["strategy"]) == (budget, strategy)]
        volumes = [[row["hypervolume"][i] for row in rows] for i in (0, ITERATIONS // 2, -1)]
        best = [row["best_accuracy"] for row in rows if row["best_accuracy"] is not None]
        taus = [tau for row in rows for tau in row["tau"]]
        table.add_row(
            "none" if budget is None else f"{budget:.0%} of largest",
            strategy,
            str(len(rows)),
            *(_mean_std(values) for values in volumes),
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
        type=Path,
        help="folder of a trained supernet; default: train a small one, keep it in the cache",
    )
    parser.add_argument("--data", default="digits", help="data source of the supernet")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--validation-images", type=int, default=None)
    parser.add_argument("--latency-model", type=Path, help="folder of a latency model; without it MACs are the cost")
    parser.add_argument("--budgets", default="none,0.3,0.1", help="shares of the largest network's cost, or none")
    parser.add_argument("--strategies", default=",".join(SECTIONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--results", type=Path, default=HERE)
    return parser.parse_args()


def main() -> None:
    """Run what is missing, then print the table of all cells asked for."""
    arguments = read_arguments()
    space, oracles = make_oracles(arguments)
    journal = Journal(arguments.results / f"search_quality-{arguments.oracle}.jsonl")
    known = {cell["cell"]: cell for cell in journal}
    console = Console()
    cells: list[dict[str, Any]] = []
    for text in arguments.budgets.split(","):
        budget = None if text == "none" else float(text)
        problem = make_problem(space, arguments.latency_model, budget)
        for strategy in arguments.strategies.split(","):
            for seed, (accuracy, identity) in enumerate(oracles):
                reference = reference_of(problem, accuracy)
                key = digest([identity, problem.identity, strategy, SECTIONS[strategy], seed, reference.tolist()])
                if key not in known:
                    cell = run_cell(problem, accuracy, strategy, seed, reference)
                    journal.append({"cell": key, "budget": budget, "strategy": strategy, "seed": seed, **cell})
                    known[key] = journal.records[-1]
                    console.print(f"budget {text}, {strategy}, seed {seed}: {cell['hypervolume'][-1]:.4f}")
                cells.append(known[key])
    show(cells, console)


if __name__ == "__main__":
    main()

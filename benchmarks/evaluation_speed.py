"""Time of one accuracy evaluation, before and after what was done about it, and the memory it takes.

    python benchmarks/evaluation_speed.py --supernet fashion-mnist-dense-early --data fashion-mnist --image-size 28
        --data-validation 0.1 --data-gate 0.02

The same random networks are evaluated in interleaved rounds: ``plain`` preprocesses the images anew, recalibrates and
validates the extracted network as it is; ``cached`` keeps preprocessed images; ``folded``, what searches use, also lets
activations work in place and folds batch normalisation after recalibration. Ratios are of medians over networks and rounds,
in processor time, which other work on the machine disturbs least. Results: ``evaluation_speed.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _entries import add_data_arguments, data_of
from rich.console import Console
from rich.table import Table

from hwnas.files import write_json
from hwnas.progress import progress_bar
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.zoo.entry import find_entry
from hwnas.zoo.weights import load_entry

HERE = Path(__file__).parent
Evaluate = Callable[[Any], float]


def plain(evaluator: AccuracyEvaluator) -> Evaluate:
    """Return an evaluation of the extracted network as it is."""

    def evaluate(architecture: Any) -> float:
        return evaluator.evaluate_network(evaluator.extract(architecture), architecture.resolution)

    return evaluate


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", required=True, help="entry of the zoo, or path of one")
    parser.add_argument("--data", required=True)
    add_data_arguments(parser)
    parser.add_argument("--validation-images", type=int, default=500)
    parser.add_argument("--bn-images", type=int, default=200)
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "evaluation_speed.json")
    return parser.parse_args()


def main() -> None:
    """Evaluate in rounds, print one row per way of doing it."""
    arguments = read_arguments()
    torch.set_num_threads(1)
    supernet = load_entry(find_entry(arguments.supernet))
    data = data_of(arguments)
    images = {"bn_images": arguments.bn_images, "validation_images": arguments.validation_images}
    cached = AccuracyEvaluator(supernet, data, **images)
    ways = {
        "plain": plain(AccuracyEvaluator(supernet, data, cache_mb=0, **images)),
        "cached": plain(cached),
        "folded": cached.evaluate,
    }
    rows = supernet.space.sample(np.random.default_rng(0), arguments.networks)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    accuracies: dict[str, list[float]] = {name: [] for name in ways}
    with progress_bar("evaluating", len(rows) * (arguments.rounds + 1)) as advance:
        for number in range(arguments.rounds + 1):
            for row in rows:
                for name, evaluate in ways.items():
                    start = time.process_time()
                    accuracy = evaluate(supernet.space.decode(row))
                    if number:  # the first round warms up: caches are filled, memory is taken
                        seconds[name].append(time.process_time() - start)
                        accuracies[name].append(accuracy)
                advance(1, "")
    found = {name: 1000.0 * statistics.median(values) for name, values in seconds.items()}
    differ = float(np.abs(np.subtract(accuracies["plain"], accuracies["folded"])).max())
    facts = {
        "supernet": arguments.supernet,
        **images,
        "networks": arguments.networks,
        "rounds": arguments.rounds,
        "ms": found,
        "of_plain": {name: value / found["plain"] for name, value in found.items()},
        "largest_difference_of_accuracy": differ,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    write_json(arguments.out, facts)
    if arguments.json:
        print(json.dumps(facts))
        return
    table = Table(title=f"one accuracy evaluation, {arguments.bn_images} + {arguments.validation_images} images")
    for column in ("way", "median, ms", "of plain"):
        table.add_column(column)
    for name, value in found.items():
        table.add_row(name, f"{value:.1f}", f"{value / found['plain']:.2f}")
    console = Console()
    console.print(table)
    console.print(f"accuracies differ by at most {differ:.4f}; peak memory {facts['peak_memory_gib']:.2f} GiB")


if __name__ == "__main__":
    main()

"""A run's winner against what costs nothing to think of.

    python benchmarks/baselines.py RUN.yaml --runs runs [--networks 20] [--target T]

(a) Of 20 random networks of the same supernet that keep the budget, each fine-tuned as the winner was, the best on validation.
(b) One fixed network of about the winner's measured latency (one expansion, one kernel and one depth everywhere), trained
alone for as long as the whole run took. All are judged on the test split by the same code, in torch. Needs a finished run.
Resumes: every fine-tuned network stays in RUN/baselines.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.artifacts.manifest import read_manifest
from hwnas.config import TrainSection, load_run_config
from hwnas.files import read_json, write_json
from hwnas.finetuning.plain import train_alone
from hwnas.finetuning.two_step import finetune
from hwnas.finetuning.winner import load_winner
from hwnas.runs.budgets import budgets_of, statistic_of
from hwnas.runs.profiling import model_of
from hwnas.runs.searching import search_stage, searched_supernet
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick
from hwnas.supernets.calibration import recalibrate_bn
from hwnas.supernets.evaluation import evaluate_module
from hwnas.supernets.static import build_network
from hwnas.targets import Target

RESULTS = Path(__file__).with_name("baselines.json")
SEED = 30_000


def random_feasible(run: Run, target: Target, budget: float, count: int) -> np.ndarray:
    """Return ``count`` random encodings whose predicted upper end keeps the budget."""
    rng, model = np.random.default_rng(SEED), model_of(run, target)
    found: dict[bytes, np.ndarray] = {}
    while len(found) < count:
        X = run.space.sample(rng, 256)
        for row in X[model.predict_upper(X, statistic_of(run, target)) <= budget]:
            found.setdefault(row.tobytes(), row)
    return np.stack(list(found.values())[:count])


def best_random(run: Run, target: Target, budget: float, count: int) -> dict[str, Any]:
    """Fine-tune random feasible networks as the winner was; the best on validation, judged on test."""
    supernet = searched_supernet(run, search_stage(run))
    results = []
    for row in random_feasible(run, target, budget, count):
        name = run.space.id_of(row)
        folder = run.path / "baselines" / name
        winner = finetune(supernet, run.space.decode(row), run.data, run.config.finetune, folder)
        results.append((winner.validation_accuracy, name, evaluate_module(winner.module, run.data.test)))
        print(f"  random {name}: validation {results[-1][0]:.4f}")
    validation, name, test = max(results)
    return {"architecture": name, "validation": validation, "test": test, "networks": count}


def uniform_network(run: Run, target: Target, latency: float) -> Any:
    """Return the uniform architecture whose predicted latency is nearest to ``latency``."""
    space, model = run.space, model_of(run, target)
    position = np.array([int(name.rsplit(".", 1)[-1]) for name in space.gene_names[2:]])
    candidates = []
    for resolution in range(int(space.upper[0]) + 1):
        for code in range(1, int(space.upper[-1]) + 1):
            for depth in range(int(space.lower[2:].astype(bool)[: position.max() + 1].sum()), position.max() + 2):
                layers = np.where(position < depth, code, 0)
                candidates.append(np.concatenate([[resolution, space.upper[1]], layers]))
    X = np.unique(space.repair(np.stack(candidates).astype(np.int64)), axis=0)
    value = model.predict(X, statistic_of(run, target)).value
    return X[int(np.argmin(np.abs(np.log(value / latency))))]


def fixed_alone(run: Run, target: Target, latency: float, minutes: float) -> dict[str, Any]:
    """Train one uniform network alone, from scratch, for ``minutes``."""
    row = uniform_network(run, target, latency)
    folder = run.path / "baselines" / "alone.json"
    if folder.exists():
        return dict(read_json(folder))
    architecture = run.space.decode(row)
    module = build_network(run.space, architecture, seed=run.config.seed)
    section: TrainSection = run.config.train
    history = train_alone(
        module, run.data, section, resolution=architecture.resolution, minutes=minutes, seed=run.config.seed
    )
    batches = run.data.train.batches(128, architecture.resolution, indices=np.arange(min(512, len(run.data.train))))
    recalibrate_bn(module, list(batches))
    result = {
        "architecture": run.space.id_of(row),
        "predicted_ms": float(model_of(run, target).predict(row[None]).value[0]),
        "epochs": len(history),
        "minutes": minutes,
        "validation": evaluate_module(module, run.data.validation, resolution=architecture.resolution),
        "test": evaluate_module(module, run.data.test, resolution=architecture.resolution),
    }
    write_json(folder, result)
    return result


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--target", default=None, help="default: the first target of the run")
    arguments = parser.parse_args()
    run = Run(load_run_config(arguments.run_file), arguments.runs)
    run.use_threads()
    target = Target.parse(arguments.target) if arguments.target else run.targets[0]
    pick = next(
        Pick.from_dict(e) for e in read_json(run.path / "shortlist.json") if Target.parse(e["target"]) == target
    )
    winner = load_winner(run.folder.winner(pick.identifier), run.space)
    manifest = read_manifest(run.folder.artifacts / f"{target.slug}--{pick.identifier}")
    seconds = sum(step["seconds"] for step in run.folder.steps)
    print(f"run {run.config.name}: {seconds / 60:.1f} minutes, torch {torch.get_num_threads()} threads")
    test = evaluate_module(winner.module, run.data.test)
    ours = {
        "architecture": pick.identifier,
        "measured_ms": manifest.measured.value,
        "validation": winner.validation_accuracy,
        "test": test,
        "test_of_the_artifact": manifest.accuracy.test if manifest.accuracy else None,
    }
    print("winner", ours)
    alone = fixed_alone(run, target, manifest.measured.value, seconds / 60.0)
    print("fixed network trained alone", alone)
    chance = best_random(run, target, budgets_of(run)[target], arguments.networks)
    print("best of random feasible networks", chance)
    stored = read_json(RESULTS) if RESULTS.exists() else {}
    stored[run.config.name] = {
        "date": time.strftime("%Y-%m-%d"),
        "target": str(target),
        "run_minutes": seconds / 60.0,
        "winner": ours,
        "best_of_random": chance,
        "fixed_alone": alone,
    }
    write_json(RESULTS, stored)


if __name__ == "__main__":
    main()

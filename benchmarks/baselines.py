"""A run's winner against what costs nothing to think of.

    python benchmarks/baselines.py RUN.yaml --runs runs [--networks 20] [--target T]

(a) Of 20 random networks of the same supernet that keep the budget, each fine-tuned as the winner was, the best on validation.
(b) One fixed network of about the winner's measured latency (one expansion, one kernel and one depth everywhere), trained
alone, on train and validation images as the winner finally was, for as long as the whole run took.
All are judged on the test split by the same code, in torch. Needs a finished run.
Resumes: every fine-tuned network stays in RUN/baselines.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _runs import keep, open_run, parser_of

from hwnas.artifacts.manifest import read_manifest
from hwnas.files import read_json, write_json
from hwnas.finetuning.plain import train_alone
from hwnas.finetuning.two_step import finetune, try_out
from hwnas.finetuning.winner import load_winner
from hwnas.runs.budgets import budgets_of, statistic_of
from hwnas.runs.exporting import artifact_name
from hwnas.runs.profiling import model_of
from hwnas.runs.searching import search_stage, searched_supernet
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick
from hwnas.runs.winning import WINNERS
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
    """Fine-tune random feasible networks as the winner was; the best on validation, judged on test.

    The second step of fine-tuning chooses nothing, so it is done for the best alone.
    """
    supernet = searched_supernet(run, search_stage(run))
    section, weights = run.config.finetune, run.config.train.exit_ensemble
    ranked = []
    for row in random_feasible(run, target, budget, count):
        name = run.space.id_of(row)
        folder = run.path / "baselines" / name
        validation = try_out(supernet, run.space.decode(row), run.data, section, folder, exit_ensemble=weights)
        ranked.append((validation, name, row))
        print(f"  random {name}: validation {validation:.4f}", flush=True)
    validation, name, row = max(ranked, key=lambda entry: entry[0])
    best = finetune(
        supernet, run.space.decode(row), run.data, section, run.path / "baselines" / name, exit_ensemble=weights
    )
    return {
        "architecture": name,
        "validation": validation,
        "median_validation": float(np.median([entry[0] for entry in ranked])),
        "test": evaluate_module(best.module, run.data.test),
        "networks": count,
    }


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
    """Train one uniform network alone, from scratch, on train and validation images, for ``minutes``."""
    row = uniform_network(run, target, latency)
    path = run.path / "baselines" / "alone.json"
    if path.exists():
        return dict(read_json(path))
    architecture = run.space.decode(row)
    module = build_network(run.space, architecture, seed=run.config.seed)
    # As the winner's second step: nothing is chosen by the validation images here, so they are trained on too.
    data = replace(run.data, train=run.data.train.joined(run.data.validation))
    history = train_alone(
        module, data, run.config.train, resolution=architecture.resolution, minutes=minutes, seed=run.config.seed
    )
    result = {
        "architecture": run.space.id_of(row),
        "predicted_ms": float(model_of(run, target).predict(row[None]).value[0]),
        "epochs": len(history),
        "minutes": minutes,
        "test": evaluate_module(module, data.test, resolution=architecture.resolution),
    }
    write_json(path, result)
    return result


def ours(run: Run, target: Target) -> dict[str, Any]:
    """Return the figures of the run's winner on a target."""
    picks = [Pick.from_dict(entry) for entry in read_json(run.path / WINNERS)]
    pick = next(pick for pick in picks if pick.target == target)
    winner = load_winner(run.folder.winner(pick.identifier), run.space)
    manifest = read_manifest(run.folder.artifacts / artifact_name(pick))
    return {
        "architecture": pick.identifier,
        "measured_ms": manifest.measured.value,
        "budget_ms": pick.budget,
        "verdict": manifest.budgets[0].verdict if manifest.budgets else None,
        "validation": winner.validation_accuracy,
        "test": evaluate_module(winner.module, run.data.test),
        "test_of_the_artifact": manifest.accuracy.test if manifest.accuracy else None,
    }


def main() -> None:
    """Compare and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--target", default=None, help="default: the first target of the run")
    parser.add_argument("--only", choices=("random", "alone"), default=None, help="one baseline; the other is kept")
    arguments = parser.parse_args()
    run = open_run(arguments)
    threads = run.use_threads()
    target = Target.parse(arguments.target) if arguments.target else run.targets[0]
    minutes = sum(step["seconds"] for step in run.folder.steps) / 60.0
    print(f"run {run.config.name}: {minutes:.1f} minutes, torch {threads} threads", flush=True)
    winner = ours(run, target)
    found: dict[str, Any] = {"target": str(target), "run_minutes": minutes, "threads": threads, "winner": winner}
    print("winner", winner, flush=True)
    if arguments.only != "random":
        found["fixed_alone"] = fixed_alone(run, target, winner["measured_ms"], minutes)
        print("fixed network trained alone", found["fixed_alone"], flush=True)
    if arguments.only != "alone":
        found["best_of_random"] = best_random(run, target, budgets_of(run)[target], arguments.networks)
        print("best of random feasible networks", found["best_of_random"], flush=True)
    keep(RESULTS, run, found, merge=True)


if __name__ == "__main__":
    main()

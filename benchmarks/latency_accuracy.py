"""How well the latency models of some targets predict networks they never saw, beside baselines and measuring noise.

For each target: profile the space (resumes in ``--work``), fit, then measure the held-out networks a second time in a
session of its own. The figures of one target are one cell of the results file; a cell that is there is not made again.

    python benchmarks/latency_accuracy.py --target local/onnxruntime-fp32 --held-out 100 --out results.json
    python benchmarks/latency_accuracy.py --config run.yaml --held-out 100 --out results.json
    python benchmarks/latency_accuracy.py --target emulated-arm/onnxruntime-fp32 --space examples/space-32.yaml --out results.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from hwnas import registry
from hwnas.config import ProfileSection, SpaceSection, load_run_config
from hwnas.devices.session import open_session
from hwnas.errors import HwnasError
from hwnas.files import digest, read_json, write_json
from hwnas.latency.evaluation import Scores, compare, evaluate, score
from hwnas.latency.model import LatencyModel
from hwnas.latency.networks import measure_encodings
from hwnas.latency.profiling import ProfileReport, profile_target
from hwnas.latency.rows import LatencyRow, encodings_of
from hwnas.latency.table import LatencyTable
from hwnas.progress import progress_bar
from hwnas.spaces.base import SearchSpace
from hwnas.targets import Target, find_device

PACKAGES = ("numpy", "scipy", "xgboost", "xgboost-cpu", "onnxruntime", "openvino", "torch")
COLUMNS = ("mape", "within_5", "within_10", "spearman", "kendall", "coverage", "width", "bias")


def versions() -> dict[str, str]:
    """Return the versions of what takes part, as far as installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=Path, help="run file: its targets, space and profile section")
    source.add_argument("--target", action="append", help="target; may be given more than once")
    parser.add_argument("--space", default="mobilenetv3", help="space, or a file of one, with --target")
    parser.add_argument("--space-settings", default='{"classes": 10}', help="its settings as JSON, with --target")
    parser.add_argument("--networks", type=int, default=None, help="networks to fit on")
    parser.add_argument("--rounds", type=int, default=None, help="rounds")
    parser.add_argument("--held-out", type=int, default=100, help="networks to judge by")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="where profiles are kept (beside --out by default)")
    parser.add_argument("--out", type=Path, required=True, help="results file")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> tuple[list[Target], SpaceSection, ProfileSection]:
    """Return targets, space and profile section of a command line."""
    if options.config is not None:
        config = load_run_config(options.config)
        targets = [Target.parse(entry.target) for entry in config.targets]
        space, section = config.space, config.profile
    else:
        targets = [Target.parse(text) for text in options.target]
        space = SpaceSection(name=options.space, settings=json.loads(options.space_settings))
        if Path(options.space).suffix == ".yaml":
            space = SpaceSection(**yaml.safe_load(Path(options.space).read_text(encoding="utf-8")))
        section = ProfileSection()
    # A run's time budget would cut the held-out networks that are asked for here.
    changes: dict[str, Any] = {"held_out": options.held_out, "seed": options.seed, "budget_minutes": None}
    changes |= {"networks": options.networks} if options.networks else {}
    changes |= {"rounds": options.rounds} if options.rounds else {}
    return targets, space, section.model_copy(update=changes)


def second_look(table: LatencyTable, space: SearchSpace[Any], folder: Path) -> list[LatencyRow]:
    """Measure the held-out networks again, in a session of its own, under the table's reference."""
    rows = table.measured("held_out")
    with open_session(find_device(table.target.device)) as session, progress_bar("second look", 1.0) as advance:
        found = measure_encodings(
            session, table, space, encodings_of(rows), folder, split="held_out", on_progress=advance
        )
    return [row for row in found if row.measured]


def between(first: Sequence[LatencyRow], second: Sequence[LatencyRow]) -> Scores:
    """Score the second measurement of the same networks against the first."""
    import numpy as np

    again = {row.key: row.latency for row in second}
    pairs = np.array([(row.latency, again[row.key]) for row in first if row.key in again])
    return score(pairs[:, 0], pairs[:, 1])


def measure_cell(target: Target, space: SearchSpace[Any], section: ProfileSection, folder: Path) -> dict[str, Any]:
    """Return every figure of one target."""
    with progress_bar(f"profile {target}", 1.0) as advance:
        report = profile_target(target, space, section, folder, on_progress=advance)
    table = report.table
    model = LatencyModel.fit(table, space, seed=section.seed, coverage=section.coverage)
    results = compare(table, model, space, section.seed)
    again = second_look(table, space, folder)
    results["model_second_look"] = evaluate(model, again)
    results["measured_twice"] = between(table.measured("held_out"), again)
    return {"scores": {name: scores.as_dict() for name, scores in results.items()}, **facts(report, model)}


def facts(report: ProfileReport, model: LatencyModel) -> dict[str, Any]:
    """Return what must be known to judge the figures."""
    identity = report.table.header.fingerprint.identity
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu_model": identity.get("cpu_model"),
        "identity": identity,
        "context": report.table.header.fingerprint.context,
        "versions": versions(),
        "seconds": round(report.seconds, 1),
        "estimator": report.estimator,
        "drift": report.drift,
        "repeatability_halves": report.repeatability,
        "grades": report.grades,
        "failures": report.failures,
        "coverage_of_blocks": report.plan.coverage,
        "notes": list(report.notes),
        "model": {name: model.facts[name] for name in ("rows", "out_of_fold_mape")},
    }


def show(results: dict[str, Any]) -> None:
    """Print one table per target."""
    console = Console(width=120)
    for name, cell in results.items():
        table = Table(title=f"{name} ({cell['date']}, {cell['cpu_model']})")
        table.add_column("predictor", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for predictor, scores in cell["scores"].items():
            values = ["" if scores[column] is None else f"{scores[column]:.3f}" for column in COLUMNS]
            table.add_row(predictor, *values)
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    options = parse(arguments)
    try:
        targets, section, profile = settings_of(options)
        space = registry.load("space", section.name)(**section.settings)
        results: dict[str, Any] = read_json(options.out) if options.out.exists() else {}
        work = options.work or options.out.with_suffix("")
        for target in targets:
            settings = digest([space.digest, profile.model_dump(mode="json"), str(target)])
            if results.get(str(target), {}).get("settings") != settings:
                folder = work / f"{target.slug}-{settings[:12]}"
                cell = measure_cell(target, space, profile, folder)
                results[str(target)] = {"settings": settings, "profile": profile.model_dump(mode="json"), **cell}
                write_json(options.out, results)
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

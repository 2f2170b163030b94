"""Latency models of this CPU from scratch: two spaces, four targets, 300 networks measured, half of them held out.

For each space and target: 150 networks are measured to fit on and 150 to judge by, chosen by seed beforehand; the latter
are measured a second time in a session of its own. Figures: the model's accuracy beside that second measurement, coverage,
the sum of the fitted lookup table alone, pairs of networks predicted the wrong way round, what it cost.

    python benchmarks/cpu_models.py --out benchmarks/cpu_models.json
    python benchmarks/cpu_models.py --out benchmarks/cpu_models.json --promises     # later, on the same machine

With ``--promises``, 100 networks that the stored model promises to keep a binding budget, each predicted within 10 % of it,
are measured in a new process: how many keep it. Cells that are there are not made again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from latency_accuracy import between, facts, second_look
from rich.console import Console
from rich.table import Table

from hwnas.config import ProfileSection, load_run_config
from hwnas.devices.session import open_session
from hwnas.errors import HwnasError
from hwnas.files import read_json, write_json
from hwnas.latency.base_models import row_weights
from hwnas.latency.evaluation import compare, evaluate, score
from hwnas.latency.lut import fit_prices
from hwnas.latency.model import LatencyModel
from hwnas.latency.networks import measure_encodings
from hwnas.latency.profiling import MODEL_FOLDER, TABLE_FILE, profile_target
from hwnas.latency.rows import encodings_of, latencies_of
from hwnas.latency.table import LatencyTable
from hwnas.progress import progress_bar
from hwnas.spaces.base import IntArray
from hwnas.spaces.mobilenetv3 import FIXED_GENES, MobileNetV3Space
from hwnas.targets import Target, find_device

ROOT = Path(__file__).parent.parent
SPACES = {
    "224": {"classes": 1000, "widths": [1.0], "resolutions": [128, 160, 192, 224]},
    "32": {**load_run_config(ROOT / "examples/cifar10-cpu.yaml").space.settings, "classes": 10, "in_channels": 3},
}
TARGETS = ("onnxruntime-fp32", "openvino-fp32", "onnxruntime-int8", "openvino-int8")
PAIRS = 20_000
PROMISED = 100


def larger(space: MobileNetV3Space, X: IntArray, rng: np.random.Generator) -> IntArray:
    """Return for each encoding one that is nowhere smaller: resolution, depth, expansion and kernel kept or raised."""
    raised = X.copy()
    raised[:, :FIXED_GENES] += rng.random((len(X), FIXED_GENES)) < 0.3
    codes = raised[:, FIXED_GENES:]
    expand, kernel = np.divmod(codes - 1, len(space.kernels))
    present = codes > 0
    expand += rng.random(codes.shape) < 0.2
    kernel += rng.random(codes.shape) < 0.2
    grown = np.minimum(expand, len(space.expands) - 1) * len(space.kernels) + np.minimum(kernel, len(space.kernels) - 1)
    added = rng.random(codes.shape) < 0.15
    fresh = np.where(added, rng.integers(1, space.n_codes + 1, codes.shape), 0)
    raised[:, FIXED_GENES:] = np.where(present, grown + 1, fresh)
    return space.repair(raised)


def inversions(model: LatencyModel, space: MobileNetV3Space, seed: int = 1) -> dict[str, float]:
    """Predict pairs of networks of which one is nowhere smaller than the other; count those predicted as faster."""
    rng = np.random.default_rng(seed)
    small = space.sample(rng, PAIRS)
    large = larger(space, small, rng)
    differ = (small != large).any(axis=1)
    ratio = model.predict(large[differ]).value / model.predict(small[differ]).value
    return {"pairs": int(differ.sum()), "inverted": int((ratio < 1.0).sum()), "largest": float(1.0 - ratio.min())}


def lookup_sums(table: LatencyTable, model: LatencyModel) -> dict[str, float] | None:
    """Return how the sum of the fitted lookup table, nothing else, agrees with the held-out networks."""
    train, held_out = table.measured("train"), table.measured("held_out")
    prices = fit_prices(train, model.extractor, row_weights(train))
    if prices is None:
        return None
    total, _ = prices.sums(model.extractor, model.extractor.ids(encodings_of(held_out)))
    ratio = total / latencies_of(held_out)
    found = score(total, latencies_of(held_out))
    return {
        "median": float(np.median(ratio)),
        "within_8": float(np.mean(np.abs(ratio - 1) <= 0.08)),
        "worst": float(np.max(np.abs(ratio - 1))),
        "mape": found.mape,
    }


def size_of(folder: Path) -> int:
    """Return the bytes of table and model."""
    return sum(path.stat().st_size for path in [folder / TABLE_FILE, *(folder / MODEL_FOLDER).rglob("*")])


def measure_cell(target: Target, space: MobileNetV3Space, section: ProfileSection, folder: Path) -> dict[str, Any]:
    """Profile, fit, measure again; return every figure of one space and target."""
    with progress_bar(f"profile {target}", 1.0) as advance:
        report = profile_target(target, space, section, folder, on_progress=advance)
    spent = folder / "seconds.json"
    seconds = report.seconds + (float(read_json(spent)) if spent.exists() else 0.0)
    write_json(spent, seconds)
    table, start = report.table, time.monotonic()
    model = LatencyModel.fit(table, space, seed=section.seed, coverage=section.coverage)
    fit_seconds = time.monotonic() - start
    model.save(folder / MODEL_FOLDER)
    many = space.sample(np.random.default_rng(0), 20_000)
    start = time.monotonic()
    model.predict(many)
    speed = len(many) / (time.monotonic() - start)
    results = compare(table, model, space, section.seed)
    again = second_look(table, space, folder)
    results["model_second_look"] = evaluate(model, again)
    results["measured_twice"] = between(table.measured("held_out"), again)
    first = {row.key: row.latency for row in table.measured("held_out")}
    twice = [abs(row.latency / first[row.key] - 1.0) for row in again if row.key in first]
    return {
        "scores": {name: scores.as_dict() for name, scores in results.items()},
        "lookup_sums": lookup_sums(table, model),
        "measured_twice_worst": max(twice),
        "inversions": inversions(model, space),
        "fit_seconds": round(fit_seconds, 1),
        "predictions_per_second": round(speed),
        "bytes": size_of(folder),
        **facts(report, model),
        "seconds": round(seconds, 1),
    }


def promises(target: Target, space: MobileNetV3Space, folder: Path) -> dict[str, Any]:
    """Measure networks that the model in ``folder`` promises to keep a budget; return how many keep it."""
    table = LatencyTable.load(folder / TABLE_FILE)
    model = LatencyModel.load(folder / MODEL_FOLDER, space)
    X = space.sample(np.random.default_rng(5), 20_000)
    prediction = model.predict(X)
    budget = float(np.median(prediction.value))
    near = np.flatnonzero((prediction.high <= budget) & (prediction.value >= 0.9 * budget))[:PROMISED]
    with (
        open_session(find_device(target.device)) as session,
        progress_bar(f"promises {target}", 1.0) as advance,
    ):
        rows = measure_encodings(session, table, space, X[near], folder / "promises", on_progress=advance)
    value = latencies_of([row for row in rows if row.measured])
    slack = 1.0 - value / budget
    return {
        "date": time.strftime("%Y-%m-%d"),
        "budget": budget,
        "networks": len(value),
        "kept": float(np.mean(value <= budget)),
        "median_slack": float(np.median(slack)),
        "worst_excess": float(max(0.0, -slack.min())),
    }


def show(results: dict[str, Any]) -> None:
    """Print one line per space and target."""
    columns = ("within 10 %", "within 5 %", "MAPE", "Kendall", "twice 10 %", "twice 5 %", "twice MAPE", "coverage")
    more = ("LUT median", "LUT within 8 %", "inverted", "minutes", "fit s", "kB", "kept")
    table = Table(*("space, target", *columns, *more))
    for name, cell in results.items():
        scores, lut = cell["scores"], cell["lookup_sums"] or {}
        model, twice = scores["model"], scores["measured_twice"]
        values = [model["within_10"], model["within_5"], model["mape"], model["kendall"]]
        values += [twice["within_10"], twice["within_5"], twice["mape"], model["coverage"]]
        values += [lut.get("median", float("nan")), lut.get("within_8", float("nan"))]
        shown = [f"{value:.3f}" for value in values]
        shown += [str(cell["inversions"]["inverted"]), f"{cell['seconds'] / 60:.1f}", str(cell["fit_seconds"])]
        kept = cell.get("promises", {}).get("kept")
        table.add_row(name, *shown, f"{cell['bytes'] / 1e3:.0f}", "" if kept is None else f"{kept:.2f}")
    Console(width=200).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results file")
    parser.add_argument("--work", type=Path, default=None, help="where profiles are kept (beside --out by default)")
    parser.add_argument("--promises", action="store_true", help="measure promised networks of the stored models")
    parser.add_argument("--only", default="", help="spaces and targets whose name holds this text")
    options = parser.parse_args(arguments)
    work = options.work or options.out.with_suffix("")
    results: dict[str, Any] = read_json(options.out) if options.out.exists() else {}
    section = ProfileSection(networks=150, held_out=150)
    try:
        for runtime in TARGETS:
            for size, settings in SPACES.items():
                name, target = f"{size} {runtime}", Target.parse(f"local/{runtime}")
                space, folder = MobileNetV3Space(**settings), work / f"{size}-{runtime}"
                if options.only not in name:
                    continue
                if options.promises and name in results and "promises" not in results[name]:
                    results[name]["promises"] = promises(target, space, folder)
                elif not options.promises and name not in results:
                    results[name] = measure_cell(target, space, section, folder)
                write_json(options.out, results)
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Accuracy of the kernel model on measurements of ten families of networks that nn-Meter published.

    python benchmarks/kernel_model_accuracy.py FOLDER     # holds graphs.npz: layers and latencies of nn-Meter's data set

(a) 300 networks of all families are measured, 2,000 others judge. (b) One family is left out of the 300; its networks judge
with none of it measured, and with 20. Beside it: a line through MACs, physics alone, XGBoost on a network's sums.
Cells are stored as lines of ``kernel_model_accuracy.jsonl`` beside this file; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hwnas.files import Journal
from hwnas.kernels.batch import Kernel, KernelBatch
from hwnas.kernels.model import KernelModel
from hwnas.kernels.physics import NEAR, terms
from hwnas.kernels.prices import PhysicalPrices
from hwnas.latency.evaluation import score
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import IntArray

RESULTS = Path(__file__).with_suffix(".jsonl")
DEVICES = {"cortexA76cpu": "Cortex-A76, TFLite", "myriadvpu": "Myriad VPU, OpenVINO"}
JUDGES, OWN = 2000, 20
FUSED_INTO = ("conv", "dwconv", "fc", "add", "avgpool", "maxpool")
"""An activation behind one of these is computed with it."""

OTHERS = {"act": "elementwise", "avgpool": "avg_pool", "maxpool": "max_pool", "gap": "global_pool"}


def kernel_of(op: str, row: IntArray) -> Kernel:
    """Return the kernel of a layer row (h_in, c_in, c_out, k, stride, h_out, groups)."""
    h_in, c_in, c_out, k, stride, h_out, groups = (max(int(value), 1) for value in row)
    if op in ("conv", "dwconv"):
        return Kernel.conv((c_in, c_out), (h_in**2, h_out**2), k * k, stride=stride, groups=groups)
    if op == "fc":
        return Kernel.linear(c_in, c_out)
    read, written = float(c_in * h_in**2), float(c_out * h_out**2)
    window = k * k if op in ("avgpool", "maxpool") else 1
    return Kernel(
        kind=OTHERS.get(op, op),
        read=2 * read if op == "add" else read,
        written=written,
        in_channels=c_in,
        out_channels=c_out,
        in_pixels=h_in**2,
        out_pixels=h_out**2,
        window=window,
        stride=stride,
    )


def kernels_of(ops: list[str], rows: IntArray) -> list[Kernel]:
    """Return the kernels of a network's layer rows: an activation goes into the layer before it where it can."""
    kernels: list[Kernel] = []
    before = ""
    for row in rows:
        op = ops[row[0]]
        if op == "act" and before in FUSED_INTO:
            kernels[-1] = kernels[-1].with_epilogue()
        else:
            kernels.append(kernel_of(op, row[1:]))
        before = op
    return kernels


class Data:
    """Kernels, families and latencies of all networks."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            ops, rows, offsets = [str(op) for op in stored["ops"]], stored["rows"], stored["offsets"]
            self.family = stored["family"].astype(str)
            self.y = {name: stored[f"{name}_ms"] for name in DEVICES}
        self.networks = [kernels_of(ops, rows[start:end]) for start, end in track(list(pairwise(offsets)), "kernels")]

    def batch(self, networks: IntArray) -> KernelBatch:
        """Return the kernels of some networks."""
        return KernelBatch.of([self.networks[index] for index in networks])


def sums_of(batch: KernelBatch) -> FloatArray:
    """Return a network's terms summed over its kernels, ``[n, terms]``."""
    return batch.sums(terms(batch, NEAR[0]))


def baselines(
    physical: PhysicalPrices, batch: KernelBatch, y: FloatArray, judges: KernelBatch
) -> dict[str, FloatArray]:
    """Return predictions of the judges by the model's physical part and by simpler models of the same networks."""
    macs, judged = batch.sums(batch["macs"]), judges.sums(judges["macs"])
    design = np.column_stack([np.ones(len(y)), macs])
    line, *_ = np.linalg.lstsq(design / y[:, None], np.ones(len(y)), rcond=None)
    sums = xgb.XGBRegressor(n_estimators=400, max_depth=5, learning_rate=0.05, subsample=0.8, n_jobs=1)
    sums.fit(sums_of(batch), np.log(y))
    return {
        "MACs line": np.maximum(line[0] + line[1] * judged, 1e-9),
        "physics alone": physical.totals(judges),
        "XGBoost on sums": np.exp(sums.predict(sums_of(judges)).astype(np.float64)),
    }


def run_cell(data: Data, device: str, networks: int, family: str, own: int, seed: int) -> dict[str, Any]:
    """Fit on ``networks`` of all other families and ``own`` of ``family`` (all families if empty); score on judges."""
    rng = np.random.default_rng([seed, networks])
    y = data.y[device]
    order = rng.permutation(np.flatnonzero(np.isfinite(y) & (y > 0)))
    inside = data.family[order] == family
    chosen, rest = (order[:networks], order[networks:]) if not family else (order[~inside][:networks], order[inside])
    added, judged = (rest[:own], rest[own:][:JUDGES])
    chosen = np.concatenate([chosen, added])
    batch, judges = data.batch(chosen), data.batch(judged)
    start = time.monotonic()
    model = KernelModel.fit(batch, y[chosen], seed=seed)
    seconds = time.monotonic() - start
    prediction = model.predict(judges)
    found = {"ours": score(prediction.value, y[judged], prediction.low, prediction.high).as_dict()}
    if not own:
        named = baselines(model.full.physical, batch, y[chosen], judges)
        found |= {name: score(value, y[judged]).as_dict() for name, value in named.items()}
    if not family:
        error = np.abs(prediction.value / y[judged] - 1.0) <= 0.1
        found["families"] = {
            str(name): float(error[data.family[judged] == name].mean()) for name in np.unique(data.family)
        }
    return {"scores": found, "fit_s": seconds, "judges": len(judged)}


def main() -> None:
    """Run the cells that are missing, print tables of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", type=int, nargs="+", default=[300])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    path = arguments.folder / "graphs.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing; it holds layers and latencies of nn-Meter's data set")
    data, journal = Data(path), Journal(arguments.results)
    families = [str(name) for name in np.unique(data.family)]
    cells = [
        (device, count, family, own, seed)
        for count in arguments.networks
        for device in DEVICES
        for family, own in [("", 0), *((name, own) for name in families for own in (0, OWN))]
        for seed in range(arguments.seeds if not family else 1)
    ]
    done = {tuple(cell["cell"]): cell for cell in journal}
    for cell in track([cell for cell in cells if cell not in done], "cells"):
        found = run_cell(data, *cell)
        done[cell] = {"cell": list(cell), "date": time.strftime("%Y-%m-%d"), **found}
        journal.append(done[cell])
    report(arguments.networks, families, done, arguments.seeds)


def report(counts: list[int], families: list[str], done: dict[tuple[Any, ...], dict[str, Any]], seeds: int) -> None:
    """Print the tables."""
    console = Console(width=180)
    for count in counts:
        table = Table(title=f"{count} networks of all families measured, means over {seeds} seeds")
        for name in ("device", "method", "within 5 %", "within 10 %", "MAPE", "Spearman", "coverage of 90 %", "fit, s"):
            table.add_column(name)
        for device, title in DEVICES.items():
            group = [done[device, count, "", 0, seed] for seed in range(seeds)]
            for method in ("ours", "physics alone", "XGBoost on sums", "MACs line"):
                entries = [cell["scores"][method] for cell in group]

                def mean(key: str, entries: list[Any] = entries) -> float:
                    return float(np.mean([np.nan if entry[key] is None else entry[key] for entry in entries]))

                own = method == "ours"
                held = [100 * entry["coverage"] for entry in entries] if own else []
                table.add_row(
                    title,
                    method,
                    *(f"{100 * mean(key):.1f}" for key in ("within_5", "within_10", "mape")),
                    f"{mean('spearman'):.3f}",
                    f"{np.mean(held):.1f} ({min(held):.1f}-{max(held):.1f})" if own else "",
                    f"{np.mean([cell['fit_s'] for cell in group]):.1f}" if own else "",
                )
        console.print(table)
        table = Table(title=f"one family left out of {count} networks: % of its networks, none / {OWN} of it measured")
        for name in ("device", "networks", *families, "median"):
            table.add_column(name)
        for device, title in DEVICES.items():
            for key, meaning in (("within_10", "within 10 %"), ("coverage", "in the 90 % interval")):
                shares = np.array(
                    [
                        [done[device, count, family, own, 0]["scores"]["ours"][key] for own in (0, OWN)]
                        for family in families
                    ]
                )
                middle = np.median(shares, axis=0)
                cells = [f"{100 * none:.0f} / {100 * some:.0f}" for none, some in [*shares, middle]]
                table.add_row(title, meaning, *cells)
        console.print(table)


if __name__ == "__main__":
    main()

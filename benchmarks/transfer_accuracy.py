"""Few-shot transfer to devices never seen, on the published latencies of NAS-Bench-201 (HELP's data, MIT licence).

    python benchmarks/transfer_accuracy.py FOLDER     # holds nasbench201_latency.npz and nb201_arch.json of HELP's repository

For every column (a device at a batch size) all columns of the same device are left out. One XGBoost model on 900 networks
stands for each of the others; 10, 20 or 50 networks of the column are measured. The code that transfers is the product's
(``hwnas/latency/few_shot.py``); only the features of this search space's cells are written here.
Beside it: the best single other column, and XGBoost on the measured networks alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hwnas.files import write_json
from hwnas.latency.conformal import Conformal
from hwnas.latency.evaluation import score
from hwnas.latency.few_shot import FewShot
from hwnas.latency.kriging import Scaling
from hwnas.latency.sampling import banded

RESULTS = Path(__file__).with_suffix(".json")
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
SIZES = (10, 20, 50)
SOURCE_NETWORKS, REFERENCE, JUDGES = 900, 2000, 6000
BOOSTING: dict[str, Any] = {
    "n_estimators": 400,
    "max_depth": 5,
    "learning_rate": 0.05,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "min_child_weight": 2,
    "n_jobs": 1,
}
COVERAGE = 0.9


def device_of(column: str) -> str:
    """Return the device of a column: its name without the batch size."""
    name, _, last = column.rpartition("_")
    return name if last in ("1", "32", "256") else column


def parse(cell: str) -> list[int]:
    """Return the operation of each edge of a cell string."""
    return [OPERATIONS.index(part.split("~")[0]) for node in cell.split("+") for part in node.strip("|").split("|")]


def live_edges(operations: list[int]) -> list[bool]:
    """Return which edges lie on a path from input to output that a compiler cannot remove."""
    reached, needed = {0}, {3}
    for (start, end), operation in zip(EDGES, operations, strict=True):
        if operation and start in reached:
            reached.add(end)
    for (start, end), operation in sorted(zip(EDGES, operations, strict=True), key=lambda entry: -entry[0][1]):
        if operation and end in needed:
            needed.add(start)
    return [
        bool(operation) and start in reached and end in needed
        for (start, end), operation in zip(EDGES, operations, strict=True)
    ]


def physical(operations: list[int]) -> list[float]:
    """Return live operations by kind, longest path in operations and in convolutions, additions, relative MACs."""
    live = live_edges(operations)
    counts = [sum(live[i] and op == kind for i, op in enumerate(operations)) for kind in range(1, len(OPERATIONS))]
    longest, convolutions = [0, -9, -9, -9], [0, -9, -9, -9]
    for (start, end), on, operation in zip(EDGES, live, operations, strict=True):
        if on:
            longest[end] = max(longest[end], longest[start] + 1)
            convolutions[end] = max(convolutions[end], convolutions[start] + (operation in (2, 3)))
    inputs = [sum(on and end == node for (_, end), on in zip(EDGES, live, strict=True)) for node in (1, 2, 3)]
    joins = sum(max(0, n - 1) for n in inputs)
    return [*map(float, counts), max(longest[3], 0), max(convolutions[3], 0), joins, 9 * counts[2] + counts[1]]


class Data:
    """Latencies, features and source models of all columns."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "nasbench201_latency.npz") as stored:
            self.columns = list(stored.files)
            self.y = np.stack([stored[name].astype(np.float64) for name in self.columns], axis=1)
        cells = [parse(cell) for cell in json.loads((folder / "nb201_arch.json").read_text())]
        self.F = np.array([physical(cell) for cell in cells])
        codes = np.array(cells)
        live = np.array([live_edges(cell) for cell in cells])
        kinds = [codes == kind for kind in range(len(OPERATIONS))]
        blocks = [self.F, *kinds, *(kind & live for kind in kinds), *(k.sum(axis=1)[:, None] for k in kinds)]
        self.X = np.concatenate(blocks, axis=1).astype(np.float32)
        self.sources = np.stack([self._source(i) for i in track(range(len(self.columns)), "source models")], axis=1)

    def _source(self, column: int) -> Any:
        rows = np.random.default_rng(column).choice(len(self.y), SOURCE_NETWORKS, replace=False)
        model = xgb.XGBRegressor(**BOOSTING).fit(self.X[rows], np.log(self.y[rows, column]))
        return model.predict(self.X).astype(np.float64)


def run_cell(data: Data, column: int, size: int, seed: int) -> dict[str, dict[str, Any]]:
    """Transfer to one column from ``size`` networks; scores of ours and two baselines on the judges."""
    rng = np.random.default_rng([seed, column, size])
    others = [i for i, name in enumerate(data.columns) if device_of(name) != device_of(data.columns[column])]
    S, F, y = data.sources[:, others], data.F, data.y[:, column]
    reference = np.random.default_rng(0).choice(len(y), REFERENCE, replace=False)
    scalings = Scaling.of(S[reference]), Scaling.of(np.log1p(F[reference]))
    rows = np.array(banded(scalings[0](S).mean(axis=1), size, rng))
    judges = np.setdiff1d(rng.choice(len(y), JUDGES, replace=False), rows)
    blend = FewShot.fit(*scalings, S[rows], F[rows], y[rows], np.ones(size))
    value, spread = blend.predict(S[judges], F[judges])
    half = Conformal.fit(blend.left_out, blend.left_out_spread, COVERAGE).half_width(spread)
    ours = score(np.exp(value), y[judges], np.exp(value - half), np.exp(value + half))
    nearest = max(range(len(others)), key=lambda i: abs(float(np.corrcoef(S[rows, i], np.log(y[rows]))[0, 1])))
    slope, level = np.polyfit(S[rows, nearest], np.log(y[rows]), 1)
    proxy = score(np.exp(level + slope * S[judges, nearest]), y[judges])
    alone = xgb.XGBRegressor(**BOOSTING).fit(data.X[rows], np.log(y[rows])).predict(data.X[judges])
    scratch = score(np.exp(alone.astype(np.float64)), y[judges])
    named = {"transfer": ours, "best single column": proxy, "xgboost alone": scratch}
    return {name: entry.as_dict() for name, entry in named.items()}


def mean_of(cells: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a score over cells."""
    return float(np.mean([cell[key] for cell in cells]))


def main() -> None:
    """Run all cells, print and keep the means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    missing = [
        name for name in ("nasbench201_latency.npz", "nb201_arch.json") if not (arguments.folder / name).exists()
    ]
    if missing:
        raise SystemExit(f"{arguments.folder} lacks {missing[0]}; the folder is data/nasbench201 of HELP's repository")
    data = Data(arguments.folder)
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "seeds": arguments.seeds, "sizes": {}}
    table = Table(title="a device never seen, all its columns left out: means over columns (over devices)")
    for name in ("networks", "method", "Spearman", "within 10 %", "coverage", "worst column"):
        table.add_column(name)
    devices = {name: device_of(name) for name in data.columns}
    for size in SIZES:
        cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for column, name in enumerate(track(data.columns, f"{size} networks")):
            for seed in range(arguments.seeds):
                for method, entry in run_cell(data, column, size, seed).items():
                    cells.setdefault(method, {}).setdefault(name, []).append(entry)
        results["sizes"][str(size)] = {}
        for method, columns in cells.items():
            keys = ("spearman", "within_10", "coverage") if method == "transfer" else ("spearman", "within_10")
            per = {name: {key: mean_of(entries, key) for key in keys} for name, entries in columns.items()}
            over = {key: float(np.mean([entry[key] for entry in per.values()])) for key in keys}
            by_device = {
                key: float(
                    np.mean(
                        [np.mean([per[n][key] for n in per if devices[n] == d]) for d in sorted(set(devices.values()))]
                    )
                )
                for key in keys
            }
            worst = min(per, key=lambda name: per[name]["spearman"])
            results["sizes"][str(size)][method] = {"columns": over, "devices": by_device, "worst": worst, "each": per}
            cell = [f"{over[key]:.3f} ({by_device[key]:.3f})" for key in keys] + [""] * (3 - len(keys))
            table.add_row(str(size), method, *cell, f"{worst} {per[worst]['spearman']:.3f}")
    Console(width=140).print(table)
    write_json(RESULTS, results)


if __name__ == "__main__":
    main()

"""Latency models side by side: the same networks to learn from, the same to judge by, on latencies that others published.

    python benchmarks/side_by_side.py FOLDER                            # holds nn-meter, help and hat
    python benchmarks/side_by_side.py FOLDER --columns 'ofa/*' --sizes 100 300 --methods ours 'MLP'

From every column (a device at a batch size) up to 2,000 networks that judge are drawn by the seed; 20 to 1,000 others
teach. Five seeds on the first column of every family, one on the others. Left out: the columns of FBNet that are sums of a
table, and networks of Pixel 3 whose output is not connected. Cells are stored as lines of ``side_by_side.jsonl`` beside this
file; the same command goes on where it stopped, or after ``--minutes``.

Nobody published times of operations or kernels alone, so "operations" (nothing fused) and "kernels" (with what a compiler
joins to them) have prices of work, traffic and launches learned from whole networks, and a network is their plain sum;
for the same reason the forests in nn-Meter's style read a network's sums of nn-Meter's features. "ours" is the product:
:class:`LatencyModel` on networks of a space, :class:`KernelModel` on lists of kernels. All others that read physics get the
features that ours has.
"""

from __future__ import annotations

import argparse
import fnmatch
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xgboost as xgb
from _published import Column, Networks, columns_of
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from hwnas.files import Journal
from hwnas.kernels.model import KernelModel
from hwnas.latency.evaluation import Scores, score
from hwnas.latency.model import LatencyModel
from hwnas.latency.predictor import Prediction
from hwnas.latency.rows import LatencyRow
from hwnas.latency.statistics import FloatArray
from hwnas.latency.table import LatencyTable, TableHeader
from hwnas.progress import progress_bar
from hwnas.spaces.base import IntArray, SearchSpace
from hwnas.targets import Fingerprint, Target

RESULTS = Path(__file__).with_suffix(".jsonl")
SIZES = (20, 50, 100, 300, 1000)
SEEDS, JUDGES, LARGEST = 5, 2000, 1000
FIGURES = ("mape", "within_5", "within_10", "spearman", "kendall", "coverage", "width")
POINTS, SHARE = 0.003, 0.05
"""By how much ours may be behind the best: in MAPE, or as a share of the best's MAPE if that is more."""

_FINGERPRINT = Fingerprint({"cpu_model": "published"}, {})
_BOOSTING: dict[str, Any] = {
    **{"n_estimators": 400, "max_depth": 5, "learning_rate": 0.05, "subsample": 0.8, "colsample_bytree": 0.5},
    **{"min_child_weight": 2, "n_jobs": 1},
}
_STRENGTHS = np.logspace(-4, 3, 15)

T = TypeVar("T")
Predict = Callable[[Networks], FloatArray | Prediction]
Fit = Callable[[Column, Networks, FloatArray, int], Predict]
Key = tuple[str, int, int, str]
"""Column, networks to learn from, seed, method."""


def line(columns: int) -> Fit:
    """Return the learner of a plane through the first ``columns`` of a network's work, by relative error."""

    def design(networks: Networks) -> FloatArray:
        return np.column_stack([np.ones(len(networks.work)), networks.work[:, :columns]])

    def fit(_: Column, networks: Networks, y: FloatArray, __: int) -> Predict:
        weights, *_rest = np.linalg.lstsq(design(networks) / y[:, None], np.ones(len(y)), rcond=None)
        return lambda asked: np.maximum(design(asked) @ weights, y.min() / 2.0)

    return fit


def plain_sum(part: str) -> Fit:
    """Return the learner of prices per class, none negative, whose sum over a network is its latency."""

    def fit(_: Column, networks: Networks, y: FloatArray, __: int) -> Predict:
        columns = getattr(networks, part)
        scale = np.maximum(columns.max(axis=0), 1e-12)
        rows = columns / scale / y[:, None]
        faint = 1e-3 * np.sqrt(len(y) * np.mean(rows**2)) * np.eye(len(scale))
        model = LinearRegression(fit_intercept=False, positive=True)
        model.fit(np.concatenate([rows, faint]), np.concatenate([np.ones(len(y)), np.zeros(len(scale))]))
        return lambda asked: np.maximum(model.predict(getattr(asked, part) / scale), y.min() / 100.0)

    return fit


def additive(_: Column, networks: Networks, y: FloatArray, __: int) -> Predict:
    """Fit a price per choice by ridge regression of relative error, its strength by leave-one-out error."""
    genes, scale = _known(networks.genes), float(y.mean())
    scaler = StandardScaler().fit(genes)
    model = RidgeCV(_STRENGTHS).fit(scaler.transform(genes), y / scale, sample_weight=(scale / y) ** 2)
    return lambda asked: np.maximum(scale * model.predict(scaler.transform(asked.genes)), y.min() / 2.0)


def learner(part: str, make: Callable[[int], Any]) -> Fit:
    """Return a learner of the logarithm of latency from a part of what is known of networks."""

    def fit(_: Column, networks: Networks, y: FloatArray, seed: int) -> Predict:
        model = make(seed).fit(getattr(networks, part), np.log(y))
        return lambda asked: np.exp(np.asarray(model.predict(getattr(asked, part)), dtype=np.float64))

    return fit


def forest(seed: int) -> Any:
    """Return a forest as large as nn-Meter's."""
    return RandomForestRegressor(n_estimators=300, max_depth=70, max_features=0.5, n_jobs=1, random_state=seed)


def trees(seed: int) -> Any:
    """Return boosted trees."""
    return xgb.XGBRegressor(**_BOOSTING, random_state=seed)


def perceptron(seed: int) -> Any:
    """Return HAT's three layers of 400 (Wang et al., ACL 2020)."""
    inner = MLPRegressor(hidden_layer_sizes=(400, 400, 400), random_state=seed, max_iter=200)
    scaled = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), FunctionTransformer(np.float32), inner)
    return TransformedTargetRegressor(scaled, transformer=StandardScaler())


def ours(column: Column, networks: Networks, y: FloatArray, seed: int) -> Predict:
    """Fit the product's model."""
    if networks.batch is not None:
        kernels = KernelModel.fit(networks.batch, y, seed=seed)
        return lambda asked: kernels.predict(_known(asked.batch))
    space = _known(column.space)
    model = LatencyModel.fit(table_of(space, _known(networks.X), y), space, seed=seed)
    return lambda asked: model.predict(_known(asked.X))


def _known(value: T | None) -> T:
    assert value is not None
    return value


def table_of(space: SearchSpace[Any], X: IntArray, y: FloatArray) -> LatencyTable:
    """Return the latency table that a profile of encodings would have left; of their kernels nothing is known."""
    header = TableHeader(
        target=Target.parse("published/torch-fp32"),
        fingerprint=_FINGERPRINT,
        space=space.name,
        settings=space.settings(),
        space_digest=space.digest,
        protocol={},
        canaries={},
    )
    rows = [
        LatencyRow(
            key=space.id_of(encoding),
            encoding=tuple(int(gene) for gene in encoding),
            split="train",
            identity=_FINGERPRINT.identity_digest,
            context=_FINGERPRINT.context_digest,
            model_digest="0",
            value=float(value),
            low=float(value),
            high=float(value),
        )
        for encoding, value in zip(X, y, strict=True)
    ]
    return LatencyTable(header, tuple(rows))


METHODS: dict[str, Fit] = {
    "MACs": line(1),
    "MACs+bytes": line(2),
    "operations": plain_sum("operations"),
    "kernels": plain_sum("kernels"),
    "additive LUT": additive,
    "forest": learner("forest", forest),
    "XGB one-hot": learner("genes", trees),
    "XGB physics": learner("physics", trees),
    "MLP": learner("physics", perceptron),
    "ours": ours,
}
NEED_GENES = ("additive LUT", "XGB one-hot")


def absent(column: Column, method: str) -> str:
    """Return why a method has no figures on a column; empty if it has."""
    if method in NEED_GENES and column.name.startswith("nn-meter/"):
        return "networks of ten families share no choices to give a column each"
    return ""


def measure(fit: Fit, column: Column, parts: Sequence[Networks], y: Sequence[FloatArray], seed: int) -> dict[str, Any]:
    """Fit on the first part, judge by the second; returns scores and seconds."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predict = fit(column, parts[0], y[0], seed)
    fitted = time.perf_counter()
    found = predict(parts[1])
    seconds = time.perf_counter() - fitted
    interval = (found.low, found.high) if isinstance(found, Prediction) else (None, None)
    scores: Scores = score(found.value if isinstance(found, Prediction) else found, y[1], *interval)
    figures = {name: value for name, value in scores.as_dict().items() if name in FIGURES and value is not None}
    rounded = {name: round(float(value), 5) for name, value in figures.items()}
    return {**rounded, "fit_s": round(fitted - start, 3), "predict_s": round(seconds, 4)}


def run_group(column: Column, seed: int, cells: Sequence[Key]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield the figures of cells of one column and seed."""
    order = np.random.default_rng([seed, 20]).permutation(np.flatnonzero(np.isfinite(column.y) & (column.y > 0)))
    judges = min(JUDGES, len(order) - LARGEST)
    used = order[: judges + LARGEST]
    networks, y = column.describe(used), column.y[used]
    for cell in cells:
        parts = (slice(judges, judges + cell[1]), slice(judges))
        fit = METHODS[cell[3]]
        yield cell, measure(fit, column, [networks.take(part) for part in parts], [y[part] for part in parts], seed)


def wanted(columns: Sequence[Column], sizes: Sequence[int], methods: Sequence[str], seeds: int) -> list[Key]:
    """Return all cells: every seed on the first column of a family, one on the others."""
    seen: set[str] = set()
    found: list[Key] = []
    for column in columns:
        for seed in range(1 if column.family in seen else seeds):
            found += [(column.name, size, seed, name) for size in sizes for name in methods if not absent(column, name)]
        seen.add(column.family)
    # a run that is stopped has one seed of everything before it has five of anything
    return sorted(found, key=lambda cell: cell[2])


Cells = dict[Key, dict[str, Any]]


def complete(cells: Cells, asked: Sequence[Key]) -> Cells:
    """Return the cells that were asked for, without those of a column, size and seed that some method still lacks."""
    lacking = {cell[:3] for cell in asked if cell not in cells}
    return {cell: cells[cell] for cell in asked if cell[:3] not in lacking}


def mean(cells: Cells, columns: Sequence[Column], size: int, method: str, figure: str) -> float:
    """Return a figure's mean over columns of its means over seeds; NaN if there is none."""
    values = [
        [cell[figure] for key, cell in cells.items() if key[:2] == (column.name, size) and key[3] == method]
        for column in columns
    ]
    return float(np.mean([np.mean(found) for found in values if found])) if any(values) else float("nan")


def families_of(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return the columns of each family."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(column.family, []).append(column)
    return found


def behind(cells: Cells, columns: Sequence[Column], size: int) -> tuple[float, float, str]:
    """Return by how much ours is behind the best of the others in MAPE, how much it may be, and the best's name."""
    others = {name: mean(cells, columns, size, name, "mape") for name in METHODS if name != "ours"}
    known = {name: value for name, value in others.items() if np.isfinite(value)}
    best = min(known, key=known.__getitem__)
    gap = mean(cells, columns, size, "ours", "mape") - known[best]
    return gap, max(POINTS, SHARE * known[best]), best


def show_row(values: Sequence[str]) -> None:
    """Print a row of a table in Markdown."""
    print("| " + " | ".join(values) + " |")


def report(cells: Cells, columns: Sequence[Column], sizes: Sequence[int]) -> None:
    """Print means per family, what ours is like, and verdicts."""
    families = families_of(columns)
    ceilings = {name: float(np.nanmean([c.ceiling for c in own])) for name, own in families.items() if _repeats(own)}
    print(
        f"\nMAPE, %, mean over a family's columns; repeat: of a perfect model, from networks measured twice{_LEGEND}\n"
    )
    show_row(["family (columns)", "N", *METHODS, "repeat"])
    show_row(["---"] * (len(METHODS) + 3))
    verdicts = []
    for name, own in families.items():
        for size in sizes:
            values = [mean(cells, own, size, method, "mape") for method in METHODS]
            texts = ["-" if np.isnan(value) else f"{100 * value:.2f}" for value in values]
            ceiling = f"{100 * ceilings[name]:.2f}" if name in ceilings else "unknown"
            if any(text != "-" for text in texts):
                show_row([f"{name} ({len(own)})", str(size), *texts, ceiling])
            if np.isfinite(values[-1]) and np.isfinite(values[:-1]).any():
                gap, allowed, best = behind(cells, own, size)
                word = "BEHIND" if gap > allowed else "kept"
                verdicts.append(
                    f"{word:7}{name}, {size}: ours behind {best} by {100 * gap:+.2f} points (allowed {100 * allowed:.2f})"
                )
    report_ours(cells, families, sizes)
    print("\n" + "\n".join(verdicts))
    reasons = {(absent(column, name), name) for column in columns for name in METHODS if absent(column, name)}
    for reason, group in groupby(sorted(reasons), key=lambda entry: entry[0]):
        print(f"- ({', '.join(name for _, name in group)}): {reason}")


_LEGEND = " (unknown: the data repeat none)"


def _repeats(columns: Sequence[Column]) -> bool:
    return any(np.isfinite(column.ceiling) for column in columns)


def report_ours(cells: Cells, families: dict[str, list[Column]], sizes: Sequence[int]) -> None:
    """Print every figure of ours."""
    print(
        "\nours, means likewise; coverage of the 90 % interval and its median width, %; prediction of 2,000 networks\n"
    )
    show_row(
        ["family", "N", "within 5 %", "within 10 %", "Spearman", "Kendall", "coverage", "width", "fit, s", "predict, s"]
    )
    show_row(["---"] * 10)
    for name, own in families.items():
        for size in sizes:
            values = [mean(cells, own, size, "ours", figure) for figure in (*FIGURES[1:], "fit_s", "predict_s")]
            if not np.isnan(values[0]):
                forms = [".1%", ".1%", ".3f", ".3f", ".1%", ".1%", ".2f", ".3f"]
                texts = [f"{value:{form}}".removesuffix("%") for value, form in zip(values, forms, strict=True)]
                show_row([name, str(size), *texts])


def main() -> None:
    """Run the cells that are missing, print tables of all that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--columns", nargs="+", default=["*"], help="patterns of DATA SET/DEVICE")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="networks to learn from")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="on the first column of a family")
    parser.add_argument("--minutes", type=float, default=90.0, help="begin no column after so long")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    everything = columns_of(arguments.folder)
    columns = [column for column in everything if any(fnmatch.fnmatch(column.name, text) for text in arguments.columns)]
    if not columns:
        raise SystemExit(f"no column is like {arguments.columns}; there are {[column.name for column in everything]}")
    journal, named = Journal(arguments.results), {column.name: column for column in columns}
    cells: Cells = {tuple(entry["cell"]): entry for entry in journal}
    asked = wanted(columns, arguments.sizes, arguments.methods, arguments.seeds)
    missing = [cell for cell in asked if cell not in cells]
    start = time.monotonic()
    with progress_bar("cells", len(missing)) as advance:
        for (name, seed), group in groupby(missing, key=lambda cell: (cell[0], cell[2])):
            if time.monotonic() - start > 60 * arguments.minutes:
                break
            for cell, found in run_group(named[name], seed, list(group)):
                cells[cell] = found
                journal.append({"cell": list(cell), **found})
                advance(1, f"{name}, {cell[1]}, {cell[3]}")
    report(complete(cells, asked), columns, arguments.sizes)


if __name__ == "__main__":
    main()

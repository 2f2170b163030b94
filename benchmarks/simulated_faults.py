"""What the measuring engine makes of a simulated device whose truth and faults are known: goals M3, M4 and M5.

    python benchmarks/simulated_faults.py [--only M3 M4 M5] [--fresh]

Every figure comes from whole sessions through the real path: `measure_session`, a worker process, a journal. Only the device
is simulated, and its clock is virtual. Cells (one session each) are kept beside this file as they end, and one that is
there is not done again.

- M3: 200 networks; the device gets slower by 20 % in a ramp over the session, or by 19 % in a step; what is left in blocks
  of 20 networks, in the order of measuring and in the order of the list; whether drift is said, and said of calm sessions.
- M4: one fault is planted, or none; the verdict is right if what the session says disturbed it is this fault's word alone.
- M5: how many of the 95 % intervals hold the true long-run median.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _simulated import PROTOCOL, WORDS, Bench, planted
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hwnas.files import atomic_open, read_json
from hwnas_profilers.runtimes.simulated import VERSION

RESULTS = Path(__file__).with_name("simulated_faults.json")
SMALL = replace(PROTOCOL, pause_ms=300.0)
GROUPS = replace(PROTOCOL, max_resident=20)
NOISE = {"sigma": 0.02, "burst_sigma": 0.01}
NETWORKS = {"M3": 200, "M4": 40, "M5": 40}
SESSIONS = {"M3": 30, "M4": 30, "M5": 12}
CALM = ("calm",)
DRIFTS = ("ramp", "step")
NOISES = {"quiet": (0.01, 0.005), "usual": (0.03, 0.02), "loud": (0.08, 0.05)}
"""Log standard deviation of a run and of a burst."""


def block_bias(values: NDArray[np.float64], order: NDArray[np.int64], block: int = 20) -> float:
    """Return the largest distance of a block's median from the whole, for values over truth in some order."""
    logs = np.log(values)[order]
    medians = [np.median(logs[start : start + block]) for start in range(0, len(logs), block)]
    return float(np.max(np.abs(np.expm1(np.array(medians) - np.median(logs)))))


def run_m3(bench: Bench, kind: str, seed: int, ends_s: float) -> dict[str, Any]:
    """Return what a drift left in the values of a session of 200 networks."""
    fault = planted(kind, seed, ends_s, bench.truth)
    for name, factor in (("ramp", 1.2), ("step", 1.19)):
        if name in fault:
            fault[name]["factor"] = factor
    result, _ = bench.measure(NETWORKS["M3"], replace(PROTOCOL, seed=seed), {**NOISE, **fault, "seed": seed})
    ratio = np.array([measurement.value for measurement in result.measurements]) / bench.truth[: NETWORKS["M3"]]
    seen = {key: place for place, key in reversed(list(enumerate(cell.key for cell in result.cells)))}
    measured = np.argsort([seen[measurement.key] for measurement in result.measurements])
    return {
        "bias_measured": block_bias(ratio, measured),
        "bias_listed": block_bias(ratio, np.arange(len(ratio))),
        "words": list(result.disturbed),
        "estimator": result.estimator,
    }


def run_m4(bench: Bench, kind: str, seed: int, ends_s: float) -> dict[str, Any]:
    """Return what a session says of a planted fault; odd seeds measure in two groups, even ones with pauses."""
    count, protocol = NETWORKS["M4"] // (2 - seed % 2), GROUPS if seed % 2 else SMALL
    spell_s = ends_s / (2 * protocol.passes) if seed % 2 else ends_s / protocol.rounds - protocol.pause_ms / 1e3
    fault = planted(kind, seed, ends_s, bench.truth[:count], spell_s)
    result, _ = bench.measure(count, replace(protocol, seed=seed), {**NOISE, **fault, "seed": seed})
    grades = [measurement.grade for measurement in result.measurements]
    words = sorted(result.disturbed)
    right = words == sorted(WORDS[kind])
    return {"words": words, "right": right, "grades": {grade: grades.count(grade) for grade in "ABC"}, "fault": fault}


def run_m5(bench: Bench, kind: str, seed: int, ends_s: float, noise: str) -> dict[str, Any]:
    """Return how many intervals of a session, normalised to the undisturbed canaries, hold the truth."""
    sigma, burst_sigma = NOISES[noise]
    fault = planted(kind, seed, ends_s, bench.truth)
    faults = {"sigma": sigma, "burst_sigma": burst_sigma, **fault, "seed": seed}
    protocol = replace(PROTOCOL, seed=seed)
    result, _ = bench.measure(NETWORKS["M5"], protocol, faults, reference=bench.canaries)
    truth = bench.truth[: NETWORKS["M5"]]
    held = [bool(m.low <= value <= m.high) for m, value in zip(result.measurements, truth, strict=True)]
    widths = [measurement.half_width for measurement in result.measurements]
    estimator = result.measurements[0].estimator
    return {"held": sum(held), "of": len(held), "half_width": float(np.median(widths)), "estimator": estimator}


def cells(wanted: list[str], sessions: dict[str, int]) -> Iterator[tuple[str, str, int, str]]:
    """Yield (goal, kind, seed, noise) of every cell wanted."""
    for goal in wanted:
        kinds = {"M3": (*CALM, *DRIFTS), "M4": tuple(WORDS), "M5": (*CALM, *DRIFTS, "tick")}[goal]
        for noise in NOISES if goal == "M5" else ("",):
            for kind in kinds:
                yield from ((goal, kind, seed, noise) for seed in range(sessions[goal]))


class Store:
    """Cells by name in one file, one line each; other settings or versions start it anew."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        networks = {"networks": NETWORKS, "noise": NOISE, "noises": NOISES, "protocol": PROTOCOL.as_dict()}
        made = {"hwnas": version("hwnas"), "simulated": VERSION, "numpy": np.__version__}
        self.header: dict[str, Any] = json.loads(json.dumps({"settings": networks, "versions": made}))
        stored = {} if fresh or not path.exists() else read_json(path)
        same = all(stored.get(name) == value for name, value in self.header.items())
        self.cells: dict[str, dict[str, Any]] = stored.get("cells", {}) if same else {}
        self.seconds = float(stored.get("seconds", 0.0)) if same else 0.0

    def keep(self, name: str, cell: dict[str, Any], seconds: float) -> None:
        """Add a cell and write the file."""
        self.cells[name] = cell
        self.seconds += seconds
        lines = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(self.cells.items())]
        head = {"date": time.strftime("%Y-%m-%d"), "seconds": round(self.seconds, 1), **self.header}
        top = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
        with atomic_open(self.path) as stream:
            stream.write("{\n" + top + ',\n  "cells": {\n' + ",\n".join(lines) + "\n  }\n}\n")

    def of(self, *parts: str) -> list[dict[str, Any]]:
        """Return the cells whose name begins with these parts."""
        return [cell for name, cell in self.cells.items() if name.startswith("/".join(parts) + "/")]


def table_m3(store: Store) -> Table:
    """Return the figures of M3."""
    shown = Table("session", "sessions", "drift said", "bias, order of measuring", "bias, order of list", title="M3")
    for kind in (*CALM, *DRIFTS):
        found = store.of("M3", kind)
        if found:
            said = sum("drift" in cell["words"] for cell in found)
            bias = [
                f"median {np.median(values):.2%}, worst {max(values):.2%}"
                for values in ([cell[name] for cell in found] for name in ("bias_measured", "bias_listed"))
            ]
            shown.add_row(kind, str(len(found)), str(said), *bias)
    return shown


def table_m4(store: Store) -> Table:
    """Return the figures of M4."""
    shown = Table("planted", "sessions", "right", "said instead", "grades A / B / C", title="M4")
    every: list[dict[str, Any]] = []
    for kind in WORDS:
        found = store.of("M4", kind)
        every += found
        if found:
            wrong = sorted({"+".join(cell["words"]) or "nothing" for cell in found if not cell["right"]})
            grades = [sum(cell["grades"][grade] for cell in found) for grade in "ABC"]
            right = sum(cell["right"] for cell in found)
            shares = " / ".join(f"{count / sum(grades):.0%}" for count in grades)
            shown.add_row(kind, str(len(found)), f"{right} ({right / len(found):.0%})", ", ".join(wrong), shares)
    right = sum(cell["right"] for cell in every)
    shown.add_row("all", str(len(every)), f"{right} ({right / max(len(every), 1):.1%})", "", "")
    return shown


def table_m5(store: Store) -> Table:
    """Return the figures of M5."""
    shown = Table("session", "noise (run, burst)", "networks", "in the interval", "half-width", title="M5")
    for noise, sigmas in NOISES.items():
        for kind in (*CALM, *DRIFTS, "tick"):
            found = store.of("M5", noise, kind)
            count, held = sum(cell["of"] for cell in found), sum(cell["held"] for cell in found)
            if count:
                width = float(np.median([cell["half_width"] for cell in found]))
                shown.add_row(kind, f"{noise} {sigmas}", str(count), f"{held / count:.1%}", f"{width:.1%}")
    count, held = (sum(cell[name] for cell in store.of("M5")) for name in ("of", "held"))
    shown.add_row("all", "", str(count), f"{held / max(count, 1):.1%}", "")
    return shown


def run_cell(bench: Bench, goal: str, kind: str, seed: int, noise: str, ends: dict[str, float]) -> dict[str, Any]:
    """Return a cell; how long a calm session of its sort lasts is found first and kept in ``ends``."""
    sort = f"{goal}{noise}{seed % 2 if goal == 'M4' else ''}"
    count, protocol = NETWORKS[goal], PROTOCOL
    if goal == "M4":
        count, protocol = (NETWORKS["M4"], GROUPS) if seed % 2 else (NETWORKS["M4"] // 2, SMALL)
    if sort not in ends:
        ends[sort] = bench.measure(count, protocol, NOISE)[1]
    if goal == "M3":
        return run_m3(bench, kind, seed, ends[sort])
    if goal == "M4":
        return run_m4(bench, kind, seed, ends[sort])
    return run_m5(bench, kind, seed, ends[sort], noise)


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SESSIONS), default=list(SESSIONS), help="goals")
    parser.add_argument("--sessions", type=int, help="sessions of each kind, instead of the usual number")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="forget the cells that are kept")
    arguments = parser.parse_args()
    store, ends = Store(arguments.results, arguments.fresh), {}
    sessions = {goal: arguments.sessions or count for goal, count in SESSIONS.items()}
    with tempfile.TemporaryDirectory(prefix="hwnas-simulated-faults-") as folder:
        bench = Bench.make(Path(folder), max(NETWORKS.values()))
        for goal, kind, seed, noise in cells(arguments.only, sessions):
            name = "/".join(filter(None, (goal, noise, kind, str(seed))))
            if name not in store.cells:
                start = time.monotonic()
                cell = run_cell(bench, goal, kind, seed, noise, ends)
                store.keep(name, cell, time.monotonic() - start)
    console = Console(width=140)
    for shown in (table_m3(store), table_m4(store), table_m5(store)):
        console.print(shown)
    console.print(f"{store.seconds:.0f} s in all")


if __name__ == "__main__":
    main()

"""How well two sessions in fresh processes agree on the same 16 networks, beside plain medians of 200 runs in a row.

Each call is one session: it measures 16 networks of the default space by the protocol, and each of them by the median of 200 runs in a row,
as most tools do, and adds both to the results file. From two sessions on, at least ten minutes apart, it prints how the first
and the last differ. Later sessions are brought to the reference condition of the first, as every later measurement is.

    python benchmarks/repeatability.py --target local/onnxruntime-fp32 --out benchmarks/repeatability.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.devices.models import BurstSpec
from hwnas.devices.session import open_session
from hwnas.errors import HwnasError
from hwnas.files import Journal, read_json, write_json
from hwnas.latency.measuring import measure_session
from hwnas.latency.networks import Networks, fingerprint_here
from hwnas.latency.protocol import Protocol
from hwnas.latency.sampling import plan_networks
from hwnas.progress import progress_bar
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Target, find_device

NETWORKS, RUNS, APART_S = 16, 200, 600
PROTOCOL = Protocol(rounds=60, pause_ms=1500)
SEQUENTIAL = BurstSpec(target_ms=0.0, min_runs=RUNS, max_runs=RUNS, discard=10)
SPACE = {"classes": 1000, "widths": [1.0], "resolutions": [128, 160, 192, 224]}


def measure(target: Target, reference: dict[str, float] | None) -> dict[str, Any]:
    """Return one session: values by the protocol and plain medians, in the order of the networks."""
    space = MobileNetV3Space(**SPACE)
    plan = plan_networks(space, NETWORKS, 0, seed=7)
    with (
        tempfile.TemporaryDirectory(prefix="hwnas-repeat-") as name,
        open_session(find_device(target.device)) as session,
    ):
        folder = Path(name)
        networks = Networks(space, target, folder / "work")
        items = [networks.item(row) for row in plan.train]
        identity = fingerprint_here(session, target).identity
        medians = []
        with session.exclusive():
            for item in items:
                handle = session.load(item.obtain(), target).handle
                (burst,) = session.burst_round([handle], SEQUENTIAL)
                medians.append(float(np.median(burst.samples)))
                session.unload(handle)
        with progress_bar(f"measuring on {target}", 1.0) as advance:
            journal = Journal(folder / "journal.jsonl")
            found = measure_session(session, target, items, PROTOCOL, journal, advance, reference)
    return {
        "time_s": time.time(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu_model": identity["cpu_model"],
        "canaries": found.canaries,
        "estimator": found.estimator,
        "drift": found.drift,
        "protocol": [entry.value for entry in found.measurements],
        "sequential": medians,
    }


def difference(first: Sequence[float], last: Sequence[float]) -> tuple[float, float]:
    """Return median and 95th percentile of the absolute log ratio."""
    ratio = np.abs(np.log(np.array(last, dtype=np.float64) / np.array(first, dtype=np.float64)))
    return float(np.median(ratio)), float(np.quantile(ratio, 0.95))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one session; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--out", type=Path, required=True, help="results file")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = read_json(options.out) if options.out.exists() else {}
    try:
        target = Target.parse(options.target)
        sessions = results.setdefault(str(target), [])
        sessions.append(measure(target, sessions[0]["canaries"] if sessions else None))
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_json(options.out, results)
    first, last = sessions[0], sessions[-1]
    apart = last["time_s"] - first["time_s"]
    if apart < APART_S:
        print(f"{len(sessions)} session(s) of {target}; run it again {APART_S / 60:.0f} minutes after the first.")
        return 0
    for name in ("protocol", "sequential"):
        middle, high = difference(first[name], last[name])
        print(f"{target}, {apart / 60:.0f} minutes apart, {name}: median {middle:.2%}, 95th percentile {high:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

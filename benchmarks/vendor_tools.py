"""Does our latency agree with the vendor's own tool? The same file, the same settings, processes in turn.

    python benchmarks/vendor_tools.py                      # ONNX Runtime, OpenVINO, LiteRT; ten networks; a quiet machine
    python benchmarks/vendor_tools.py --runtimes openvino --networks 3

In every round each tool runs once per network, in random order, each in a process of its own, pinned to the same core: ours
(a worker of hwnas, one burst), and OpenVINO's ``benchmark_app``, LiteRT's ``benchmark_litert_model``, or, where the wheel brings
no tool (ONNX Runtime), a plain loop around ``session.run``. All report the median over as many milliseconds of runs. Per network the
geometric mean of ``ours / theirs`` over the rounds; over the networks its median, with a bootstrap over networks and rounds.

LiteRT's tool runs the compiled-model interface, our worker the interpreter: two interfaces of one runtime.
Results: ``vendor_tools.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hwnas import registry
from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import open_session
from hwnas.files import write_json
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Target, find_device

HERE = Path(__file__).parent
SPACE: dict[str, Any] = {"resolutions": [128, 160, 192, 224]}

TYPICAL_MS = 5.0
"""About what these networks take: LiteRT's tool counts runs, not seconds."""

PLAIN_LOOP = """
import statistics, sys, time
import numpy, onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0]
feed = {entry.name: numpy.random.default_rng(0).standard_normal(entry.shape).astype(numpy.float32)}
for _ in range(10):
    session.run(None, feed)
samples, end = [], time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, feed)
    samples.append(1e3 * (time.perf_counter() - start))
print(statistics.median(samples))
"""


def core() -> int:
    """Return the core that workers pin one thread to."""
    return sorted(os.sched_getaffinity(0))[-1]


def said(command: list[str]) -> str:
    """Run a tool pinned to the core; returns what it printed."""
    done = subprocess.run(
        ["taskset", "-c", str(core()), *command], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout


def number_after(pattern: str, text: str) -> float:
    """Return the number that follows a pattern."""
    found = re.search(pattern + r"\s*([0-9.]+)", text)
    if found is None:
        sys.exit(f"the tool's output has no {pattern!r}: {text[-800:]}")
    return float(found.group(1))


def onnxruntime_loop(files: ModelFiles, seconds: float) -> float:
    """Return the median of a plain loop."""
    return float(said([sys.executable, "-c", PLAIN_LOOP, str(files.main), str(seconds)]))


def openvino_tool(files: ModelFiles, seconds: float) -> float:
    """Return the median that ``benchmark_app`` prints."""
    program = str(Path(sys.executable).with_name("benchmark_app"))
    options = [
        "-d",
        "CPU",
        "-api",
        "sync",
        "-hint",
        "none",
        "-nthreads",
        "1",
        "-nstreams",
        "1",
        "-infer_precision",
        "f32",
    ]
    return number_after("Median:", said([program, "-m", str(files.main), *options, "-t", str(max(1, round(seconds)))]))


def litert_tool(files: ModelFiles, seconds: float) -> float:
    """Return the median that LiteRT's benchmark prints, from the environment of its converter."""
    python = registry.load("backend", "litert").recipe.python
    tool = next(python.parents[1].rglob("ai_edge_litert/tools/benchmark_litert_model.py"))
    runs = str(max(20, round(1e3 * seconds / TYPICAL_MS)))
    options = ["--num_threads=1", f"--num_runs={runs}", "--warmup_runs=10"]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        said([str(python), "-I", str(tool), f"--model={files.main}", *options, f"--result_json={result}"])
        found = _median_of(json.loads(result.read_text()))
    return found or sys.exit("LiteRT's tool wrote no median latency; is its version the one of the recipe?")


def _median_of(result: Any) -> float:
    """Return the median latency that the result file of LiteRT's tool holds, milliseconds; 0 if it holds none."""
    if isinstance(result, dict):
        for key, value in result.items():
            if "median" in key and isinstance(value, int | float):
                return float(value)
            if isinstance(value, dict) and (found := _median_of(value)):
                return found
    return 0.0


TOOLS: dict[str, Callable[[ModelFiles, float], float]] = {
    "onnxruntime": onnxruntime_loop,
    "openvino": openvino_tool,
    "litert": litert_tool,
}


def ours(files: ModelFiles, target: Target, seconds: float) -> float:
    """Return the median of one burst in a fresh worker."""
    with open_session(find_device("local")) as session:
        handle = session.load(files, target).handle
        session.burst_round([handle], BurstSpec(target_ms=50.0, min_runs=10, max_runs=100_000))
        (burst,) = session.burst_round(
            [handle], BurstSpec(target_ms=1e3 * seconds, min_runs=10, max_runs=1_000_000, discard=10)
        )
    return statistics.median(burst.samples.tolist())


def networks(runtime: str, count: int, folder: Path) -> list[ModelFiles]:
    """Build random networks of the ImageNet space for a runtime."""
    space = MobileNetV3Space(**SPACE)
    backend = registry.load("backend", runtime)()
    rows = space.sample(np.random.default_rng(5), count)
    return [
        backend.build_network(space.graph(space.decode(row)), "fp32", folder / str(i), seed=i)
        for i, row in enumerate(rows)
    ]


def interval(logs: np.ndarray[Any, Any], draws: int = 4000) -> tuple[float, float, float]:
    """Return the median ratio over networks and its 95 % interval; ``logs`` is ``[networks, rounds]``."""
    rng = np.random.default_rng(0)
    count, rounds = logs.shape
    means = []
    for _ in range(draws):
        rows = rng.integers(0, count, count)
        columns = rng.integers(0, rounds, (count, rounds))
        means.append(np.median(np.take_along_axis(logs[rows], columns, axis=1).mean(axis=1)))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.exp(np.median(logs.mean(axis=1)))), float(np.exp(low)), float(np.exp(high))


def compare(runtime: str, count: int, rounds: int, seconds: float, console: Console) -> dict[str, Any]:
    """Return the ratios of one runtime."""
    target, tool = Target("local", runtime, "fp32"), TOOLS[runtime]
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(prefix="hwnas-vendor-") as folder:
        files = networks(runtime, count, Path(folder))
        logs = np.zeros((count, rounds))
        for number in range(rounds):
            for index in rng.permutation(count):
                mine = theirs = 0.0
                for side in rng.permutation(2):
                    if side:
                        mine = ours(files[index], target, seconds)
                    else:
                        theirs = tool(files[index], seconds)
                logs[index, number] = np.log(mine / theirs)
            console.print(f"{runtime}: round {number + 1} of {rounds}, median {np.exp(np.median(logs[:, number])):.4f}")
    ratio, low, high = interval(logs)
    return {
        "ratio": ratio,
        "low": low,
        "high": high,
        "networks": [round(float(value), 4) for value in np.exp(logs.mean(axis=1))],
        "rounds": rounds,
        "seconds": seconds,
    }


def main() -> None:
    """Compare every runtime and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default=",".join(TOOLS))
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=HERE / "vendor_tools.json")
    arguments = parser.parse_args()
    console, found = Console(stderr=True), {}
    for runtime in arguments.runtimes.split(","):
        found[runtime] = compare(runtime, arguments.networks, arguments.rounds, arguments.seconds, console)
        write_json(arguments.out, found)
        one = found[runtime]
        print(f"{runtime}: ours / theirs {one['ratio']:.4f} ({one['low']:.4f} to {one['high']:.4f})")


if __name__ == "__main__":
    main()

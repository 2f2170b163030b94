"""Check this artifact again, without hwnas: ``python verify.py [--json]``; leaves with 1 if anything fails.

Needs Python 3.9, numpy and the runtime named in manifest.json. In order: sha256 of every file (before anything is
loaded), the stored samples (outputs against those of torch and of the exported file), latency against every budget.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
# A file dropped beside this one must not be imported in place of a library.
sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.curdir) != FOLDER]
sys.dont_write_bytecode = True

import argparse  # noqa: E402
import gc  # noqa: E402
import hashlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

Entry = dict[str, Any]
IGNORED = ("__pycache__", ".DS_Store", "Thumbs.db")
ATTEMPTS = 4
ROUNDS = 15
TAIL = 0.025 / ATTEMPTS  # of each measurement's interval: all together are wrong in at most 5 %
WIDEN = 1.19  # Student's t over the normal quantile at that tail for 15 rounds, times sqrt(15 / 14)
COSINE_INT8 = 0.99


def unlisted_files(listed: list[str]) -> list[str]:
    """Return files of the folder that the manifest does not name."""
    found = []
    for root, folders, names in os.walk(FOLDER):
        folders[:] = [name for name in folders if name not in IGNORED]
        for name in names:
            path = os.path.relpath(os.path.join(root, name), FOLDER).replace(os.sep, "/")
            if name not in IGNORED and path not in listed and path != "manifest.json":
                found.append(path)
    return sorted(found)


def check_file(entry: Entry) -> str:
    """Return what is wrong with one file of the manifest, or nothing."""
    path = os.path.join(FOLDER, entry["path"])
    if not os.path.realpath(path).startswith(os.path.realpath(FOLDER) + os.sep) or os.path.islink(path):
        return "leaves the folder or is a link"
    if not os.path.isfile(path):
        return "is absent"
    if os.path.getsize(path) != entry["size_bytes"]:
        return f"has {os.path.getsize(path)} bytes, not {entry['size_bytes']}"
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return "" if digest.hexdigest() == entry["sha256"] else "was changed (another sha256)"


def check_files(manifest: Entry) -> Entry:
    """Compare every file with the manifest; nothing is loaded."""
    checked = [(entry["path"], check_file(entry)) for entry in manifest["files"]]
    problems = [f"{path} {wrong}" for path, wrong in checked if wrong]
    problems += [f"{path} is not in the manifest" for path in unlisted_files([path for path, _ in checked])]
    return {"check": "files", "passed": not problems, "detail": "; ".join(problems) or f"{len(checked)} files"}


def load_infer() -> Any:
    """Import infer.py of this folder, whose digest was just checked."""
    spec = importlib.util.spec_from_file_location("infer", os.path.join(FOLDER, "infer.py"))
    if spec is None or spec.loader is None:
        raise OSError("infer.py cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_samples() -> Entry:
    """Return the arrays of samples.npz by name."""
    import numpy as np

    with np.load(os.path.join(FOLDER, "samples.npz"), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def distance(reference: Any, found: Any) -> tuple[float, float]:
    """Return worst relative L2 distance and worst cosine over images."""
    import numpy as np

    a = reference.reshape(len(reference), -1).astype(np.float64)
    b = found.reshape(len(found), -1).astype(np.float64)
    if a.shape != b.shape or not np.isfinite(b).all():
        return float("inf"), -1.0
    norms = np.maximum(np.linalg.norm(a, axis=1), 1e-300), np.maximum(np.linalg.norm(b, axis=1), 1e-300)
    cosine = (a * b).sum(1) / norms[0] / norms[1]
    return float(np.max(np.linalg.norm(a - b, axis=1) / norms[0])), float(np.min(cosine))


def run_samples(manifest: Entry, model: Any, samples: Entry) -> tuple[Entry, int]:
    """Return the outputs of all stored samples by name, and how many samples there are."""
    import numpy as np

    batch = manifest["inputs"][0]["shape"][0]
    count = len(samples["input:" + manifest["inputs"][0]["name"]])
    parts = []
    for start in range(0, count, batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        inputs = {entry["name"]: samples["input:" + entry["name"]][rows] for entry in manifest["inputs"]}
        parts.append({name: value[: count - start] for name, value in model.run(inputs).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, count


def check_samples(manifest: Entry, model: Any, samples: Entry) -> list[Entry]:
    """Run the stored samples and compare every output with what the manifest tolerates."""
    outputs, count = run_samples(manifest, model, samples)
    results = []
    for name, parity in sorted(manifest["parity"].items()):
        if parity["tolerance"] is None:
            cosine = distance(samples["output:" + name], outputs[name])[1]
            passed = cosine >= COSINE_INT8
            detail = f"cosine to the exported outputs {cosine:.5f}, at least {COSINE_INT8}"
        else:
            off = distance(samples["torch:" + name], outputs[name])[0]
            passed = off <= parity["tolerance"]
            detail = f"relative L2 to torch {off:.2e}, at most {parity['tolerance']:.0e}"
        results.append({"check": "samples " + name, "passed": passed, "detail": f"{detail} ({count} samples)"})
    return results


def pin() -> str:
    """Pin this process to its last allowed core where the system can; returns what was done."""
    try:
        core = sorted(os.sched_getaffinity(0))[-1]
        os.sched_setaffinity(0, {core})
    except (AttributeError, OSError):
        return "not pinned: the system has no affinity"
    return f"pinned to core {core}"


def time_round(step: Any) -> list[float]:
    """Return milliseconds of the runs of one round: two are discarded, then at least 10 and at least 25 ms are timed."""
    for _ in range(2):
        step()
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < 10 or time.perf_counter() - begin < 0.025:
        start = time.perf_counter()
        step()
        samples.append(1e3 * (time.perf_counter() - start))
    return samples


def time_rounds(step: Any, rounds: int) -> list[list[float]]:
    """Return one list of milliseconds per round; rounds are spread over time by short pauses."""
    collected = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            collected.append(time_round(step))
            time.sleep(0.02)
    finally:
        gc.enable()
    return collected


def interval(rounds: list[list[float]], statistic: str) -> tuple[float, float, float]:
    """Return value and interval of a percentile: bootstrap over rounds (runs of one round are not independent)."""
    import numpy as np

    rank = float(statistic[1:])
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(1000):
        chosen = generator.integers(0, len(rounds), len(rounds))
        draws.append(np.percentile(np.concatenate([rounds[index] for index in chosen]), rank))
    value = float(np.percentile(np.concatenate(rounds), rank))
    low, high = np.percentile(draws, [100 * TAIL, 100 * (1 - TAIL)])
    return value, value - WIDEN * max(value - float(low), 0.0), value + WIDEN * max(float(high) - value, 0.0)


def check_budget(step: Any, statistic: str, max_ms: float) -> Entry:
    """Measure until the interval lies on one side of the budget; after four undecided measurements it is broken."""
    tries, undecided = 0, True
    while undecided and tries < ATTEMPTS:
        value, low, high = interval(time_rounds(step, ROUNDS), statistic)
        tries, undecided = tries + 1, low <= max_ms < high
    limit = f"budget {max_ms:g} ms" if max_ms < float("inf") else "no budget"
    return {
        "check": "latency " + statistic,
        "passed": high <= max_ms,
        "detail": f"{value:.3f} ms, {1 - 2 * TAIL:.2%} interval [{low:.3f}, {high:.3f}] as measured now, {limit}, {tries} measurement(s)",
        "value_ms": value,
        "low_ms": low,
        "high_ms": high,
        "max_ms": max_ms if max_ms < float("inf") else None,
        "tries": tries,
    }


def verify(options: argparse.Namespace) -> list[Entry]:
    """Run every check; returns a list of results."""
    with open(os.path.join(FOLDER, "manifest.json"), encoding="utf-8") as stream:
        manifest = json.load(stream)
    results = [check_files(manifest)]
    if not results[0]["passed"]:
        return results
    infer = load_infer()
    # Threads inherit the affinity of the moment they are made: pin before the runtime makes its own.
    how = pin() if infer.threads_of(manifest) == 1 else "not pinned: more than one thread"
    model = infer.load(FOLDER)[1]
    samples = load_samples()
    results += check_samples(manifest, model, samples)
    if options.no_latency:
        return results
    unit = manifest["measured"]["unit"]
    if unit != "ms":
        detail = f"not checked here: counted in {unit} by hwnas on {manifest['target']}; time here says nothing of that"
        return [*results, {"check": "latency", "passed": True, "detail": detail, "skipped": True}]
    budgets = [(budget["statistic"], budget["max_ms"]) for budget in manifest["budgets"]]
    if options.max_ms is not None:
        budgets = [("p50", options.max_ms)]
    batch = manifest["inputs"][0]["shape"][0]
    inputs = {entry["name"]: samples["input:" + entry["name"]] for entry in manifest["inputs"]}
    inputs = {name: value[[i % len(value) for i in range(batch)]] for name, value in inputs.items()}
    step = model.bind(inputs)
    for statistic, max_ms in budgets or [("p50", float("inf"))]:
        results.append(dict(check_budget(step, statistic, max_ms), pinning=how))
    return results


def main() -> int:
    """Run from the command line; returns the exit status: 0 all passed, 1 a check failed, 2 cannot run here."""
    parser = argparse.ArgumentParser(description="Check this artifact again; leaves with 1 if anything fails.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--no-latency", action="store_true", help="check files and outputs only")
    parser.add_argument("--max-ms", type=float, help="check this p50 budget instead of the manifest's")
    options = parser.parse_args()
    try:
        results = verify(options)
    except Exception as error:  # whatever a damaged package or a runtime may raise
        if type(error).__name__ in ("NotHere", "ImportError", "ModuleNotFoundError"):
            print(f"verify.py: {error}", file=sys.stderr)
            return 2
        results = [{"check": "package", "passed": False, "detail": f"{type(error).__name__}: {error}"}]
    passed = all(entry["passed"] for entry in results)
    if options.json:
        print(json.dumps({"passed": passed, "checks": results}, indent=1))
        return 0 if passed else 1
    for entry in results:
        print(f"{'ok' if entry['passed'] else 'FAILED':6} {entry['check']:16} {entry['detail']}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""What is left of work that is killed ten times: a real profile, one over ssh whose link is cut, a search on given tables.

    python benchmarks/interruptions.py --profile local/onnxruntime-fp32 --space examples/tiny.yaml
    python benchmarks/interruptions.py --link onnxruntime-fp32 --space examples/tiny.yaml
    python benchmarks/interruptions.py --search examples/digits-cpu.yaml --runs runs

Each is done once undisturbed and once killed (SIGKILL) at random moments and started again. A profile must end with the same
row keys, none lost and none doubled, each network measured once in every round. So must one whose ssh process is killed (a
real sshd on this machine), which goes on by itself or, where it gave up, by the same command; a search (of a run whose tables and supernet
are there; they are copied) with the same front, bit by bit. Exits with 1 if not. Figures go beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import load_run_config
from hwnas.files import Journal, read_json, write_json
from hwnas.latency.canaries import CANARIES
from hwnas.latency.table import LatencyTable
from hwnas.targets import save_device
from hwnas.testing.sshd import children_called, ssh_device

RESULTS = Path(__file__).with_name("interruptions.json")
SEARCHED = ("archive.jsonl", "search_state.json", "search_history.jsonl", "shortlist*", "candidates", "winners*")
LATER = (*SEARCHED, "adapted", "artifacts", "report.html", "tightness", "baselines", ".lock")


def command(*words: object) -> list[str]:
    """Return the command line of a verb."""
    return [sys.executable, "-m", "hwnas", *map(str, words)]


def undisturbed(words: list[str]) -> float:
    """Run a command to its end; returns its seconds."""
    start = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def killed(words: list[str], kills: int, wait: Callable[[subprocess.Popen[bytes], int], None]) -> int:
    """Start a command ``kills`` times and kill it once ``wait`` returns, then let it end; returns the kills that struck."""
    struck = 0
    for number in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        wait(process, number)
        process.send_signal(signal.SIGKILL)
        struck += process.wait() == -signal.SIGKILL
        print(f"  kill {number + 1}: {'struck' if process.returncode < 0 else 'too late'}", flush=True)
    undisturbed(words)
    return struck


def lines_of(path: Path) -> int:
    """Return the number of whole lines of a file, 0 if it is absent."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def after_lines(path: Path, moments: list[int], rng: np.random.Generator) -> Callable[..., None]:
    """Return a wait until the file has the next number of lines, and up to half a second more."""

    def wait(process: subprocess.Popen[bytes], number: int) -> None:
        while process.poll() is None and lines_of(path) < moments[number]:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0.0, 0.5)))

    return wait


def moments(lines: int, kills: int, rng: np.random.Generator) -> list[int]:
    """Return ``kills`` distinct line numbers before the last one, ascending."""
    return sorted(rng.choice(np.arange(1, lines), size=kills, replace=False).tolist())


def keys_of(folder: Path) -> list[tuple[str, str]]:
    """Return key and split of every row of a profile's table."""
    return [(row.key, row.split) for row in LatencyTable.load(folder / "table.jsonl").rows]


def profile(target: str, space: Path, kills: int, work: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Return what became of a profile."""

    def words(name: str) -> list[str]:
        return command("profile", "--target", target, "--space", space, "--output", work / name)

    seconds = undisturbed(words("whole"))
    journal = work / "killed" / "journal.jsonl"
    when = moments(lines_of(work / "whole" / "journal.jsonl"), kills, rng)
    struck = killed(words("killed"), kills, after_lines(journal, when, rng))
    return {"target": target, "seconds_undisturbed": round(seconds, 1), "kills": struck, **outcome(work)}


def outcome(work: Path) -> dict[str, Any]:
    """Compare the disturbed profile with the whole one."""
    whole, after = keys_of(work / "whole"), keys_of(work / "killed")
    visits = Counter(
        (cell["key"], record["round"])
        for record in Journal(work / "killed" / "journal.jsonl")
        if record["record"] == "bursts"
        for cell in record["cells"]
        if cell["key"] not in CANARIES
    )
    return {
        "rows": len(after),
        "rows_lost": len(set(whole) - set(after)),
        "rows_doubled": len(after) - len(set(after)),
        "rows_foreign": len(set(after) - set(whole)),
        "bursts_doubled": sum(count - 1 for count in visits.values()),
        "equal": whole == after and set(visits.values()) == {1},
    }


def cut(
    words: list[str], journal: Path, when: list[int], rng: np.random.Generator, home: dict[str, str]
) -> dict[str, int]:
    """Run a command to its end, its ssh process killed at the given lines of the journal; the same command where it gave up."""
    cuts = starts = 0
    left = list(when)
    while True:
        starts += 1
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, **home})
        while process.poll() is None:
            if left and lines_of(journal) >= left[0]:
                time.sleep(float(rng.uniform(0.0, 0.5)))
                victims = children_called("ssh", process.pid)
                for victim in victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                if victims:
                    left.pop(0)
                    cuts += 1
                    print(f"  cut {cuts}", flush=True)
            time.sleep(0.005)
        if process.returncode == 0:
            return {"cuts": cuts, "starts": starts}
        print(f"  it gave up (exit status {process.returncode}); the same command again", flush=True)


def link(setting: str, space: Path, kills: int, work: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Return what became of a profile over ssh whose link was cut."""
    target = f"box/{setting}"
    for name in ("ssh", "device home"):
        (work / name).mkdir(parents=True)
    home = {"HWNAS_HOME": str(work / "hwnas")}

    def words(name: str) -> list[str]:
        return command("profile", "--target", target, "--space", space, "--output", work / name)

    with ssh_device(work / "ssh", work / "device home") as device:
        save_device(device, work / "hwnas" / "devices.yaml")
        start = time.monotonic()
        subprocess.run(words("whole"), check=True, stdout=subprocess.DEVNULL, env={**os.environ, **home})
        seconds = time.monotonic() - start
        when = moments(lines_of(work / "whole" / "journal.jsonl"), kills, rng)
        facts = cut(words("killed"), work / "killed" / "journal.jsonl", when, rng, home)
    return {"target": target, "seconds_undisturbed": round(seconds, 1), **facts, **outcome(work)}


def search(run_file: Path, runs: Path, kills: int, work: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Return what became of a search."""
    name = load_run_config(run_file).name

    def words(place: str) -> list[str]:
        return command("search", run_file, "--runs", work / place)

    for place in ("whole", "killed"):
        shutil.copytree(runs / name, work / place / name, ignore=shutil.ignore_patterns(*LATER))
    seconds = undisturbed(words("whole"))
    archive = work / "killed" / name / "archive.jsonl"
    lines = lines_of(work / "whole" / name / "archive.jsonl")
    struck = killed(words("killed"), kills, after_lines(archive, moments(lines, kills, rng), rng))
    files = {place: work / place / name for place in ("whole", "killed")}
    same = {
        file: (files["whole"] / file).read_bytes() == (files["killed"] / file).read_bytes()
        for file in ("archive.jsonl", "search_state.json", "search_history.jsonl")
    }
    return {
        "run": name,
        "seconds_undisturbed": round(seconds, 1),
        "kills": struck,
        "evaluations": lines,
        "same_bytes": same,
        "equal": all(same.values()),
    }


def main() -> int:
    """Do what was asked, print and store it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", metavar="TARGET", help="profile this target")
    parser.add_argument("--link", metavar="RUNTIME-PRECISION", help="profile this machine over ssh and cut the link")
    parser.add_argument("--space", type=Path, default=Path("examples/tiny.yaml"), help="space of the profile")
    parser.add_argument("--search", metavar="RUN.yaml", type=Path, help="search of this run")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hwnas-interruptions-") as folder:
        if arguments.profile:
            found["profile"] = profile(
                arguments.profile, arguments.space, arguments.kills, Path(folder) / "profile", rng
            )
        if arguments.link:
            found["link"] = link(arguments.link, arguments.space, arguments.kills, Path(folder) / "link", rng)
        if arguments.search:
            found["search"] = search(arguments.search, arguments.runs, arguments.kills, Path(folder) / "search", rng)
    for name, entry in found.items():
        entry["date"] = time.strftime("%Y-%m-%d")
        print(name, entry)
    write_json(RESULTS, {**(read_json(RESULTS) if RESULTS.exists() else {}), **found})
    return 0 if all(entry["equal"] for entry in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long ``hwnas --help`` takes beside a bare typer application with as many commands, whole processes in turn.

    python benchmarks/help_speed.py

The bare application has the same settings (no rich markup) and as many commands and groups; nothing else is imported.
Results: ``help_speed.json`` beside this file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import typer

from hwnas.cli import app
from hwnas.files import write_json

HERE = Path(__file__).parent

BARE = '''
import typer

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def command(number: int = 0) -> None:
    """Do something."""


for index in range({count}):
    app.command(f"command-{{index}}")(command)
app()
'''


def seconds(command: list[str], folder: str) -> float:
    """Return how long a process takes."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Time both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE / "help_speed.json")
    arguments = parser.parse_args()
    count = len(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE.format(count=count))
        commands = {"bare": [sys.executable, str(bare), "--help"], "hwnas": [sys.executable, "-m", "hwnas", "--help"]}
        for command in commands.values():
            seconds(command, folder)
        times = [
            {name: seconds(command, folder) for name, command in commands.items()} for _ in range(arguments.rounds)
        ]
    ratios = np.array([entry["hwnas"] / entry["bare"] for entry in times])
    facts = {
        "commands": count,
        "rounds": arguments.rounds,
        "median_s": {name: float(np.median([entry[name] for entry in times])) for name in ("bare", "hwnas")},
        "ratio_median": float(np.median(ratios)),
        "ratio_low": float(np.percentile(ratios, 5)),
        "ratio_high": float(np.percentile(ratios, 95)),
    }
    write_json(arguments.out, facts)
    print(f"hwnas --help takes {facts['ratio_median']:.2f} times a bare typer application of {count} commands")


if __name__ == "__main__":
    main()

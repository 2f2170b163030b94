"""What benchmarks of a run share: its arguments, opening it, and keeping figures run by run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from hwnas.config import load_run_config
from hwnas.files import read_json, write_json
from hwnas.runs.session import Run


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of a run file, its overrides and the folder of runs; its help is the first line of a docstring."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as given to hwnas run")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser


def open_run(arguments: argparse.Namespace) -> Run:
    """Return the run that arguments of :func:`parser_of` name."""
    return Run(load_run_config(arguments.run_file, arguments.overrides), arguments.runs)


def keep(results: Path, run: Run, entry: dict[str, Any], *, merge: bool = False) -> None:
    """Put today's figures of a run into a file of figures by run name; with ``merge``, its other keys stay."""
    stored = read_json(results) if results.exists() else {}
    stored[run.config.name] = {
        **(stored.get(run.config.name, {}) if merge else {}),
        "date": time.strftime("%Y-%m-%d"),
        **entry,
    }
    write_json(results, stored)

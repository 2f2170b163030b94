"""Put a measured table among those that ship: under the name of its machine, fitted anew by this version, with its card.

    python benchmarks/ship_tables.py FOLDER --device NAME

``FOLDER`` is what ``hwnas profile`` left; the table, its model, its evaluation and its card go to
``latency_tables/NAME--RUNTIME-PRECISION-tN-bN/SPACE-DIGEST``. Raw bursts stay behind.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hwnas import registry
from hwnas.errors import HwnasError
from hwnas.latency.profiling import TABLE_FILE
from hwnas.latency.store import folder_name
from hwnas.latency.table import LatencyTable
from hwnas.runs.profiling import fit_folder

SHIPPED = Path(__file__).parent.parent / "latency_tables"


def ship(folder: Path, device: str) -> Path:
    """Copy a table as that of ``device``, fit it and return where it lies."""
    table = LatencyTable.load(folder / TABLE_FILE)
    target = replace(table.target, device=device)
    space = registry.load("space", table.header.space)(**table.header.settings)
    final = SHIPPED / folder_name(target, space)
    with tempfile.TemporaryDirectory(prefix=".shipping-", dir=SHIPPED) as name:
        work = Path(name) / "table"
        work.mkdir()
        LatencyTable(replace(table.header, target=target), table.rows).save(work / TABLE_FILE)
        fit_folder(work, space)
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        work.rename(final)
    return final


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship one folder; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", required=True, help="name of the machine, for example epyc-family26")
    options = parser.parse_args(arguments)
    try:
        print(ship(options.folder, options.device))
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

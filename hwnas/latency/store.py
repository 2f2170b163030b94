"""Where latency tables and models are kept and found: the run folder, the user's data folder, those shipped.

A folder of one target and space holds ``table.jsonl`` and, once fitted, ``model/``. Tables are matched by what they are
(runtime, precision, threads, batch, space, machine), not by the name of their folder: a shipped table of
``epyc-genoa/onnxruntime-fp32`` serves ``local/onnxruntime-fp32`` on the same kind of machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import hwnas
from hwnas.errors import TableError
from hwnas.files import data_home
from hwnas.latency.model import LatencyModel
from hwnas.latency.model_files import MODEL_FILE, read_description
from hwnas.latency.profiling import MODEL_FOLDER, TABLE_FILE
from hwnas.latency.table import LatencyTable, TableHeader
from hwnas.latency.transferred import TransferredModel, load_model
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.targets import Fingerprint, Target

Place = Literal["run", "user", "shipped"]

LATENCY_FOLDER = "tables"
SIMULATED = "simulated"


@dataclass(frozen=True)
class StoredTable:
    """A table that was found, not yet read but for its header.

    Attributes:
        path: Its file.
        place: Where it was found.
        header: Its header.
    """

    path: Path
    place: Place
    header: TableHeader

    @property
    def model_folder(self) -> Path:
        """Folder of the model fitted from it, whether or not it exists."""
        return self.path.parent / MODEL_FOLDER

    @property
    def has_model(self) -> bool:
        """Whether a model was fitted from it."""
        return (self.model_folder / MODEL_FILE).exists()

    def load(self) -> LatencyTable:
        """Read the table.

        Raises:
            TableError: It is damaged.
        """
        return LatencyTable.load(self.path)

    def load_model(
        self, space: SearchSpace[Architecture] | None = None, fingerprint: Fingerprint | None = None
    ) -> LatencyModel | TransferredModel:
        """Read the model fitted from it.

        Raises:
            TableError: There is none, or it is damaged or of another space.
            FingerprintMismatchError: It was made on another machine or setting.
        """
        return load_model(self.model_folder, space, fingerprint)


def shipped_root() -> Path:
    """Return the folder of the tables that ship with the project; a checkout's own is preferred."""
    package = Path(hwnas.__file__).parent
    checkout = package.parent / "latency_tables"
    return checkout if checkout.is_dir() else package / "_latency_tables"


def user_root() -> Path:
    """Return the folder of the user's own tables."""
    return data_home() / "tables"


def folder_name(target: Target, space: SearchSpace[Architecture]) -> str:
    """Return the folder of a target and space below a root: ``TARGET/SPACE-DIGEST``."""
    return f"{target.slug}/{space.name}-{space.digest[:12]}"


def run_root(run_folder: Path) -> Path:
    """Return the folder of a run's tables."""
    return run_folder / LATENCY_FOLDER


def read_header(path: Path) -> TableHeader:
    """Read only the header of a table.

    Raises:
        TableError: It is absent or damaged.
    """
    where = f"{path}, line 1"
    if not path.exists():
        raise TableError(f"{path} does not exist. Make it: hwnas profile.")
    try:
        with path.open(encoding="utf-8") as stream:
            raw = json.loads(stream.readline())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TableError(f"{where}: not the header of a latency table ({error}).") from error
    if not isinstance(raw, dict):
        raise TableError(f"{where}: expected a JSON object, got {type(raw).__name__}.")
    return TableHeader.from_dict(raw, where)


def _roots(run_folder: Path | None) -> list[tuple[Place, Path]]:
    roots: list[tuple[Place, Path]] = [("user", user_root()), ("shipped", shipped_root())]
    return [("run", run_root(run_folder)), *roots] if run_folder is not None else roots


def list_tables(run_folder: Path | None = None) -> tuple[list[StoredTable], list[str]]:
    """Return every table in order of preference, and a sentence for each file that cannot be used."""
    found: list[StoredTable] = []
    problems: list[str] = []
    for place, root in _roots(run_folder):
        for path in sorted(root.rglob(TABLE_FILE)) if root.is_dir() else []:
            try:
                found.append(StoredTable(path, place, read_header(path)))
            except TableError as error:
                problems.append(str(error))
    return found, problems


def _candidates(
    target: Target, space: SearchSpace[Architecture], tables: Iterable[StoredTable]
) -> Iterator[StoredTable]:
    wanted = (target.runtime, target.precision, target.threads, target.batch)
    for stored in tables:
        own = stored.header.target
        same = (own.runtime, own.precision, own.threads, own.batch) == wanted
        if same and stored.header.space_digest == space.digest:
            yield stored


def find_table(
    target: Target,
    space: SearchSpace[Architecture],
    fingerprint: Fingerprint | None = None,
    run_folder: Path | None = None,
) -> StoredTable | None:
    """Return the first table that fits, looking in the run folder, the user's folder, and those shipped.

    Args:
        target: The target.
        space: The space.
        fingerprint: The machine; with it, a table of another machine never fits. Without it, the device's name must be
            the target's.
        run_folder: A run's folder to look in first.
    """
    tables, _ = list_tables(run_folder)
    for stored in _candidates(target, space, tables):
        if fingerprint is None:
            if stored.header.target.device == target.device:
                return stored
        elif not stored.header.fingerprint.differences(fingerprint):
            return stored
    return None


def require_kernel_table(target: Target, fingerprint: Fingerprint) -> StoredTable:
    """Return the table of this target and machine from which the kernel model that saw most networks was made, the user's first.

    Raises:
        TableError: There is none; the message says how to make one.
    """
    tables, _ = list_tables()
    wanted = (target.runtime, target.precision, target.threads, target.batch)
    others, found = set(), []
    for stored in tables:
        own = stored.header.target
        if (own.runtime, own.precision, own.threads, own.batch) != wanted or not _prices_kernels(stored):
            continue
        if stored.header.fingerprint.differences(fingerprint):
            others.add(str(own))
        else:
            found.append(stored)
    if found:
        return max(found, key=lambda stored: (stored.place != "shipped", _networks_of(stored)))
    known = f" There are some of other machines: {', '.join(sorted(others))}." if others else ""
    raise TableError(
        f"no kernel model of {target} on this machine, which model files are predicted by.{known} "
        f"Make it: hwnas profile --kernels --target {target}"
    )


def _networks_of(stored: StoredTable) -> int:
    return int(read_description(stored.model_folder)[1].get("facts", {}).get("rows", 0))


def _prices_kernels(stored: StoredTable) -> bool:
    try:
        return stored.has_model and read_description(stored.model_folder)[0] == "kernels"
    except TableError:
        return False


def _unusable_model(stored: StoredTable) -> str | None:
    if not stored.has_model:
        return "it has no model; say: hwnas fit FOLDER"
    try:
        kind, _ = read_description(stored.model_folder)
    except TableError as error:
        return f"its model cannot be read: {error}"
    reasons = {"transferred": "its model was itself transferred", "kernels": "its model is of kernels"}
    return reasons.get(kind)


def find_outdated(target: Target, space: SearchSpace[Architecture], fingerprint: Fingerprint) -> StoredTable:
    """Return the table of this machine, target and space that another version of the runtime left, the latest version first.

    Raises:
        TableError: There is none with a measured model, or there is one of this very version already.
    """
    current = find_table(target, space, fingerprint)
    if current is not None and current.has_model:
        version = fingerprint.identity["runtime_version"]
        raise TableError(
            f"{current.path.parent} is a table of {target} under {target.runtime} {version} already: nothing to refresh. "
            f"To measure anew: hwnas profile --target {target} --output ANOTHER-FOLDER"
        )
    tables, _ = list_tables()
    found = [
        stored
        for stored in _candidates(target, space, tables)
        if stored.header.fingerprint.differences(fingerprint).keys() == {"runtime_version"}
        and _unusable_model(stored) is None
    ]
    if not found:
        raise TableError(
            f"no table of {target} for space {space.name} (digest {space.digest[:12]}) of another runtime version on this "
            f"machine: nothing to refresh. Make one: hwnas profile --target {target}"
        )
    return max(found, key=lambda stored: _version(str(stored.header.fingerprint.identity["runtime_version"])))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def find_sources(
    target: Target,
    space: SearchSpace[Architecture],
    fingerprint: Fingerprint,
    folders: Sequence[Path] = (),
) -> list[StoredTable]:
    """Return tables with a measured model for this space that are not this target's own on this machine.

    Args:
        target: The target to be transferred to.
        space: Its space.
        fingerprint: Its machine and setting.
        folders: Folders of tables to take; all that can be found unless given.

    Raises:
        TableError: A folder given holds no table, or none with a measured model of this space, or is the target itself.
    """
    if folders:
        tables = [StoredTable(folder / TABLE_FILE, "user", read_header(folder / TABLE_FILE)) for folder in folders]
    else:
        tables, _ = list_tables()
    found: dict[tuple[str, str], StoredTable] = {}
    for stored in tables:
        reason = _unfit_source(stored, target, space, fingerprint)
        if reason and folders:
            raise TableError(f"{stored.path.parent} cannot be transferred to {target}: {reason}.")
        if not reason:
            header = stored.header
            found.setdefault((str(header.target), header.fingerprint.identity_digest), stored)
    return list(found.values())


def _unfit_source(
    stored: StoredTable, target: Target, space: SearchSpace[Architecture], fingerprint: Fingerprint
) -> str | None:
    if stored.header.space_digest != space.digest:
        return f"it is of space {stored.header.space}-{stored.header.space_digest[:12]}, not {space.name}-{space.digest[:12]}"
    if (stored.header.target.runtime == SIMULATED) != (target.runtime == SIMULATED):
        return "one of the two is a simulated device"
    unusable = _unusable_model(stored)
    if unusable:
        return unusable
    return None if stored.header.fingerprint.differences(fingerprint) else "it is that target's own table"


def require_table(
    target: Target,
    space: SearchSpace[Architecture],
    fingerprint: Fingerprint | None = None,
    run_folder: Path | None = None,
) -> StoredTable:
    """Return the table of :func:`find_table`.

    Raises:
        TableError: There is none; the message says what there is and how to make one.
    """
    stored = find_table(target, space, fingerprint, run_folder)
    if stored is not None:
        return stored
    tables, _ = list_tables(run_folder)
    others = sorted({str(entry.header.target) for entry in _candidates(target, space, tables)})
    known = f" There are tables of other machines: {', '.join(others)}." if others else ""
    raise TableError(
        f"no latency table of {target} for space {space.name} (digest {space.digest[:12]}) on this machine.{known} "
        f"Make it: hwnas profile --target {target}"
    )


def describe(table: LatencyTable) -> dict[str, object]:
    """Return what ``hwnas tables show`` prints: plain data about a table."""
    rows = table.measured()
    values = np.array([row.latency for row in rows]) if rows else np.array([math.nan])
    return {
        "target": str(table.target),
        "space": f"{table.header.space}-{table.header.space_digest[:12]}",
        "unit": table.header.unit,
        "rows": len(table.rows),
        "failures": len(table.failures),
        "held_out": len(table.measured("held_out")),
        "smallest": float(values.min()),
        "median": float(np.median(values)),
        "largest": float(values.max()),
        "grades": {grade: sum(row.grade == grade for row in rows) for grade in ("A", "B", "C")},
        "canaries": table.header.canaries,
        "drift": table.header.session.get("drift"),
        "identity": table.header.fingerprint.identity,
    }


def merge_files(paths: list[Path], out: Path) -> LatencyTable:
    """Merge tables into the first one's reference condition and write the result.

    Raises:
        TableError: A table is damaged, or they do not belong together.
    """
    if not paths:
        raise TableError("no table to merge was given.")
    merged = LatencyTable.load(paths[0])
    for path in paths[1:]:
        merged = merged.merge(LatencyTable.load(path))
    merged.save(out)
    return merged

"""What a run folder holds, read tolerant of what is not there yet."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hwnas.artifacts.manifest import Manifest, read_manifest
from hwnas.errors import ArtifactError, ConfigError
from hwnas.reporting.precisions import PrecisionGap, latencies_of, precision_gaps
from hwnas.strategies.problem import sees
from hwnas.targets import Target


@dataclass(frozen=True)
class ArtifactData:
    """One artifact of the run: its folder's name, manifest, and ``(block, milliseconds)`` in order of execution."""

    identifier: str
    manifest: Manifest
    blocks: tuple[tuple[str, float], ...] = ()

    @property
    def label(self) -> str:
        """The identifier without the target in front, which is shown beside it."""
        return self.identifier.removeprefix(f"{self.manifest.target.replace('/', '--')}--")


@dataclass(frozen=True)
class TargetData:
    """One target of the run.

    Attributes:
        name: Target as text.
        budget: ``{"max_ms", "relative", "statistic"}`` of the run file, or None.
        cost: Column of this target's latency in the costs of archive members, or None.
        limits: Columns of the limits of archive members that hold for this target.
        front: Its part of ``front.json``, or empty.
        rows: Rows of its latency table.
        latencies: Key of each measured network -> its latency.
        evaluation: Content of ``evaluation.json``, or empty.
        artifacts: Artifacts for this target.
    """

    name: str
    budget: dict[str, Any] | None
    cost: int | None
    limits: tuple[int, ...]
    front: dict[str, Any]
    rows: int
    latencies: dict[str, float]
    evaluation: dict[str, Any]
    artifacts: tuple[ArtifactData, ...]

    @property
    def unit(self) -> str:
        """Unit of its latencies."""
        return str(self.evaluation.get("unit") or "ms")

    @property
    def max_ms(self) -> float | None:
        """Budget in milliseconds: of the run file, or (relative budgets) as resolved for the artifacts."""
        if self.budget and self.budget.get("max_ms"):
            return float(self.budget["max_ms"])
        return next((entry.max_ms for found in self.artifacts for entry in found.manifest.budgets), None)


@dataclass(frozen=True)
class RunData:
    """Everything the report shows; ``problems`` are files that exist but could not be read."""

    name: str
    config: dict[str, Any]
    targets: tuple[TargetData, ...]
    archive: tuple[dict[str, Any], ...] = ()
    history: tuple[dict[str, Any], ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    winners: tuple[dict[str, Any], ...] = ()
    artifacts: tuple[ArtifactData, ...] = ()
    steps: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def gaps(self) -> list[PrecisionGap]:
        """Precisions of the same setting beside each other."""
        return precision_gaps({target.name: target.latencies for target in self.targets})


class Reader:
    """Reads files below one folder; what exists but is broken is noted in ``problems`` by its relative name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def _note(self, path: Path, why: object) -> None:
        self.problems.append(f"{path.relative_to(self.folder).as_posix()} could not be read: {why}")

    def mapping(self, path: Path) -> dict[str, Any]:
        """Return a JSON or YAML mapping, empty if absent or broken."""
        if not path.is_file():
            return {}
        try:
            text = path.read_text(encoding="utf-8")
            value = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
            self._note(path, error)
            return {}
        if not isinstance(value, dict):
            self._note(path, f"expected a mapping, got {type(value).__name__}")
            return {}
        return value

    def lines(self, path: Path) -> tuple[dict[str, Any], ...]:
        """Return the records of a JSON Lines file; a last line cut short by a crash is dropped without a word."""
        if not path.is_file():
            return ()
        records = []
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            self._note(path, error)
            return ()
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    records.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    self._note(path, f"line {number}: {error}")
        return tuple(record for record in records if isinstance(record, dict))

    def artifact(self, folder: Path) -> ArtifactData | None:
        """Return one artifact, or None with a note."""
        try:
            manifest = read_manifest(folder)
        except ArtifactError as error:
            self._note(folder / "manifest.json", str(error).replace(f"{self.folder}/", ""))
            return None
        entries = self.mapping(folder / "blocks.json").get("blocks", [])
        try:
            blocks = tuple((str(entry["name"]), float(entry["ms"])) for entry in entries)
        except (TypeError, KeyError, ValueError) as error:
            self._note(folder / "blocks.json", repr(error))
            blocks = ()
        return ArtifactData(folder.name, manifest, blocks)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir()) if folder.is_dir() else []


def _target_names(config: dict[str, Any], artifacts: tuple[ArtifactData, ...]) -> dict[str, dict[str, Any] | None]:
    """Return targets of the run file in order (their budgets), then those only artifacts have."""
    named: dict[str, dict[str, Any] | None] = {}
    for entry in config.get("targets") or []:
        if not isinstance(entry, dict) or "target" not in entry:
            continue
        try:
            named[str(Target.parse(str(entry["target"])))] = entry.get("budget")
        except ConfigError:
            named[str(entry["target"])] = entry.get("budget")
    for found in artifacts:
        named.setdefault(found.manifest.target, None)
    return named


@dataclass(frozen=True)
class _Search:
    """Costs, limits and targets of the search, in the order of archive members' columns, and its fronts by target."""

    problem: dict[str, Any]
    fronts: dict[str, Any]

    @classmethod
    def read(cls, reader: Reader) -> _Search:
        identity = reader.mapping(reader.folder / "search_state.json").get("identity") or {}
        fronts = reader.mapping(reader.folder / "front.json").get("targets") or {}
        return cls(identity.get("problem") or {}, fronts)


def _target(
    reader: Reader,
    search: _Search,
    named: dict[str, dict[str, Any] | None],
    name: str,
    artifacts: tuple[ArtifactData, ...],
) -> TargetData:
    tables = reader.folder / "tables" / name.replace("/", "--")
    problem = search.problem
    costs, limits = problem.get("costs") or [], problem.get("limits") or []
    rows = reader.lines(tables / "table.jsonl")
    targets, seen_by = problem.get("targets") or [], problem.get("seen_by") or {}
    return TargetData(
        name=name,
        budget=named[name],
        cost=costs.index(name) if name in costs else None,
        limits=tuple(i for i, limit in enumerate(limits) if sees(name, limit[0], targets, seen_by)),
        front=search.fronts.get(name, {}),
        rows=sum("encoding" in record for record in rows),
        latencies=latencies_of(rows),
        evaluation=reader.mapping(tables / "evaluation.json"),
        artifacts=tuple(artifact for artifact in artifacts if artifact.manifest.target == name),
    )


def _archive(reader: Reader) -> tuple[dict[str, Any], ...]:
    """Return the evaluations of the search, and behind them those that were confirmed on all images in the end.

    Readings of an earlier supernet, from before the search was given more iterations, do not count.
    """
    archive = reader.lines(reader.folder / "archive.jsonl")
    last = {str(record.get("encoding")): record for record in archive}
    readings = [
        record
        for record in reader.lines(reader.folder / "confirmed.jsonl")
        if record.get("images") == record.get("of") and str(record.get("encoding")) in last
    ]
    newest = max((int(record.get("version") or 0) for record in last.values()), default=0)
    confirmed = [
        {**last[str(record["encoding"])], "accuracy": record.get("accuracy"), "version": newest, "confirmed": True}
        for record in readings
        if int(record.get("version") or 0) == newest
    ]
    return (*archive, *confirmed)


def read_run(folder: Path) -> RunData:
    """Read a run folder; nothing outside it is touched."""
    reader = Reader(folder)
    config = reader.mapping(folder / "run.yaml")
    found = (reader.artifact(path) for path in _subfolders(folder / "artifacts"))
    artifacts = tuple(artifact for artifact in found if artifact is not None)
    named = _target_names(config, artifacts)
    search = _Search.read(reader)
    targets = tuple(_target(reader, search, named, name, artifacts) for name in named)
    return RunData(
        name=str(config.get("name") or folder.resolve().name),
        config=config,
        targets=targets,
        archive=_archive(reader),
        history=reader.lines(folder / "search_history.jsonl"),
        training=reader.mapping(folder / "supernet" / "training.json"),
        winners=tuple(reader.mapping(path / "winner.json") for path in _subfolders(folder / "winners")),
        artifacts=artifacts,
        steps=reader.lines(folder / "steps.jsonl"),
        problems=tuple(reader.problems),
    )

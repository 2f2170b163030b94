"""The run folder: never deleted or overwritten by a start, resumed when it matches, refused when it does not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import yaml

from hwnas.config import RunConfig
from hwnas.errors import RunFolderError
from hwnas.files import Journal, explain_os_errors, write_text
from hwnas.targets import Target


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, entry in value.items() for key, leaf in _flatten(entry, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


SUPERNET = "supernet"
"""Folder of the supernet in a run folder."""

EXTENDABLE = (
    "train.time_budget_minutes",
    "train.checkpoint_minutes",
    "train.device",
    "search.time_budget_minutes",
    "search.iterations",
)


def _fixed(config: dict[str, Any], *, budgets: bool) -> dict[str, Any]:
    """Return the leaves of a configuration that may not change in an unfinished run, with or without its budgets."""
    leaves = {key: value for key, value in _flatten(config).items() if key not in EXTENDABLE}
    if not budgets:
        leaves["targets"] = [entry["target"] for entry in config["targets"]]
        leaves = {key: value for key, value in leaves.items() if not key.startswith("search.budgets.")}
    return leaves


def table_folder(run_folder: Path, target: Target) -> Path:
    """Return the folder of a target's table and model in a run folder, whether or not it exists."""
    return run_folder / "tables" / target.slug


class RunFolder:
    """One run on the disk.

    Attributes:
        path: The folder.
        config: The run file as resolved.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        with explain_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self._claim()
        self._steps = Journal(path / "steps.jsonl")

    def _claim(self) -> None:
        stored = self.path / "run.yaml"
        mine = self.config.model_dump(mode="json")
        if not stored.exists():
            others = [
                entry.name
                for entry in self.path.iterdir()
                if entry.name != ".lock" and not entry.name.startswith(".run.yaml.")
            ]
            if others:
                raise RunFolderError(
                    f"{self.path} holds files but no run.yaml ({', '.join(sorted(others)[:3])}): not a run folder. "
                    "Choose another with --set name=NAME or --runs FOLDER."
                )
            write_text(stored, yaml.safe_dump(mine, sort_keys=False))
            return
        try:
            theirs = RunConfig.model_validate(yaml.safe_load(stored.read_text(encoding="utf-8"))).model_dump(
                mode="json"
            )
        except (ValueError, yaml.YAMLError) as error:
            raise RunFolderError(f"{stored} is damaged ({error}). Restore it, or choose another run name.") from error
        if theirs != mine and self._may_change(theirs, mine):
            write_text(stored, yaml.safe_dump(mine, sort_keys=False))
        elif theirs != mine:
            old, new = _flatten(theirs), _flatten(mine)
            keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            shown = "; ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} asked" for key in keys[:4])
            raise RunFolderError(
                f"{self.path} belongs to another configuration ({shown}{'; ...' if len(keys) > 4 else ''}). "
                f"Keep it and start another run with --set name={self.config.name}-2, or give the old settings to resume."
            )

    def _may_change(self, theirs: dict[str, Any], mine: dict[str, Any]) -> bool:
        """Whether what was done so far also belongs to the configuration asked for.

        Until winners are chosen a run may be given more time and iterations; until it searches, other budgets.
        """
        if (self.path / "shortlist.json").exists():
            return False
        searching = (self.path / "search_state.json").exists()
        return _fixed(theirs, budgets=searching) == _fixed(mine, budgets=searching)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder so that two processes never work on one run.

        Raises:
            RunFolderError: Another process holds it.
        """
        try:
            with filelock.FileLock(self.path / ".lock", timeout=0):
                yield
        except filelock.Timeout as error:
            raise RunFolderError(f"{self.path} is in use by another process. Wait for it, or stop it.") from error

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Log how long a step took, and whether it succeeded; an attempt that was killed leaves no record."""
        start, succeeded = time.monotonic(), False
        try:
            yield
            succeeded = True
        finally:
            seconds = round(time.monotonic() - start, 3)
            self._steps.append({"step": name, "seconds": seconds, "ended": int(time.time()), "succeeded": succeeded})

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Steps in order, failed attempts among them."""
        return list(self._steps.records)

    def table(self, target: Target) -> Path:
        """Folder of table and latency model of a target."""
        return table_folder(self.path, target)

    @property
    def supernet(self) -> Path:
        """Folder of the trained supernet."""
        return self.path / SUPERNET

    @property
    def search(self) -> Path:
        """Folder of archive and search state: the run folder itself."""
        return self.path

    def winner(self, identifier: str) -> Path:
        """Folder of a fine-tuned winner."""
        return self.path / "winners" / identifier

    @property
    def artifacts(self) -> Path:
        """Folder of the artifacts."""
        return self.path / "artifacts"

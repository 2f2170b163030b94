"""The state of a search on disk: which search it is, where it stands, and what it has found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.errors import RunFolderError
from hwnas.files import canonical_json, read_json, write_json, write_text
from hwnas.strategies.archive import Archive, Member, front, union_front
from hwnas.strategies.base import Strategy
from hwnas.strategies.confirming import read_confirmed
from hwnas.strategies.evaluations import ARCHIVE
from hwnas.strategies.problem import Problem

STATE, HISTORY = "search_state.json", "search_history.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far.

    Attributes:
        archive: Every member, and the active set.
        history: One record per iteration (hypervolume, tau, evaluations, ...).
        finished: False where a deadline stopped it; the same call goes on.
        version: Version of the supernet that all comparable accuracies belong to.
        confirmed: Members that were read again on all validation images, where the search read fewer; only they count then.
    """

    archive: Archive
    history: tuple[dict[str, Any], ...]
    finished: bool
    version: int
    confirmed: tuple[Member, ...] = ()

    @property
    def members(self) -> list[Member]:
        """Members whose accuracies can be compared: of one supernet (the present one, or the one before where it just adapted)."""
        return list(self.confirmed) or self.archive.current(self.version) or self.archive.current(self.version - 1)

    def fronts(self, problem: Problem) -> dict[str, list[Member]]:
        """Return the feasible non-dominated members of each view, most accurate first."""
        return {view.name: front(self.members, view) for view in problem.views}

    def union_front(self, problem: Problem) -> list[Member]:
        """Return the members on the front of at least one view, most accurate first."""
        return union_front(self.members, problem.views)


def identity_of(strategy: Strategy, problem: Problem, measured: bool, adapts: bool) -> dict[str, Any]:
    """Return what two runs of one search must share."""
    # A search may be given more iterations or time when it is resumed; everything else makes it another search.
    section = strategy.section.model_dump(mode="json", exclude={"iterations", "time_budget_minutes"})
    return {
        "strategy": strategy.name,
        "section": section,
        "problem": problem.identity,
        "measured": measured,
        "adapts": adapts,
    }


def _differences(stored: Any, here: Any, path: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(here, dict):
        for key in sorted(stored.keys() | here.keys()):
            yield from _differences(stored.get(key), here.get(key), f"{path}.{key}" if path else str(key))
    elif canonical_json(stored) != canonical_json(here):
        yield f"{path}: stored {stored!r}, asked {here!r}"


def resume(folder: Path, strategy: Strategy, identity: dict[str, Any]) -> bool:
    """Restore the strategy from ``folder``; returns False where nothing was started there.

    Raises:
        RunFolderError: Another search lives there, or its files are damaged.
    """
    path = folder / STATE
    if not path.exists():
        if (folder / ARCHIVE).exists():
            raise RunFolderError(f"{folder} holds {ARCHIVE} but no {STATE}. Restore it, or search in another folder.")
        return False
    document = read_json(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RunFolderError(
            f"{path} is not a search state of format {FORMAT}. Restore it, or search in another folder."
        )
    differences = list(_differences(document.get("identity"), identity))
    if differences:
        raise RunFolderError(
            f"{folder} holds another search ({'; '.join(differences)}). Use the settings it was started with, "
            "or search in another folder."
        )
    try:
        strategy.restore(document["state"])
    except KeyError as error:
        raise RunFolderError(f"{path} is damaged: {error} is missing.") from error
    return True


def write_state(folder: Path, strategy: Strategy, identity: dict[str, Any]) -> None:
    """Write state and history of a strategy, each atomically."""
    document = {"format": FORMAT, "identity": identity, "finished": strategy.finished, "state": strategy.state()}
    write_json(folder / STATE, document)
    write_text(folder / HISTORY, "".join(canonical_json(record) + "\n" for record in strategy.history))


def read_result(folder: Path) -> SearchResult:
    """Read what a search in ``folder`` has found so far, without its strategy (for reports and winners).

    Raises:
        RunFolderError: No search state there, or a damaged one.
    """
    document = read_json(folder / STATE)
    try:
        state = document["state"]
        archive = Archive.from_state(state["archive"])
        version = int(state["version"])
        finished = bool(document["finished"])
        confirmed = read_confirmed(folder, archive.members, version) if finished else []
        return SearchResult(archive, tuple(state["history"]), finished, version, tuple(confirmed))
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{folder / STATE} is damaged ({error!r}).") from error

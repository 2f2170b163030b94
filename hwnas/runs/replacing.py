"""Closing the loop: a winner whose exported file breaks its budget, or is refused, gives way to the next candidate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwnas.artifacts.pipeline import Artifact
from hwnas.errors import HwnasError, ModelFileError, RefusedError
from hwnas.files import write_json
from hwnas.runs.exporting import artifact_name
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick, shortlisted
from hwnas.runs.winning import WINNERS

REPLACED = "replaced"
"""Folder of a run that keeps the artifacts whose winners gave way."""


def names(folder: Path) -> set[str]:
    """Return the names in a folder, none if it is absent."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _spare(run: Run, failed: Pick, taken: set[str], stretch: float) -> Pick | None:
    """Return the next candidate of a target that keeps its budget even if its file stretches as the failed one's did."""
    for pick in shortlisted(run):
        if pick.target != failed.target or pick.identifier in taken:
            continue
        if pick.budget is None or pick.measured is None or pick.measured["high"] * stretch <= pick.budget:
            return pick
    return None


def _stretch(pick: Pick, artifact: Artifact | None) -> float:
    """Return how much slower the exported file is than the candidate was, at least 1."""
    if artifact is None or pick.measured is None:
        return 1.0
    return max(1.0, artifact.manifest.measured.value / pick.measured["value"])


def replace_failed(
    run: Run, picks: Sequence[Pick], artifacts: Sequence[Artifact], refused: Mapping[str, HwnasError]
) -> bool:
    """Let spare candidates take the place of winners that failed; returns whether there is anything new to export.

    ``winners.json`` names the successor, then the artifact of the winner that gave way is moved to the run's
    :data:`REPLACED` folder; a run interrupted in between goes on with the successor.

    Args:
        run: The run.
        picks: The winners as exported.
        artifacts: Their artifacts.
        refused: Name (see ``artifact_name``) -> why there is no artifact; who could merely not be measured stays.
    """
    made = {artifact.folder.name: artifact for artifact in artifacts}
    before = run.path / REPLACED
    gone = names(before)
    chosen = list(picks)
    for index, pick in enumerate(chosen):
        name = artifact_name(pick)
        artifact = made.get(name)
        failed = isinstance(refused.get(name), (RefusedError, ModelFileError))
        if not failed and (artifact is None or not artifact.broken):
            continue
        prefix = f"{pick.target.slug}--"
        taken = {entry.identifier for entry in chosen if entry.target == pick.target}
        taken |= {
            entry.removeprefix(prefix) for entry in gone | names(run.folder.artifacts) if entry.startswith(prefix)
        }
        spare = _spare(run, pick, taken, _stretch(pick, artifact))
        if spare is None:
            continue
        print(f"{pick.target}: {pick.identifier} {_why(artifact)}; {spare.identifier} takes its place", file=sys.stderr)
        chosen[index] = spare
        write_json(run.path / WINNERS, [pick.as_dict() for pick in chosen])
        moved = before / name
        moved.mkdir(parents=True, exist_ok=True)
        if artifact is not None:
            artifact.folder.rename(moved / f"{len(list(moved.iterdir())) + 1}")
    return chosen != list(picks)


def _why(artifact: Artifact | None) -> str:
    if artifact is None:
        return "was refused"
    budget = next(entry for entry in artifact.manifest.budgets if entry.verdict == "broken")
    measured = artifact.manifest.measured
    return f"broke its budget as an exported file ({measured.value:.4g} {measured.unit} against {budget.max_ms:.4g})"

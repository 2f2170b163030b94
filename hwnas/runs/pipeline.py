"""All stages in order: each is resumed, none is done twice."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwnas.artifacts.pipeline import Artifact
from hwnas.errors import HwnasError, RefusedError
from hwnas.finetuning.winner import Winner
from hwnas.reporting.html import write_report
from hwnas.reporting.precisions import PrecisionGap
from hwnas.reporting.run_data import read_run
from hwnas.runs.budgets import problem_of
from hwnas.runs.counted import check_counted
from hwnas.runs.exporting import artifact_name, export_stage
from hwnas.runs.fronts import FRONT, front_stage
from hwnas.runs.profiling import profile_stage
from hwnas.runs.replacing import replace_failed
from hwnas.runs.searching import search_stage
from hwnas.runs.session import Run
from hwnas.runs.shortlist import SHORTLIST, Pick, shortlist_stage
from hwnas.runs.training import settled_training, train_stage
from hwnas.runs.winning import finetune_stage, finetuned
from hwnas.strategies.state import SearchResult, read_result
from hwnas.supernets.training import REPORT, TrainReport
from hwnas.targets import Target


@dataclass(frozen=True)
class Summary:
    """What a run left behind.

    Attributes:
        run_folder: The run's folder.
        artifacts: One per target and winner.
        report: The HTML report.
        refused: Name -> why no artifact was made of a winner.
        gaps: How fast precisions of the same setting are beside each other.
    """

    run_folder: Path
    artifacts: tuple[Artifact, ...]
    report: Path
    refused: Mapping[str, str] = field(default_factory=dict)
    gaps: tuple[PrecisionGap, ...] = ()

    @property
    def broken(self) -> bool:
        """Whether a budget is broken."""
        return any(artifact.broken for artifact in self.artifacts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "run_folder": str(self.run_folder),
            "report": str(self.report),
            "broken": self.broken,
            "refused": dict(self.refused),
            "artifacts": [artifact.as_dict() for artifact in self.artifacts],
            "precisions": [gap.as_dict() for gap in self.gaps],
        }


def raise_refused(refused: Mapping[str, HwnasError], folder: Path) -> None:
    """Raise one error for all files that were refused.

    Raises:
        RefusedError: There is at least one.
    """
    if refused:
        reasons = " ".join(f"{name}: {error}" for name, error in refused.items())
        raise RefusedError(f"{len(refused)} of the winners could not be shipped; the others are in {folder}. {reasons}")


class Pipeline:
    """The stages of one run; each makes sure that those before it are done.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def profiled(self) -> None:
        """Make table and latency model of every target; what a person should know of them goes to standard error."""
        for target, fitted in profile_stage(self.run).items():
            for note in fitted.notes if fitted is not None else ():
                print(f"{target}: {note}", file=sys.stderr)

    def trained(self) -> TrainReport:
        """Train the supernet; what a search already builds on is never trained further."""
        self.run.use_threads()
        settled = settled_training(self.run)
        if settled is not None:
            return settled
        with self._logged("train", (self.run.folder.supernet / REPORT).exists()):
            return train_stage(self.run)

    def searched(self) -> SearchResult:
        """Search, profiling and training first if that is missing; frozen once the winners were chosen.

        Raises:
            BudgetError: No architecture can keep a budget; said before anything is trained, and before anything is profiled
                where latency has no part in it.
        """
        check_counted(self.run)
        self.profiled()
        problem_of(self.run).check_budgets()
        self.trained()
        if (self.run.folder.path / SHORTLIST).exists():
            result = read_result(self.run.folder.search)
            if not (self.run.folder.path / FRONT).exists():
                front_stage(self.run, result)
            return result
        with self._logged("search", False):
            result = search_stage(self.run)
            front_stage(self.run, result)
            return result

    def picked(self) -> tuple[SearchResult, list[Pick]]:
        """Measure the candidates of every target and choose the winners."""
        result = self.searched()
        with self._logged("measure candidates", (self.run.folder.path / SHORTLIST).exists()):
            return result, shortlist_stage(self.run, result)

    def finetuned(self) -> tuple[list[Pick], Mapping[str, Winner]]:
        """Fine-tune the winners."""
        self.run.use_threads()
        result, picks = self.picked()
        with self._logged("fine-tune", finetuned(self.run)):
            return finetune_stage(self.run, result, picks)

    def exported(self, output: Path | None = None, target: Target | None = None) -> list[Artifact]:
        """Export the winners and verify the files.

        Raises:
            RefusedError: A file was refused; the others were exported.
        """
        artifacts, refused = self.attempted(output, target)
        raise_refused(refused, output or self.run.folder.path)
        return artifacts

    def attempted(
        self, output: Path | None = None, target: Target | None = None
    ) -> tuple[list[Artifact], dict[str, HwnasError]]:
        """Export the winners (of one target); returns the artifacts and why others were refused.

        Inside the run's folder, a winner that fails gives way to the next candidate of its target.
        """
        while True:
            picks, winners = self.finetuned()
            chosen = [pick for pick in picks if target in (None, pick.target)]
            places = [(output or self.run.folder.artifacts) / artifact_name(pick) for pick in chosen]
            with self._logged("export and verify", all(place.exists() for place in places)):
                artifacts, refused = export_stage(self.run, chosen, winners, output)
            if output is not None or target is not None:
                return artifacts, refused
            if not replace_failed(self.run, picks, artifacts, refused):
                return artifacts, refused

    def reported(self) -> Summary:
        """Do everything and write the report; what was refused is part of the answer."""
        artifacts, refused = self.attempted()
        report = write_report(self.run.folder.path)
        reasons = {name: str(error) for name, error in refused.items()}
        gaps = tuple(read_run(self.run.folder.path).gaps)
        return Summary(self.run.folder.path, tuple(artifacts), report, reasons, gaps)

    def _logged(self, name: str, finished: bool) -> AbstractContextManager[None]:
        """Log the time of a step that was not finished before."""
        return nullcontext() if finished else self.run.folder.step(name)

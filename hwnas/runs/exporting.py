"""The stage that exports winners for their targets and verifies what came out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hwnas import registry
from hwnas.artifacts.export import STEPS, export_winner
from hwnas.artifacts.pipeline import Artifact
from hwnas.config import Budget
from hwnas.devices.session import open_session
from hwnas.errors import ArtifactError, HwnasError, MeasurementFailure
from hwnas.finetuning.winner import Winner
from hwnas.progress import progress_bar
from hwnas.runs.budgets import statistic_of
from hwnas.runs.profiling import model_of
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick


def artifact_name(pick: Pick) -> str:
    """Return the name of a pick's artifact: target and architecture."""
    return f"{pick.target.slug}--{pick.identifier}"


@contextlib.contextmanager
def _refusals(refused: dict[str, HwnasError], name: str) -> Iterator[None]:
    try:
        yield
    except (ArtifactError, MeasurementFailure) as error:
        refused[name] = error


def export_stage(
    run: Run, picks: Sequence[Pick], winners: Mapping[str, Winner], output: Path | None = None
) -> tuple[list[Artifact], dict[str, HwnasError]]:
    """Return the verified artifacts, finished ones checked and reused, and why files of other picks were refused.

    Args:
        run: The run.
        picks: Winners per target.
        winners: Fine-tuned networks by identifier.
        output: Folder the artifacts go into; the run's by default.
    """
    folder = output or run.folder.artifacts
    artifacts: list[Artifact] = []
    refused: dict[str, HwnasError] = {}
    with progress_bar("exporting", STEPS * len(picks)) as advance:
        for pick in picks:
            winner = winners[pick.identifier]
            budget = None
            if pick.budget is not None:
                budget = Budget(max_ms=pick.budget, statistic=statistic_of(run, pick.target))
            with open_session(run.devices[pick.target.device]) as session, _refusals(refused, artifact_name(pick)):
                artifacts.append(
                    export_winner(
                        winner.module,
                        architecture=winner.architecture,
                        space=run.space,
                        data=run.data,
                        target=pick.target,
                        backend=registry.load("backend", pick.target.runtime)(),
                        session=session,
                        folder=folder / artifact_name(pick),
                        section=run.config.export,
                        budget=budget,
                        latency_model=model_of(run, pick.target),
                        validation_accuracy=winner.validation_accuracy,
                        metric=run.config.search.metric,
                        seed=run.config.seed,
                        progress=advance,
                    )
                )
    return artifacts, refused

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
from hwnas.errors import HwnasError, MeasurementFailure, ModelFileError, RefusedError
from hwnas.finetuning.winner import Winner
from hwnas.latency.predictor import LatencyPredictor
from hwnas.progress import Advance, progress_bar
from hwnas.runs.budgets import statistic_of
from hwnas.runs.profiling import model_of
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick
from hwnas.targets import Device, Target


def artifact_name(pick: Pick) -> str:
    """Return the name of a pick's artifact: target and architecture."""
    return f"{pick.target.slug}--{pick.identifier}"


@contextlib.contextmanager
def _refusals(refused: dict[str, HwnasError], name: str) -> Iterator[None]:
    try:
        yield
    except (RefusedError, ModelFileError, MeasurementFailure) as error:
        refused[name] = error


def export_for(
    run: Run,
    winner: Winner,
    target: Target,
    device: Device,
    folder: Path,
    budget: Budget | None,
    model: LatencyPredictor | None,
    advance: Advance,
) -> Artifact:
    """Export a run's winner for a target into ``folder`` and verify it; a finished artifact of the same request is reused.

    Raises:
        ArtifactError: Parity or the int8 gate failed.
        MeasurementFailure: The file cannot be measured.
    """
    with open_session(device) as session:
        return export_winner(
            winner.module,
            architecture=winner.architecture,
            space=run.space,
            data=run.data,
            target=target,
            backend=registry.load("backend", target.runtime)(),
            session=session,
            folder=folder,
            section=run.config.export,
            budget=budget,
            latency_model=model,
            validation_accuracy=winner.validation_accuracy,
            metric=run.config.search.metric,
            exits=winner.exits,
            seed=run.config.seed,
            progress=advance,
        )


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
            device, model = run.devices[pick.target.device], model_of(run, pick.target)
            with _refusals(refused, artifact_name(pick)):
                place = folder / artifact_name(pick)
                artifacts.append(export_for(run, winner, pick.target, device, place, budget, model, advance))
    return artifacts, refused

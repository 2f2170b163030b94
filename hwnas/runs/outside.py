"""Exports that start outside a run: one winner for another target, a person's own model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hwnas import registry
from hwnas.artifacts.export import STEPS
from hwnas.artifacts.pipeline import Artifact
from hwnas.artifacts.user_models import STEPS as GIVEN_STEPS
from hwnas.artifacts.user_models import export_model
from hwnas.config import Budget, ExportSection, load_run_config
from hwnas.devices.session import open_session
from hwnas.errors import ConfigError
from hwnas.finetuning.winner import load_winner
from hwnas.latency.profiling import MODEL_FOLDER
from hwnas.latency.transferred import load_model
from hwnas.progress import progress_bar
from hwnas.runs.budgets import resolve_budget, statistic_of
from hwnas.runs.exporting import export_for
from hwnas.runs.profiling import model_of, require_here
from hwnas.runs.session import Run
from hwnas.targets import Target, find_device


def export_winner_folder(folder: Path, target: Target, output: Path | None, budget: Budget | None) -> Artifact:
    """Export a fine-tuned winner of a run (``runs/NAME/winners/ID``) for any target.

    Raises:
        ConfigError: The folder is not a winner inside a run folder.
        ArtifactError: Parity or the int8 gate failed.
    """
    folder = folder.resolve()
    run_folder = folder.parent.parent
    if not (folder / "winner.json").is_file() or not (run_folder / "run.yaml").is_file():
        raise ConfigError(
            f"{folder.name} is not a winner of a run. Give a folder such as runs/NAME/winners/ID, a run file, an ONNX file or "
            "pkg.mod:function."
        )
    run = Run(load_run_config(run_folder / "run.yaml"), run_folder.parent)
    if run.path.resolve() != run_folder:
        raise ConfigError(
            f"{run_folder.name} is a copy of run {run.config.name}. Rename it back, or export from the original."
        )
    if target in run.targets and budget is None and run.budget(target) is not None:
        statistic = statistic_of(run, target)
        budget = Budget(max_ms=resolve_budget(run, target, model_of(run, target)), statistic=statistic)
    winner = load_winner(folder, run.space)
    model_folder = run.folder.table(target) / MODEL_FOLDER
    model = load_model(model_folder, run.space) if model_folder.is_dir() else None
    if model is not None:
        require_here(model, find_device(target.device))
    place = (output or Path("artifacts")) / f"{target.slug}--{folder.name}"
    with progress_bar("exporting", STEPS) as advance:
        return export_for(run, winner, target, find_device(target.device), place, budget, model, advance)


def read_inputs(path: Path) -> NDArray[Any]:
    """Return the array of a ``.npy`` file.

    Raises:
        ConfigError: Absent, not such a file, or an array of something else than numbers.
    """
    array: Any
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ConfigError(
            f"--samples {path} cannot be read: {error}. Write it with numpy.save(path, array)."
        ) from error
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise ConfigError(f"--samples {path} holds several arrays; write the one of the inputs with numpy.save.")
    if array.dtype.kind not in "fiu" or not array.ndim:
        raise ConfigError(f"--samples {path} must hold one array of numbers [n, ...], written with numpy.save.")
    return np.asarray(array)


def export_given(
    source: str,
    target: Target,
    output: Path,
    budget: Budget | None,
    input_shape: Sequence[int] | None,
    samples: NDArray[Any] | None,
    section: ExportSection,
) -> Artifact:
    """Export an ONNX file or a torch module by import path for a target.

    Raises:
        ConfigError: The source or its shape cannot be used.
        ArtifactError: Parity failed.
    """
    name = Path(source).stem if source.endswith(".onnx") else source.replace(":", "-").replace(".", "-")
    with open_session(find_device(target.device)) as session, progress_bar("exporting", GIVEN_STEPS) as advance:
        return export_model(
            source,
            target=target,
            backend=registry.load("backend", target.runtime)(),
            session=session,
            folder=output / f"{target.slug}--{name}",
            input_shape=input_shape,
            samples=samples,
            section=section,
            budget=budget,
            progress=advance,
        )

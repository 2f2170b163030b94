"""A trained winner becomes an artifact: exported, verified on the target, measured, judged, packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.artifacts.attribution import write_blocks
from hwnas.artifacts.package import staging
from hwnas.artifacts.parity import check_parity, run_images, torch_outputs
from hwnas.artifacts.pipeline import (
    Artifact,
    Steps,
    array_digest,
    complete,
    environment,
    existing,
    narrowed,
    quantisation,
    refuse_simulated,
    weights_digest,
)
from hwnas.artifacts.recheck import VerifyReport, verify_artifact
from hwnas.artifacts.records import Accuracy, Calibration, Licence, Predicted
from hwnas.artifacts.samples import COUNT, write_samples
from hwnas.artifacts.source import Source, prediction_of
from hwnas.artifacts.timing import absolute, judge, protocol_of
from hwnas.artifacts.user_models import export_model
from hwnas.artifacts.verification import accuracy_on, check_gate, gate_counts, torch_accuracy
from hwnas.config import Budget, ExportSection
from hwnas.devices.fingerprint import int8_weight_bits
from hwnas.devices.models import LoadedModel
from hwnas.files import digest
from hwnas.progress import Advance
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.targets import Target

if TYPE_CHECKING:
    import torch

    from hwnas.backends.base import Backend
    from hwnas.datasets.data import ImageData
    from hwnas.devices.session import Session
    from hwnas.latency.predictor import LatencyPredictor

__all__ = ["Artifact", "VerifyReport", "export_model", "export_winner", "verify_artifact"]

STEPS = 8
PARITY_IMAGES = 32
OWN_TRAINING = Licence(
    weights="trained by this run from random weights, yours to license",
    note="The terms of the data set may bind what was trained on it.",
)


def export_winner(
    module: torch.nn.Module,
    *,
    architecture: Architecture,
    space: SearchSpace[Any],
    data: ImageData,
    target: Target,
    backend: Backend,
    session: Session,
    folder: Path,
    section: ExportSection | None = None,
    budget: Budget | None = None,
    latency_model: LatencyPredictor | None = None,
    prediction: Predicted | None = None,
    name: str | None = None,
    validation_accuracy: float | None = None,
    evaluate_test: bool = True,
    metric: str = "top1",
    exits: Mapping[int, float] | None = None,
    licence: Licence = OWN_TRAINING,
    seed: int = 0,
    progress: Advance | None = None,
) -> Artifact:
    """Export a winner for a target and verify the file there; an artifact that is already there is checked and reused.

    Args:
        module: Trained network of ``architecture``.
        architecture: Its architecture.
        space: The search space.
        data: Parity uses validation images, calibration training images, int8 is decided on gate images, and test
            images are reported once.
        target: What the file is for.
        backend: Maker of the target's files.
        session: Open session of the target's device.
        folder: The artifact's folder; made by renaming a finished one, never overwritten.
        section: Rounds, calibration images, allowed int8 drop.
        budget: An absolute budget, or None.
        latency_model: Model of the target: gives the prediction and the condition the measurement stands for.
        prediction: The prediction, if there is no model at hand.
        name: Name in the manifest; the folder's by default.
        validation_accuracy: What the search or fine-tuning saw, in [0, 1].
        evaluate_test: Whether to evaluate the test split.
        metric: Name or import path of the reported metric; the int8 gate counts top-1 answers.
        exits: Number of each exit of an ensemble and its weight, for manifest and card.
        licence: Licence of the weights.
        seed: Of the choice of calibration images.
        progress: Told of every step (:data:`STEPS` in all).

    Raises:
        ArtifactError: Parity or the int8 gate failed (nothing is left behind), ``folder`` holds something else, or the
            target is simulated.
        MeasurementFailure: The file cannot be run or measured on the target, or would run on something else.
        ConfigError: The budget is relative.
        HwnasError: The backend cannot export the module.
    """
    refuse_simulated(target)
    section = section or ExportSection()
    budget = absolute(budget)
    winner = Source(module, architecture, space, data, exits or {})
    weight_bits = int8_weight_bits(session.hello().identity) if target.precision == "int8" else 8
    request = digest(
        {
            "weights": weights_digest(module.state_dict()),
            "architecture": architecture.as_dict(),
            "space": space.digest,
            "data": data.digest,
            "target": str(target),
            "budget": budget.model_dump() if budget else None,
            "section": section.model_dump(exclude={"winners"}),
            "options": [evaluate_test, metric, seed],
            **narrowed(weight_bits),
        }
    )
    if (found := existing(folder, request)) is not None:
        if progress is not None:
            progress(STEPS, "checked and reused")
        return found
    predicted = prediction
    if latency_model is not None:
        predicted = prediction_of(latency_model, winner, budget.statistic if budget else "p50")
    reference = latency_model.canaries if latency_model is not None else None
    job = _Job(winner, target, backend, session, section, budget, reference, metric, evaluate_test, seed, weight_bits)
    steps = Steps(STEPS, progress)
    with staging(folder) as work:
        parts = {
            "name": name or folder.name,
            "request": request,
            "predicted": predicted,
            "licence": licence,
        }
        manifest = job.run(work, steps, parts, validation_accuracy)
    steps.finish()
    return Artifact(folder, manifest)


@dataclass(frozen=True)
class _Job:
    winner: Source
    target: Target
    backend: Backend
    session: Session
    section: ExportSection
    budget: Budget | None
    reference: Mapping[str, float] | None
    metric: str
    evaluate_test: bool
    seed: int
    weight_bits: int

    def run(self, work: Path, steps: Steps, parts: dict[str, Any], validation: float | None) -> Any:
        """Fill ``work`` and return the manifest."""
        import torch

        winner, target = self.winner, self.target
        images = winner.images(winner.data.validation, PARITY_IMAGES)
        calibration, calibration_entry = self._calibration()
        steps(f"exporting for {target}")
        files = self.backend.export(
            winner.module,
            torch.from_numpy(images),
            target.precision,
            work,
            calibration=calibration,
            weight_bits=self.weight_bits,
            batch=target.batch,
        )
        steps("loading on the target")
        loaded = self.session.load(files, target)
        try:
            steps(f"parity with torch on {len(images)} images")
            expected = torch_outputs(winner.module, images)
            found = run_images(self.session, loaded, images)
            parity = check_parity(expected, found, loaded, target.precision)
            accuracy = self._accuracy(loaded, steps, validation)
            parts |= environment(self.session, target, loaded)
            write_blocks(work, self.session, loaded.handle, self.backend, winner.space, winner.architecture)
        finally:
            self.session.unload(loaded.handle)
        names = [entry.name for entry in loaded.outputs]
        write_samples(
            work,
            {loaded.inputs[0].name: images[:COUNT]},
            {name: value[:COUNT] for name, value in zip(names, expected, strict=True)},
            {name: value[:COUNT] for name, value in found.items()},
        )
        steps("measuring latency")
        measured, budgets = judge(
            self.session, files, target, self.budget, protocol_of(self.section.rounds), self.reference
        )
        steps("writing scripts, card and manifest")
        parts |= winner.described() | {
            "quantisation": quantisation(work),
            "parity": parity,
            "accuracy": accuracy,
            "calibration": calibration_entry,
            "measured": measured,
            "canaries": dict(self.reference or {}),
            "budgets": budgets,
        }
        return complete(work, files, parts)

    def _calibration(self) -> tuple[NDArray[np.float32] | None, Calibration | None]:
        if self.target.precision != "int8":
            return None, None
        images = self.winner.images(self.winner.data.train, self.section.calibration_images, self.seed)
        return images, Calibration(digest=array_digest(images), images=len(images), split="train")

    def _accuracy(self, loaded: LoadedModel, steps: Steps, validation: float | None) -> Accuracy:
        winner, data, precision = self.winner, self.winner.data, self.target.precision
        steps(f"accuracy on {len(data.gate)} gate images")
        ours = torch_accuracy(winner.module, data.gate, winner.resolution)
        found = accuracy_on(self.session, loaded, data.gate, winner.resolution)
        counts = gate_counts(ours.right, found.right, self.section.max_int8_drop)
        if precision != "fp32":
            check_gate(counts, precision, self.section.max_int8_drop)
        test = None
        steps(f"accuracy on {len(data.test)} test images" if self.evaluate_test else "no test split asked for")
        if self.evaluate_test:
            test = accuracy_on(self.session, loaded, data.test, winner.resolution).score(self.metric)
        return Accuracy(
            metric=self.metric,
            data=data.name,
            data_digest=data.digest,
            validation=validation,
            gate=found.score(self.metric),
            fp32_gate=ours.score(self.metric),
            test=test,
            test_images=len(data.test) if self.evaluate_test else None,
            gate_counts=counts,
        )

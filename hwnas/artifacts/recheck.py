"""Checking an artifact again: digests, parity on its samples, latency, verdicts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.artifacts.manifest import Manifest, read_manifest
from hwnas.artifacts.package import check_files, model_files, unpack
from hwnas.artifacts.parity import compare_outputs, run_inputs
from hwnas.artifacts.records import BudgetEntry, Measured, OutputParity
from hwnas.artifacts.references import check_onnx_references
from hwnas.artifacts.samples import read_samples
from hwnas.artifacts.timing import judge, protocol_of
from hwnas.config import Budget
from hwnas.devices.fingerprint import int8_weight_bits, target_fingerprint
from hwnas.devices.models import LoadedModel, ModelFiles
from hwnas.errors import ArtifactError, ConfigError, MeasurementFailure
from hwnas.targets import Fingerprint, Target, find_device

if TYPE_CHECKING:
    from hwnas.devices.session import Session

ROUNDS = 30
COSINE_INT8 = 0.99
"""Smallest cosine to the outputs stored at export that int8 kernels of another processor may reach."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked; ``passed`` is None for a remark."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What a check of an artifact found.

    Attributes:
        target: What it was run and measured on.
        checks: In order; what came after a failure that stops everything is missing.
        parity: Output -> comparison on the stored samples.
        measured: The deciding measurement, if it came to that.
        budgets: Verdicts of this measurement.
    """

    target: str
    checks: tuple[Check, ...]
    parity: dict[str, OutputParity] = field(default_factory=dict)
    measured: Measured | None = None
    budgets: tuple[BudgetEntry, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Check, result, detail: one row each."""
        words = {True: "ok", False: "FAILED", None: "note"}
        return [(check.name, words[check.passed], check.detail) for check in self.checks]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "passed": self.passed,
            "target": self.target,
            "checks": [{"check": c.name, "passed": c.passed, "detail": c.detail} for c in self.checks],
            "parity": {name: entry.model_dump() for name, entry in self.parity.items()},
            "measured": self.measured.model_dump(mode="json") if self.measured else None,
            "budgets": [entry.model_dump() for entry in self.budgets],
        }


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Give the folder of an artifact; a zip is unpacked into a temporary one.

    Raises:
        ArtifactError: A zip that is not safe, or not intact.
    """
    if path.is_dir() or not path.exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="hwnas-artifact-") as temporary:
        folder = Path(temporary) / "artifact"
        unpack(path, folder)
        yield folder


def _target(manifest: Manifest, asked: Target | str | None) -> Target:
    own = Target.parse(manifest.target)
    target = Target.parse(asked) if isinstance(asked, str) else asked or own
    if (target.runtime, target.precision, target.batch) != (own.runtime, own.precision, own.batch):
        raise ConfigError(
            f"the artifact was made for {own}; it cannot be checked on {target}: runtime, precision and batch are in the "
            "file. Give another device or thread count only, or export again."
        )
    return target


def verify_artifact(
    folder: Path,
    *,
    target: Target | str | None = None,
    session: Session | None = None,
    rounds: int = ROUNDS,
) -> VerifyReport:
    """Check an artifact again; nothing is loaded before every file has the digest of the manifest.

    Args:
        folder: Artifact folder or zip.
        target: Where it is run and measured; its own target by default.
        session: Open session of the target's device; one is opened if None.
        rounds: Rounds of one latency measurement, at most.

    Returns:
        A report; a tampered file, failed parity or broken budget is a failed check in it, not an error.

    Raises:
        ArtifactError: ``folder`` is no artifact.
        ConfigError: ``target`` is not one the file can run on.
        DeviceError: The device cannot be reached.
    """
    if not folder.exists() or (folder.is_dir() and not (folder / "manifest.json").is_file()):
        raise ArtifactError(f"{folder} is no artifact: it holds no manifest.json. Give an artifact folder or its zip.")
    try:
        with opened(folder) as place:
            manifest = read_manifest(place)
            check_files(place, manifest)
            check_onnx_references(place, manifest)
            chosen = _target(manifest, target)
            intact = Check("files", True, f"{len(manifest.files)} files have the sha256 of the manifest")
            if session is not None:
                return _run(place, manifest, chosen, session, rounds, intact)
            from hwnas.devices.session import open_session

            with open_session(find_device(chosen.device)) as own:
                return _run(place, manifest, chosen, own, rounds, intact)
    except ArtifactError as error:
        return VerifyReport(str(target or ""), (Check("files", False, str(error)),))


def _run(
    folder: Path, manifest: Manifest, target: Target, session: Session, rounds: int, intact: Check
) -> VerifyReport:
    files = model_files(folder, manifest)
    checks = [intact]
    try:
        loaded = session.load(files, target)
    except MeasurementFailure as failure:
        return VerifyReport(str(target), (intact, Check("model", False, str(failure))))
    try:
        checks.append(_machine(manifest, target, session, loaded))
        parity = _parity(folder, manifest, session, loaded, checks)
    except (MeasurementFailure, ArtifactError) as failure:
        return VerifyReport(str(target), (*checks, Check("samples", False, str(failure))))
    finally:
        session.unload(loaded.handle)
    reference = manifest.canaries or None if checks[1].passed else None
    measured, budgets = _latency(manifest, target, session, files, rounds, checks, reference)
    return VerifyReport(str(target), tuple(checks), parity, measured, budgets)


def _machine(manifest: Manifest, target: Target, session: Session, loaded: LoadedModel) -> Check:
    here = target_fingerprint(session.hello(), target, loaded.runtime_version)
    stored = Fingerprint(manifest.fingerprint.identity, manifest.fingerprint.context)
    differences = stored.differences(here)
    if not differences:
        return Check("machine", True, "the machine and setting of the manifest")
    named = "; ".join(f"{key}: {str(old)[:60]} there, {str(new)[:60]} here" for key, (old, new) in differences.items())
    text = f"another machine or setting ({named}): verdicts below are for this one"
    if (manifest.quantisation or {}).get("weight_bits", 0) > int8_weight_bits(here.identity):
        text += ". Int8 weights of 8 bits may saturate on this processor: export for it"
    return Check("machine", None, text)


def _parity(
    folder: Path, manifest: Manifest, session: Session, loaded: LoadedModel, checks: list[Check]
) -> dict[str, OutputParity]:
    samples = read_samples(folder)
    found = run_inputs(session, loaded, samples["input"])
    result = {}
    for name, stored in manifest.parity.items():
        exact = stored.tolerance is not None
        reference = samples["torch" if exact else "output"].get(name, np.zeros(0))
        entry = compare_outputs(reference, found.get(name, np.zeros(1)), stored.tolerance)
        result[name] = entry
        if stored.tolerance is not None:
            passed = entry.relative_l2 <= stored.tolerance
            detail = (
                f"relative L2 to {manifest.parity_reference} {entry.relative_l2:.2e}, at most {stored.tolerance:.0e}"
            )
        else:
            passed = entry.cosine >= COSINE_INT8
            detail = f"cosine to the exported outputs {entry.cosine:.5f}, at least {COSINE_INT8}"
        checks.append(Check(f"samples {name}", passed, f"{detail} ({entry.images} samples)"))
    return result


def _latency(
    manifest: Manifest,
    target: Target,
    session: Session,
    files: ModelFiles,
    rounds: int,
    checks: list[Check],
    reference: Mapping[str, float] | None,
) -> tuple[Measured | None, tuple[BudgetEntry, ...]]:
    budgets: list[BudgetEntry] = []
    measured: Measured | None = None
    wanted = [Budget(max_ms=entry.max_ms, statistic=entry.statistic) for entry in manifest.budgets]
    for budget in (*wanted,) if wanted else (None,):
        try:
            measured, verdicts = judge(session, files, target, budget, protocol_of(rounds), reference)
        except MeasurementFailure as failure:
            checks.append(Check("latency", False, str(failure)))
            continue
        budgets += verdicts
        checks.append(_verdict_check(measured, verdicts))
    return measured, tuple(budgets)


def _verdict_check(measured: Measured, verdicts: tuple[BudgetEntry, ...]) -> Check:
    detail = f"{measured.value:.4g} {measured.unit}, interval {measured.low:.4g} to {measured.high:.4g}, grade {measured.grade}"
    if not verdicts:
        return Check(f"latency {measured.statistic}", None, f"{detail}, no budget")
    one = verdicts[0]
    tries = f"{one.tries} measurement{'s' if one.tries > 1 else ''}"
    return Check(
        f"latency {one.statistic}",
        one.verdict == "kept",
        f"{detail}, budget {one.max_ms:g} {measured.unit}: {one.verdict}, {tries}",
    )

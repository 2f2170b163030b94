"""Is a new artifact slower, or less accurate, than an old one, beyond noise?"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy import stats

from hwnas.artifacts.accuracy import accuracy_on
from hwnas.artifacts.duel import LOADS, NEW, OLD, ROUNDS, Duel, fight
from hwnas.artifacts.manifest import Manifest
from hwnas.artifacts.package import model_files, open_package
from hwnas.artifacts.recheck import opened
from hwnas.artifacts.references import check_onnx_references
from hwnas.devices.models import ModelFiles
from hwnas.errors import ConfigError
from hwnas.progress import Advance
from hwnas.targets import Target, find_device

if TYPE_CHECKING:
    from hwnas.datasets.data import ImageData

ALPHA = 0.05


@dataclass(frozen=True)
class AccuracyDuel:
    """How the accuracy of two files differs.

    Attributes:
        old: Share of images the older file gets right.
        new: Share of images the newer file gets right.
        images: Images.
        source: Where the answers come from, in words.
        test: Name of the test.
        p_value: One-sided: how likely so many more errors are, if the newer file is as good.
    """

    old: float
    new: float
    images: int
    source: str
    test: str
    p_value: float

    @property
    def verdict(self) -> str:
        """``less accurate`` if the p-value is below 5 %, else ``no loss shown``."""
        return "less accurate" if self.p_value < ALPHA else "no loss shown"


@dataclass(frozen=True)
class Comparison:
    """What a comparison of two artifacts found; ``accuracy`` is None, with the reason in ``note``, where nothing is known."""

    target: str
    latency: Duel
    accuracy: AccuracyDuel | None
    note: str = ""

    @property
    def worse(self) -> bool:
        """Whether the new artifact is slower or less accurate beyond noise."""
        return self.latency.verdict == "slower" or (
            self.accuracy is not None and self.accuracy.verdict == "less accurate"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        accuracy = None if self.accuracy is None else {**asdict(self.accuracy), "verdict": self.accuracy.verdict}
        latency = {**asdict(self.latency), "verdict": self.latency.verdict}
        return {
            "target": self.target,
            "worse": self.worse,
            "latency": latency,
            "accuracy": accuracy,
            "note": self.note,
        }


@dataclass(frozen=True)
class _Side:
    """One of the two artifacts, its files checked."""

    manifest: Manifest
    files: ModelFiles
    target: Target


def _side(stack: ExitStack, path: Path, asked: Target | None) -> _Side:
    folder = stack.enter_context(opened(path))
    manifest = open_package(folder)
    check_onnx_references(folder, manifest)
    own = Target.parse(manifest.target)
    target = own if asked is None else replace(own, device=asked.device, threads=asked.threads)
    return _Side(manifest, model_files(folder, manifest), target)


def _check_sides(old: _Side, new: _Side, asked: Target | None) -> None:
    settings = [(side.target.runtime, side.target.precision, side.target.batch) for side in (old, new)]
    if asked is not None and (asked.runtime, asked.precision, asked.batch) not in settings:
        raise ConfigError(
            f"--target {asked} is neither the old artifact's setting ({old.target}) nor the new one's ({new.target}). "
            "Give one of them, on the device to compare on."
        )
    first, second = ((one.device, one.threads, one.batch) for one in (old.target, new.target))
    if first != second:
        raise ConfigError(
            f"the artifacts belong to {old.target} and {new.target}: two devices, batches or numbers of threads "
            "cannot be compared. Name the device and threads to compare on: --target DEVICE/RUNTIME-PRECISION[-tN]."
        )


def _check_data(sides: tuple[_Side, _Side], data: ImageData) -> None:
    for side in sides:
        shape = side.manifest.inputs[0].shape
        if len(shape) != 4 or shape[1] != data.channels:
            raise ConfigError(
                f"the artifact {side.manifest.name} reads inputs of shape {shape}, the data have {data.channels} channel(s). "
                "Give the run file it was made from."
            )


def compare_artifacts(
    old: Path,
    new: Path,
    *,
    target: Target | None = None,
    data: ImageData | None = None,
    statistic: str = "p50",
    margin: float = 0.0,
    loads: int = LOADS,
    rounds: int = ROUNDS,
    seed: int = 0,
    on_progress: Advance | None = None,
) -> Comparison:
    """Compare two artifacts on one device; the files are checked before anything is loaded.

    Args:
        old: Artifact folder or zip.
        new: Artifact folder or zip; may have another runtime or precision.
        target: Device and threads to compare on; by default the artifacts' own, which must then agree.
        data: Compare the answers image by image on its gate split; by default the counts in the manifests are compared.
        statistic: ``p50``, ``p90`` or ``p99``.
        margin: By how much the new one may be slower, as a share.
        loads: Worker processes.
        rounds: Bursts of each file per process.
        seed: Of the order.
        on_progress: Told of each process: ``loads`` steps.

    Raises:
        ArtifactError: One of them is incomplete or was changed.
        ConfigError: They cannot be compared, or not on this target.
        MeasurementFailure: A file cannot be run.
        DeviceError: The device cannot be reached.
    """
    from hwnas.devices.session import open_session

    with ExitStack() as stack:
        first, second = _side(stack, old, target), _side(stack, new, target)
        _check_sides(first, second, target)
        if data is not None:
            _check_data((first, second), data)
        device = find_device(second.target.device)
        models = {OLD: (first.files, first.target), NEW: (second.files, second.target)}
        latency = fight(
            lambda: open_session(device),
            models,
            statistic=statistic,
            loads=loads,
            rounds=rounds,
            margin=margin,
            seed=seed,
            on_progress=on_progress,
        )
        if data is None:
            accuracy, note = _from_manifests(first.manifest, second.manifest)
        else:
            with open_session(device) as session:
                accuracy, note = _on_images(session, first, second, data), ""
    return Comparison(str(second.target), latency, accuracy, note)


def _from_manifests(old: Manifest, new: Manifest) -> tuple[AccuracyDuel | None, str]:
    """Compare the counts of right answers that the manifests keep of the same images."""
    mine, other = old.accuracy, new.accuracy
    if mine is None or other is None:
        return None, "accuracy not compared: an artifact has none. Give --data RUN.yaml to compare on its gate images"
    if mine.data_digest != other.data_digest:
        return None, "accuracy not compared: the artifacts know accuracies of different data"
    first, second = mine.gate_counts, other.gate_counts
    if first is None or second is None or first.images != second.images:
        return None, "accuracy not compared: the manifests keep no counts of the same gate images"
    table = [[second.images - second.correct, second.correct], [first.images - first.correct, first.correct]]
    p_value = float(stats.fisher_exact(table, alternative="greater").pvalue)
    count = first.images
    shares = first.correct / count, second.correct / count
    return AccuracyDuel(*shares, count, "counts in the manifests, gate images", "Fisher's exact test", p_value), ""


def _on_images(session: Any, old: _Side, new: _Side, data: ImageData) -> AccuracyDuel:
    """Run every gate image through both files and compare the answers image by image (McNemar's exact test)."""
    right = []
    for side in (old, new):
        loaded = session.load(side.files, side.target)
        right.append(accuracy_on(session, loaded, data.gate, loaded.inputs[0].shape[2]).right)
        session.unload(loaded.handle)
    lost, gained = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p_value = float(stats.binomtest(lost, lost + gained, alternative="greater").pvalue) if lost + gained else 1.0
    shares = float(right[0].mean()), float(right[1].mean())
    source = f"gate images of {data.name}: {lost} lost, {gained} gained"
    return AccuracyDuel(*shares, len(right[0]), source, "McNemar's exact test", p_value)

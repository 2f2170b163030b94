"""The public verbs. Each does what the command of the same name does, and returns plain records."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from hwnas import registry
from hwnas.config import (
    Budget,
    DataSection,
    ExportSection,
    ProfileSection,
    RunConfig,
    SpaceSection,
    apply_overrides,
    load_run_config,
    parse_section,
)
from hwnas.errors import ConfigError, DeviceError, ModelFileError, TableError
from hwnas.files import cache_home, read_json
from hwnas.targets import Device, Fingerprint, Target, find_device, load_devices, resolve_target, save_device

if TYPE_CHECKING:
    from hwnas.artifacts.comparing import Comparison
    from hwnas.artifacts.pipeline import Artifact
    from hwnas.artifacts.recheck import VerifyReport
    from hwnas.runs.check import Checked
    from hwnas.runs.fronts import Searched
    from hwnas.runs.pipeline import Summary
    from hwnas.runs.profiling import Fitted
    from hwnas.spaces.base import IntArray, SearchSpace

RUNS = Path("runs")
DEFAULT_SPACE = "mobilenetv3"
KERNEL_SPACE = "synthetic"
KERNEL_SIZES = ("profile.networks=400", "profile.held_out=60", "profile.budget_minutes=30")
REFRESH_SIZES = ("profile.networks=20", "profile.held_out=10")


@dataclass(frozen=True)
class Outcome:
    """What a stage of a run came to, ready to print.

    Attributes:
        title: One line.
        columns: Column names.
        rows: One tuple per line.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: one mapping per row."""
        return {"title": self.title, "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows]}


def load(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file; ``overrides`` are ``a.b=c`` strings.

    Raises:
        ConfigError: The file cannot be used; every problem is named.
    """
    return load_run_config(Path(path), overrides)


def _config(config: RunConfig | Path | str) -> RunConfig:
    return config if isinstance(config, RunConfig) else load(config)


def _space_and_profile(space: Any, overrides: Sequence[str]) -> tuple[SearchSpace[Any], ProfileSection]:
    """Read ``--space``: a registered name, a file with ``name`` and ``settings``, a run file, or a space; with overrides."""
    from hwnas.spaces.base import SearchSpace

    given = isinstance(space, SearchSpace)
    raw: dict[str, Any] = {} if given else {"space": {"name": str(space)}}
    path = Path(str(space))
    if not given and (path.suffix in (".yaml", ".yml") or path.is_file()):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"--space {space}: cannot be read ({error}).") from error
        if not isinstance(found, dict):
            raise ConfigError(f"--space {space}: expected a mapping with 'name' and 'settings', or a run file.")
        raw = found if "space" in found or "data" in found else {"space": found}
    raw = apply_overrides(raw, overrides)
    unknown = sorted(raw.keys() - ({"profile"} if given else RunConfig.model_fields.keys()))
    if unknown:
        raise ConfigError(
            f"unknown key {unknown[0]!r}; --set takes space.settings.KEY=VALUE and profile.KEY=VALUE here."
        )
    if given:
        return space, parse_section(ProfileSection, raw.get("profile", {}), "profile")
    section = parse_section(SpaceSection, raw.get("space", {}), f"{space}: space")
    section = _with_pretrained(section, raw.get("train"))
    seed = {"seed": raw["seed"]} if isinstance(raw.get("seed"), int) else {}
    profile_section = parse_section(ProfileSection, {**seed, **(raw.get("profile") or {})}, f"{space}: profile")
    settings = dict(section.settings)
    if "data" in raw and not {"classes", "in_channels"} <= settings.keys():
        from hwnas.datasets.data import load_data

        data = load_data(parse_section(DataSection, raw["data"], f"{space}: data"))
        settings = {"classes": len(data.classes), "in_channels": data.channels, **settings}
    return registry.load("space", section.name)(**settings), profile_section


def _with_pretrained(section: SpaceSection, train: Any) -> SpaceSection:
    """Return a run file's ``space`` with the settings of the pretrained supernet that its ``train`` names."""
    name = train.get("pretrained") if isinstance(train, dict) else None
    if name is None:
        return section
    from hwnas.zoo.entry import find_entry
    from hwnas.zoo.starting import with_settings

    return with_settings(section, find_entry(str(name)).card)


def profile(
    target: str,
    space: Any = DEFAULT_SPACE,
    *,
    precision: str | None = None,
    overrides: Sequence[str] = (),
    budget_minutes: float | None = None,
    interval: float | None = None,
    output: Path | None = None,
    refresh: bool = False,
    kernels: bool = False,
) -> Fitted:
    """Measure networks of a space on a target and fit the latency model; resumes.

    Args:
        target: ``DEVICE/RUNTIME-PRECISION[-tN][-bN]``.
        space: Name of a space, a YAML file with ``name`` and ``settings``, a run file, or a ``SearchSpace``.
        precision: Must agree with the target.
        overrides: ``space.settings.KEY=VALUE`` and ``profile.KEY=VALUE``.
        budget_minutes: Longest time for measuring.
        interval: Median half-width of the prediction intervals, as a share of the latency, at which measuring ends;
            ``profile.networks`` is then the most.
        output: Folder of table and model; the user's data folder by default.
        refresh: After an upgrade of the runtime: measure 20 networks and transfer the older table's model.
        kernels: Measure random networks instead of a space's, and fit the prices of kernels by which any model file is
            predicted.

    Raises:
        HwnasError: Target, space, device or runtime cannot be used.
    """
    wanted = resolve_target(target, precision)
    if kernels and refresh:
        raise ConfigError("--refresh transfers the model of a space; a kernel model is measured anew: leave it out.")
    if kernels and space not in (KERNEL_SPACE, DEFAULT_SPACE):
        raise ConfigError(
            f"--kernels measures random networks, not those of --space {space}: leave one of the two out."
        )
    if kernels:
        from hwnas.kernels.predictor import require_kernel_target

        require_kernel_target(wanted)
    sizes = KERNEL_SIZES if kernels else REFRESH_SIZES if refresh else ()
    resolved, section = _space_and_profile(KERNEL_SPACE if kernels else space, (*sizes, *overrides))
    if budget_minutes is not None:
        section = section.model_copy(update={"budget_minutes": budget_minutes})
    if interval is not None:
        section = section.model_copy(update={"interval": interval})
    if section.interval is not None and not 0 < section.interval < 1:
        raise ConfigError(f"--interval {interval} must lie between 0 and 1: 0.05 asks for 5 % to each side.")
    if section.interval is not None and (kernels or refresh):
        raise ConfigError("--interval is for the networks of a space: leave out --kernels and --refresh, or it.")
    if refresh:
        return _refresh(wanted, resolved, section, output)
    # Imported only now: a mistake above is to be told at once.
    from hwnas.latency.store import folder_name, user_root
    from hwnas.runs.profiling import profile_folder

    folder = output or user_root() / folder_name(wanted, resolved)
    return profile_folder(wanted, resolved, section, folder, find_device(wanted.device))


def _refresh(target: Target, space: SearchSpace[Any], section: ProfileSection, output: Path | None) -> Fitted:
    from hwnas.latency.comparing import diff
    from hwnas.latency.model import LatencyModel
    from hwnas.latency.networks import fingerprint_on
    from hwnas.latency.profiling import TABLE_FILE
    from hwnas.latency.store import find_outdated, folder_name, user_root
    from hwnas.latency.table import LatencyTable
    from hwnas.runs.profiling import profile_folder

    device = find_device(target.device)
    here = fingerprint_on(device, target)
    outdated = find_outdated(target, space, here)
    version = here.identity["runtime_version"]
    folder = output or user_root() / f"{folder_name(target, space)}-{target.runtime}-{version}"
    sources = [LatencyModel.load(outdated.model_folder, space)]
    fitted = profile_folder(target, space, section, folder, device, sources)
    return replace(fitted, moved=diff(outdated.load(), LatencyTable.load(folder / TABLE_FILE)))


def transfer_table(
    target: str,
    space: Any = DEFAULT_SPACE,
    *,
    sources: Sequence[Path] = (),
    networks: int = 20,
    held_out: int = 10,
    precision: str | None = None,
    overrides: Sequence[str] = (),
    output: Path | None = None,
) -> Fitted:
    """Make the latency model of a new target from models of other targets and a few measurements; resumes.

    Args:
        target: ``DEVICE/RUNTIME-PRECISION[-tN][-bN]``.
        space: As for :func:`profile`.
        sources: Folders of tables to transfer from; every table of this space that can be found by default.
        networks: Networks to measure and fit on, 10 or more.
        held_out: Networks to measure and judge by.
        precision: Must agree with the target.
        overrides: As for :func:`profile`.
        output: Folder of table and model; the user's data folder by default.

    Raises:
        TableError: There is nothing to transfer from.
        HwnasError: Target, space, device or runtime cannot be used.
    """
    from hwnas.latency.model import LatencyModel
    from hwnas.latency.networks import fingerprint_on
    from hwnas.latency.store import find_sources, folder_name, user_root
    from hwnas.runs.profiling import profile_folder

    wanted = resolve_target(target, precision)
    sizes = (f"profile.networks={networks}", f"profile.held_out={held_out}")
    fixed = [word for word in overrides if word.split("=")[0] in ("profile.networks", "profile.held_out")]
    if fixed:
        raise ConfigError(f"--set {fixed[0]}: a transfer takes --networks and --held-out instead.")
    resolved, section = _space_and_profile(space, (*overrides, *sizes))
    if not resolved.compositional:
        raise ConfigError(
            f"space {resolved.name} has no model to transfer; measure it: hwnas profile --kernels --target {wanted}"
        )
    device = find_device(wanted.device)
    here = fingerprint_on(device, wanted)
    found = find_sources(wanted, resolved, here, sources)
    if not found:
        raise TableError(
            f"there is no latency model of another target for space {resolved.name} (digest {resolved.digest[:12]}) to "
            f"transfer to {wanted} from. Profile one, or this target itself: hwnas profile --target {wanted}"
        )
    models = [LatencyModel.load(stored.model_folder, resolved) for stored in found]
    folder = output or user_root() / folder_name(wanted, resolved)
    return profile_folder(wanted, resolved, section, folder, device, models)


def fit(folder: Path, *, coverage: float = 0.9, seed: int = 0) -> Fitted:
    """Fit the latency model of a profile's folder again and evaluate it on the held-out networks.

    Raises:
        TableError: There is no table, it is damaged or too small.
    """
    from hwnas.latency.profiling import TABLE_FILE
    from hwnas.latency.store import read_header
    from hwnas.runs.profiling import fit_folder

    if not 0.5 < coverage < 1:
        raise ConfigError(f"--coverage {coverage:g} must lie between 0.5 and 1, for example 0.9.")
    header = read_header(Path(folder) / TABLE_FILE)
    space = registry.load("space", header.space)(**header.settings)
    return fit_folder(Path(folder), space, seed=seed, coverage=coverage)


def _encodings(words: Sequence[str], space: SearchSpace[Any]) -> list[tuple[str, IntArray]]:
    found: list[tuple[str, IntArray]] = []
    for word in words:
        if word in ("smallest", "largest"):
            found.append((word, space.encode(getattr(space, word))))
        elif word.split(":")[0] == "random":
            parts = word.split(":")[1:] or ["1"]
            if len(parts) > 2 or not all(part.isdigit() for part in parts) or int(parts[0]) < 1:
                raise ConfigError(f"{word!r} must read random:N or random:N:SEED with N of at least 1.")
            count, seed = int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
            rows = space.sample(np.random.default_rng(seed), count)
            found += [(space.id_of(row), row) for row in rows]
        elif all(gene.isdigit() for gene in word.split(",")):
            row = np.array([int(gene) for gene in word.split(",")], dtype=np.int64)
            space.check_bounds(row)
            found.append((space.id_of(row), space.repair(row[None])[0]))
        elif word.endswith(".json"):
            value = read_json(Path(word))
            if not isinstance(value, dict):
                raise ConfigError(f"{word} must hold one architecture as a JSON object.")
            row = space.encode(space.from_dict(value.get("architecture", value)))
            found.append((word, row))
        else:
            raise ConfigError(
                f"{word!r} is no architecture. Give smallest, largest, random:N, a comma-separated encoding of "
                f"{space.n_genes} genes, or a JSON file."
            )
    return found


def predict(
    architectures: Sequence[str],
    target: str,
    space: Any = DEFAULT_SPACE,
    *,
    precision: str | None = None,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Predict the latency of architectures on a target: ``value``, ``low``, ``high``, ``unit`` (and ``latency_ms``).

    Args:
        architectures: ``smallest``, ``largest``, ``random:N[:SEED]``, encodings as text, or JSON files; or ONNX files only,
            which are predicted kernel by kernel and have ``kernels`` (each with ``name``, ``kind``, ``value``, ``macs``) and
            ``overhead`` too.
        target: The target.
        space: As for :func:`profile`; not needed with ``folder``.
        precision: Must agree with the target.
        overrides: As for :func:`profile`.
        folder: Folder of a profile; looked up in the user's data folder and the shipped tables by default.

    Raises:
        TableError: No model fits this machine, target and space. The model of an imported table (:func:`import_rows`) fits
            its own target only, and no machine is asked.
    """
    from hwnas.latency.importing import is_imported
    from hwnas.latency.networks import fingerprint_on
    from hwnas.latency.predictor import LatencyPredictor
    from hwnas.latency.profiling import MODEL_FOLDER
    from hwnas.latency.store import require_table
    from hwnas.latency.transferred import load_model

    wanted = resolve_target(target, precision)
    files = [word for word in architectures if word.lower().endswith((".onnx", ".xml"))]
    if files and len(files) < len(architectures):
        raise ConfigError("give either ONNX files or architectures of a space, not both at once.")
    model: LatencyPredictor | None = None
    if folder is not None and not files:
        model = load_model(Path(folder) / MODEL_FOLDER)
    if model is not None and is_imported(model.fingerprint):
        _require_target(model.target, wanted, Path(folder or ""))
        here = model.fingerprint
    else:
        here = fingerprint_on(find_device(wanted.device), wanted)
    if files:
        return _predict_files([Path(file) for file in files], wanted, here, folder)
    if model is not None:
        model.require(here)
    else:
        resolved, _ = _space_and_profile(space, overrides)
        model = require_table(wanted, resolved, here).load_model(resolved)
    named = _encodings(architectures, model.space)
    prediction = model.predict(np.stack([row for _, row in named]))
    results = []
    for i, (name, row) in enumerate(named):
        entry: dict[str, Any] = {
            "architecture": name,
            "encoding": row.tolist(),
            "target": str(wanted),
            "value": float(prediction.value[i]),
            "low": float(prediction.low[i]),
            "high": float(prediction.high[i]),
            "unit": model.unit,
            "coverage": model.conformal.coverage,
            "in_distribution": not bool(prediction.out_of_distribution[i]),
        }
        if model.unit == "ms":
            entry["latency_ms"] = entry["value"]
        results.append(entry)
    return results


def _require_target(own: Target, wanted: Target, folder: Path) -> None:
    """Raise unless an imported table, which no machine can be compared with, is of the target asked for."""
    if own != wanted:
        raise TableError(f"{folder} holds an imported table of {own}, not of {wanted}. Give: --target {own}")


def _predict_files(
    paths: Sequence[Path], target: Target, here: Fingerprint, folder: Path | None
) -> list[dict[str, Any]]:
    from hwnas.kernels.batch import KernelBatch
    from hwnas.kernels.predictor import KernelPredictor, require_kernel_target
    from hwnas.kernels.reading import kernels_of_onnx
    from hwnas.latency.profiling import MODEL_FOLDER
    from hwnas.latency.store import require_kernel_table

    require_kernel_target(target)
    networks = []
    for path in paths:
        if path.suffix.lower() != ".onnx":
            raise ConfigError(f"{path}: kernels are read from ONNX files only. Give the .onnx file it was made from.")
        if not path.is_file():
            raise ModelFileError(f"{path} is not a file. Give an .onnx file.")
        networks.append(kernels_of_onnx(path, target.runtime, target.batch))
    place = Path(folder) / MODEL_FOLDER if folder is not None else require_kernel_table(target, here).model_folder
    predictor = KernelPredictor.load(place, here)
    batch = KernelBatch.of(networks)
    prediction, prices = predictor.predict(batch), predictor.model.prices(batch)
    results = []
    for i, (path, kernels) in enumerate(zip(paths, networks, strict=True)):
        own = prices[batch.owner == i]
        results.append(
            {
                "architecture": str(path),
                "target": str(target),
                "value": float(prediction.value[i]),
                "low": float(prediction.low[i]),
                "high": float(prediction.high[i]),
                "unit": predictor.unit,
                "coverage": predictor.model.conformal.coverage,
                "in_distribution": not bool(prediction.out_of_distribution[i]),
                "model": str(place.parent),
                "overhead": predictor.model.overhead,
                "kernels": [
                    {"name": kernel.name, "kind": kernel.kind, "value": float(price), "macs": kernel.macs}
                    for kernel, price in zip(kernels, own, strict=True)
                ],
            }
        )
        if predictor.unit == "ms":
            results[-1]["latency_ms"] = results[-1]["value"]
    return results


def _files_of(path: Path) -> Any:
    from hwnas.devices.models import ModelFiles

    if not path.is_file():
        raise ModelFileError(f"{path} is not a file. Give an .onnx file, or the .xml of an OpenVINO model.")
    if path.suffix == ".onnx":
        from hwnas.artifacts.references import external_files

        beside = [path.parent / name for name in external_files(path)]
        absent = [file.name for file in beside if not file.is_file()]
        if absent:
            raise ModelFileError(f"{path} keeps weights in {absent[0]!r}, which is not beside it. Copy both together.")
        return ModelFiles(path, tuple(beside))
    weights = path.with_suffix(".bin")
    return ModelFiles(path, (weights,) if path.suffix == ".xml" and weights.is_file() else ())


def measure(
    model: Path | str, target: str, *, precision: str | None = None, statistic: str = "p50", rounds: int = 40
) -> dict[str, Any]:
    """Measure the latency of a model file on a target by the protocol.

    Returns:
        ``value``, ``low``, ``high``, ``unit``, ``statistic``, ``percentiles``, ``floor``, ``grade``, ``disturbed``, ...

    Raises:
        ModelFileError: No such file, or the runtime cannot open it.
        MeasurementFailure: It crashed, hung, or would run on something else than asked.
    """
    from hwnas.devices.session import open_session
    from hwnas.errors import MeasurementFailure
    from hwnas.latency.measuring import measure_model
    from hwnas.latency.protocol import Protocol

    wanted, files = resolve_target(target, precision), _files_of(Path(model))
    if statistic not in ("p50", "p90", "p99"):
        raise ConfigError(f"--statistic {statistic!r} must be p50, p90 or p99.")
    if rounds < 5:
        raise ConfigError(f"--rounds {rounds} must be at least 5.")
    with open_session(find_device(wanted.device)) as session:
        result = measure_model(session, files, wanted, Protocol(rounds=rounds, min_rounds=min(8, rounds)), statistic)
    if result.failure is not None:
        raise MeasurementFailure(*result.failure)
    keys = ("value", "low", "high", "unit", "statistic", "percentiles", "floor", "mad", "count", "rounds", "grade")
    entry = {key: getattr(result, key) for key in keys}
    entry |= {"disturbed": list(result.disturbed), "target": str(wanted), "load_ms": result.load_ms}
    return entry | ({"latency_ms": result.value} if result.unit == "ms" else {})


def _pipeline(config: RunConfig | Path | str, runs: Path) -> Any:
    from hwnas.runs.pipeline import Pipeline
    from hwnas.runs.session import Run
    from hwnas.supernets.processes import asked_processes

    if asked_processes() > 1:
        raise ConfigError("torchrun is for hwnas train: of this command start one process, without torchrun.")
    return Pipeline(Run(_config(config), Path(runs)))


def check(config: RunConfig | Path | str, *, runs: Path = RUNS) -> Checked:
    """Say what a run would do, how long, and whether its budgets can be kept, without doing it."""
    from hwnas.runs.check import check_run

    return check_run(_config(config), Path(runs))


def train(config: RunConfig | Path | str, *, runs: Path = RUNS) -> Outcome:
    """Train the supernet of a run; resumes. Under ``torchrun`` all processes train together."""
    from hwnas.runs.together import train_together

    config = _config(config)
    report = train_together(config, Path(runs))
    rows: list[tuple[Any, ...]] = [("steps", f"{report.steps} of {report.steps_total}"), ("seconds", report.seconds)]
    for phase in report.phases:
        rows += [(f"after phase {phase['name']}, {name}", value) for name, value in phase.get("accuracies", {}).items()]
    rows += [(f"validation accuracy, {name}", value) for name, value in report.accuracies.items()]
    rows += [("device", report.device)] if report.device else []
    rows += [("note", report.note)] if report.note else []
    return Outcome(f"supernet in {Path(runs) / config.name / 'supernet'}", ("what", "value"), rows)


def search(config: RunConfig | Path | str, *, runs: Path = RUNS) -> Searched:
    """Search under the budgets of a run; profiles and trains first if that is missing; resumes."""
    from hwnas.runs.fronts import read_searched

    pipeline = _pipeline(config, runs)
    with pipeline.run.folder.lock():
        _, picks = pipeline.picked()
        return read_searched(pipeline.run, picks)


def finetune(config: RunConfig | Path | str, *, runs: Path = RUNS) -> Outcome:
    """Fine-tune the winners of a run's search; what comes before is done first if missing."""
    pipeline = _pipeline(config, runs)
    with pipeline.run.folder.lock():
        _, winners = pipeline.finetuned()
    rows = [
        (name, winner.epochs, winner.extracted_accuracy, winner.validation_accuracy) for name, winner in winners.items()
    ]
    columns = ("architecture", "epochs", "validation accuracy before", "after")
    return Outcome(f"winners in {pipeline.run.folder.path / 'winners'}", columns, rows)


def run(config: RunConfig | Path | str, *, runs: Path = RUNS) -> Summary:
    """Do everything a run file asks for; the same call resumes."""
    pipeline = _pipeline(config, runs)
    with pipeline.run.folder.lock():
        summary: Summary = pipeline.reported()
    return summary


def export(
    source: str,
    *,
    target: str | None = None,
    precision: str | None = None,
    output: Path | None = None,
    max_ms: float | None = None,
    input_shape: str | None = None,
    samples: Path | None = None,
    overrides: Sequence[str] = (),
    runs: Path = RUNS,
) -> list[Artifact]:
    """Export for a target and verify the files.

    Args:
        source: A run file, a winner's folder inside a run folder, an ONNX file, or ``pkg.mod:function`` that returns a
            torch module.
        target: The target; needed unless ``source`` is a run file.
        precision: Must agree with the target.
        output: Folder the artifacts go into.
        max_ms: Budget where there is no run file.
        input_shape: Input of a torch module, batch first, for example ``1,3,224,224``.
        samples: ``.npy`` file of real inputs ``[n, ...]`` of an ONNX file or module, preprocessed; int8 needs them.
        overrides: Overrides of a run file.
        runs: Folder of run folders, for a run file.

    Raises:
        ConfigError: Something needed is not given.
        ArtifactError: Parity failed.
    """
    path = Path(source)
    wanted = resolve_target(target, precision) if target is not None else None
    if path.suffix in (".yaml", ".yml"):
        if max_ms is not None or input_shape is not None or samples is not None:
            raise ConfigError(
                "--max-ms, --input-shape and --samples belong to sources without a run file; set budgets in the run file."
            )
        pipeline = _pipeline(load(path, overrides), runs)
        if wanted is not None and wanted not in pipeline.run.targets:
            raise ConfigError(
                f"{wanted} is not a target of {source}; its targets: {', '.join(map(str, pipeline.run.targets))}."
            )
        with pipeline.run.folder.lock():
            artifacts: list[Artifact] = pipeline.exported(output, wanted)
        return artifacts
    if wanted is None:
        raise ConfigError(f"exporting {source} needs --target, for example --target local/onnxruntime-fp32.")
    if overrides:
        raise ConfigError("--set changes a run file; the source is none.")
    budget = parse_section(Budget, {"max_ms": max_ms}, "--max-ms") if max_ms is not None else None
    from hwnas.runs.outside import export_given, export_winner_folder, read_inputs

    if path.is_dir():
        if samples is not None:
            raise ConfigError("--samples belongs to models of your own; a winner is calibrated with its run's images.")
        return [export_winner_folder(path, wanted, output, budget)]
    shape, inputs = _shape(input_shape), None if samples is None else read_inputs(samples)
    return [export_given(source, wanted, output or Path("artifacts"), budget, shape, inputs, ExportSection())]


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--input-shape {text!r} must be positive numbers with commas, for example 1,3,224,224.")
    return tuple(int(part) for part in parts)


def verify(artifact: Path | str, *, target: str | None = None) -> VerifyReport:
    """Check an artifact again: digests, parity on its samples, latency on the target, budgets."""
    from hwnas.artifacts.recheck import verify_artifact

    return verify_artifact(Path(artifact), target=target)


def compare(
    old: Path | str,
    new: Path | str,
    *,
    target: str | None = None,
    data: RunConfig | Path | str | None = None,
    statistic: str = "p50",
    margin: float = 0.0,
    loads: int = 8,
    rounds: int = 6,
) -> Comparison:
    """Say whether a new artifact is slower or less accurate than an old one, beyond noise.

    Args:
        old: Artifact folder or zip.
        new: Artifact folder or zip.
        target: Device and threads to compare on; by default the artifacts' own.
        data: Run file (or its config) whose gate images are answered by both; by default the manifests' counts are compared.
        statistic: ``p50``, ``p90`` or ``p99``.
        margin: By how much the new one may be slower, as a share.
        loads: Fresh worker processes.
        rounds: Bursts of each file in each process.

    Raises:
        ArtifactError: One of them is incomplete or was changed.
        ConfigError: They cannot be compared.
    """
    from hwnas.artifacts.comparing import compare_artifacts
    from hwnas.datasets.data import load_data
    from hwnas.progress import progress_bar

    images = None if data is None else load_data(_config(data).data)
    with progress_bar("comparing", loads) as advance:
        return compare_artifacts(
            *(Path(old), Path(new)),
            target=None if target is None else Target.parse(target),
            data=images,
            statistic=statistic,
            margin=margin,
            loads=loads,
            rounds=rounds,
            on_progress=advance,
        )


def report(run_folder: Path | str) -> Path:
    """Write the HTML report of a run folder."""
    from hwnas.reporting.html import write_report

    return write_report(Path(run_folder))


def _greet(device: Device) -> dict[str, Any]:
    from hwnas.devices.session import open_session

    try:
        with open_session(device) as session:
            info = session.hello(probe=True)
    except DeviceError as error:
        return {"identity": {}, "context": {}, "runtimes": {}, "limits": [], "error": str(error)}
    return {
        "identity": info.identity,
        "context": info.context,
        "runtimes": {name: asdict(status) for name, status in info.runtimes.items()},
        "limits": list(info.limits),
        "error": "",
    }


def devices() -> dict[str, dict[str, Any]]:
    """Greet every known device: fingerprint, runtimes, and what installs a missing one."""
    return {name: _greet(device) for name, device in load_devices().items()}


def add_device(
    name: str,
    *,
    ssh: str | None = None,
    command: str | None = None,
    python: str = "",
    port: int | None = None,
    identity_file: Path | None = None,
) -> Mapping[str, Any]:
    """Greet a device over ssh or a command prefix, and remember it if it answers.

    Raises:
        ConfigError: Neither or both of ``ssh`` and ``command``.
        DeviceError: It does not answer as the agent would.
    """
    if (ssh is None) == (command is None):
        raise ConfigError("give exactly one of --ssh USER@HOST and --command 'PREFIX ...'.")
    options = {"port": str(port)} if port is not None else {}
    if identity_file is not None:
        options["identity_file"] = str(identity_file)
    device = Device(
        name,
        transport="ssh" if ssh else "command",
        address=ssh or "",
        command=tuple(shlex.split(command or "")),
        python=python,
        options=options,
    )
    greeting = _greet(device)
    if greeting["error"]:
        raise DeviceError(f"{name} was not added: {greeting['error']}")
    save_device(device)
    return greeting


def backends() -> dict[str, dict[str, Any]]:
    """Return what every backend makes and whether it can work here: name -> precisions, state, environment."""
    return {name: _backend_state(name) for name in registry.names("backend")}


def _backend_state(name: str) -> dict[str, Any]:
    backend = registry.load("backend", name)()
    recipe = getattr(backend, "recipe", None)
    report: dict[str, Any] = {"precisions": list(backend.precisions), "ready": True, "state": "ready"}
    reason = backend.available()
    if reason is not None:
        report |= {"ready": False, "state": reason}
    elif recipe is not None:
        report |= {"environment": str(recipe.folder), "size_bytes": recipe.size_bytes, "ready": recipe.ready}
        size = f"{report['size_bytes'] / 1e9:.1f} GB" if recipe.ready else f"{recipe.size_gb:g} GB"
        report["state"] = (
            f"ready, {size} in its own environment"
            if recipe.ready
            else f"its environment ({size}) is made on first use, or with: hwnas backends install {name}"
        )
    return report


def install_backend(name: str) -> dict[str, Any]:
    """Make the environment of a backend's converter unless it is there; returns what :func:`backends` says of it.

    Raises:
        ConfigError: No such backend, or one that needs packages in the user's own environment.
        ConversionError: pip failed; the message ends with what it said.
        StorageError: Too little room.
    """
    from hwnas.environments.recipe import install

    backend = registry.load("backend", name)()
    recipe = getattr(backend, "recipe", None)
    if recipe is None:
        raise ConfigError(f"backend {name} has no environment of its own; its packages: {backend.install or 'none'}")
    install(recipe)
    return _backend_state(name)


def remove_backend(name: str) -> int:
    """Delete the environments of a backend's converter, those of other torch versions too; returns the bytes freed.

    Raises:
        ConfigError: No such backend, or one without an environment of its own.
    """
    from hwnas.environments.recipe import remove

    recipe = getattr(registry.load("backend", name), "recipe", None)
    if recipe is None:
        raise ConfigError(f"backend {name} has no environment of its own, so there is nothing to remove.")
    return remove(recipe.name)


def check_backend(name: str, device: str = "local") -> dict[str, dict[str, Any]]:
    """Try a backend on a device: a small trained network is exported, run, compared with torch and timed.

    Returns:
        Precision -> ``works``, ``failure`` (why not, else empty), ``error``, ``same_class``, ``median``, ``kernels``, ...
        (:func:`hwnas.testing.selfcheck.check_backend`).

    Raises:
        ConfigError: No such backend or device.
        MissingRuntimeError: The device does not have the runtime.
        DeviceError: The device cannot be reached.
    """
    from hwnas.devices.session import open_session
    from hwnas.testing import selfcheck

    backend = registry.load("backend", name)()
    with open_session(find_device(device)) as session:
        return selfcheck.check_backend(backend, session)


def list_tables(folder: Path | None = None) -> list[dict[str, Any]]:
    """List latency tables of a folder, of the user, and those shipped."""
    from hwnas.latency.profiling import TABLE_FILE
    from hwnas.latency.store import list_tables as stored_tables
    from hwnas.latency.store import read_header

    named = (
        [(str(folder), path, read_header(path)) for path in sorted(Path(folder).rglob(TABLE_FILE))] if folder else []
    )
    found, _ = stored_tables()
    named += [(stored.place, stored.path, stored.header) for stored in found]
    return [
        {
            "target": str(header.target),
            "space": f"{header.space}-{header.space_digest[:12]}",
            "networks": sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line) - 1,
            "machine": header.fingerprint.identity.get("cpu_model", ""),
            "from": place,
            "folder": str(path.parent),
        }
        for place, path, header in named
    ]


def show_table(folder: Path) -> dict[str, Any]:
    """Describe the table in a folder."""
    from hwnas.latency.profiling import TABLE_FILE
    from hwnas.latency.store import describe
    from hwnas.latency.table import LatencyTable

    described = describe(LatencyTable.load(Path(folder) / TABLE_FILE))
    evaluation = Path(folder) / "evaluation.json"
    if evaluation.exists():
        stored = read_json(evaluation)
        described |= {"model": stored["metrics"], "baselines": stored["baselines"]}
        described |= {name: stored[name] for name in ("sources", "curve") if stored.get(name)}
    return described


def diff_tables(first: Path, second: Path) -> dict[str, Any]:
    """Compare two tables of one space network by network."""
    from hwnas.latency.comparing import diff
    from hwnas.latency.profiling import TABLE_FILE
    from hwnas.latency.table import LatencyTable

    return diff(LatencyTable.load(Path(first) / TABLE_FILE), LatencyTable.load(Path(second) / TABLE_FILE))


def merge_tables(first: Path, second: Path, output: Path) -> dict[str, Any]:
    """Merge two tables of one target and machine into ``output``."""
    from hwnas.latency.profiling import TABLE_FILE
    from hwnas.latency.store import merge_files

    merged = merge_files([Path(first) / TABLE_FILE, Path(second) / TABLE_FILE], Path(output) / TABLE_FILE)
    return {"networks": len(merged.rows), "folder": str(output)}


def import_rows(
    rows: Path,
    target: str,
    space: Any = DEFAULT_SPACE,
    *,
    machine: str,
    runtime_version: str | None = None,
    held_out: float = 0.2,
    coarse: bool = False,
    column: str | None = None,
    architectures: Path | None = None,
    networks: int | None = None,
    unit: str = "ms",
    precision: str | None = None,
    overrides: Sequence[str] = (),
    output: Path | None = None,
) -> Fitted:
    """Make table and latency model of networks that another program measured.

    Args:
        rows: File with one network a line: ``encoding`` or ``architecture``, ``latency_ms``, perhaps ``low_ms`` and
            ``high_ms``; or an ``.npz`` file of columns as HELP has them for Once-for-All's networks; or Once-for-All's
            lookup tables of blocks, a YAML file or a folder of them, from which networks are composed.
        target: What they were measured on; neither device nor runtime need exist here.
        space: As for :func:`profile`.
        machine: The machine they were measured on, in words.
        runtime_version: Version of the runtime, if known.
        held_out: Share of the networks that only judge the model.
        coarse: Whether to take latencies that are whole multiples of a coarse clock's tick.
        column: Column of an ``.npz`` file.
        architectures: JSON file that names the networks of its columns; ``X_arch.json`` beside ``X_latency.npz`` by default.
        networks: Most networks to take of a file, or how many to compose of a table of blocks (300).
        unit: ``ms``, ``us`` or ``s``; lines of networks are always in milliseconds.
        precision: Must agree with the target.
        overrides: As for :func:`profile`.
        output: Folder of table and model, which must not exist; in the user's data folder by default.

    Raises:
        TableError: The file cannot be used; the line or entry is named. Nothing is written.
        RunFolderError: There is something in the folder already.
    """
    wanted = resolve_target(target, precision)
    resolved, section = _space_and_profile(space, overrides)
    from hwnas.latency.importing import IMPORTED, Reading, complete_folder, import_table, require_new
    from hwnas.latency.store import folder_name, user_root

    # A name of its own: a profile of the same target must not take this table for its own and measure nothing.
    folder = Path(output) if output else user_root() / f"{folder_name(wanted, resolved)}-imported"
    require_new(folder)
    table = import_table(
        Path(rows),
        wanted,
        resolved,
        machine=machine,
        runtime_version=runtime_version,
        held_out=held_out,
        coarse=coarse,
        seed=section.seed,
        reading=Reading(column, Path(architectures) if architectures else None, networks, unit),
    )
    # Imported only now: a mistake above is to be told at once.
    from hwnas.latency.profiling import TABLE_FILE
    from hwnas.runs.profiling import fit_folder

    notes = (
        *table.header.session[IMPORTED].get("notes", ()),
        f"predict by it with: hwnas predict ARCHITECTURE --target {wanted} --model {shlex.quote(str(folder))}",
    )
    with complete_folder(folder) as made:
        table.save(made / TABLE_FILE)
        fitted = fit_folder(made, resolved, seed=section.seed, coverage=section.coverage, notes=notes)
    return replace(fitted, folder=folder)


def list_zoo() -> tuple[list[dict[str, Any]], list[str]]:
    """List pretrained supernets: the user's own, and those shipped; and say which cannot be read."""
    from hwnas.zoo.entry import list_entries

    entries, problems = list_entries()
    return [
        {
            "name": entry.name,
            "data": entry.card.data.name,
            "classes": len(entry.card.data.classes),
            "space": f"{entry.card.space.name}-{entry.card.space.digest[:12]}",
            "parameters": entry.card.parameters,
            "size_bytes": entry.card.size_bytes,
            "smallest": entry.card.accuracy_of("smallest"),
            "largest": entry.card.accuracy_of("largest"),
            "minutes": entry.card.training.seconds / 60,
            "from": entry.place,
            "folder": str(entry.folder),
        }
        for entry in entries
    ], problems


def check_zoo(name: str | None = None) -> list[dict[str, Any]]:
    """Check the digests of an entry (by name or folder), or of all: ``name``, ``folder``, ``problems``.

    Raises:
        ConfigError: There is no such entry.
    """
    from hwnas.zoo.entry import check_entries

    return [
        {"name": checked.name, "folder": str(checked.folder), "problems": list(checked.problems)}
        for checked in check_entries(name)
    ]


def cache_contents() -> dict[str, Any]:
    """Return the cache folder and the size of each entry, bytes."""
    home = cache_home()
    sizes = {
        entry.name: sum(path.stat().st_size for path in [entry, *entry.rglob("*")] if path.is_file())
        for entry in sorted(home.iterdir() if home.is_dir() else [])
    }
    return {"folder": str(home), "size_bytes": sizes}


def clear_cache(name: str | None = None) -> int:
    """Delete one entry of the cache, or all; returns the bytes freed.

    Raises:
        ConfigError: No such entry.
    """
    import shutil

    contents = cache_contents()
    names = list(contents["size_bytes"]) if name is None else [name]
    if name is not None and name not in contents["size_bytes"]:
        raise ConfigError(
            f"the cache has no entry {name!r}; it holds: {', '.join(contents['size_bytes']) or 'nothing'}."
        )
    for entry in names:
        path = cache_home() / entry
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sum(int(contents["size_bytes"][entry]) for entry in names)

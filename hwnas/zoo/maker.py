"""How an entry is made of a run: weights in half precision, their accuracies measured again, a card, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hwnas.config import RunConfig, load_run_config
from hwnas.datasets.data import ImageData, load_data
from hwnas.errors import ConfigError
from hwnas.files import explain_os_errors, read_json, write_json
from hwnas.supernets.checkpoints import STATE
from hwnas.supernets.storage import load_supernet, load_tensors
from hwnas.supernets.threads import use_threads
from hwnas.supernets.training import REPORT, TrainReport
from hwnas.zoo.card import CARD, FORMAT, NAME, Card, DataFacts, SpaceFacts, TrainingFacts
from hwnas.zoo.entry import Entry, shipped_root, user_root
from hwnas.zoo.measuring import measure_accuracies
from hwnas.zoo.readme import write_readme
from hwnas.zoo.starting import SPLIT_KEYS
from hwnas.zoo.weights import halved, read_files, write_weights
from hwnas_profilers import fingerprint

LIMIT_MB = 30.0
"""Most megabytes of all entries in one folder, so that package and repository stay small."""


@dataclass(frozen=True)
class _Trained:
    """A finished training."""

    folder: Path
    config: RunConfig
    report: TrainReport


def add_entry(
    run_folder: Path,
    name: str,
    *,
    note: str = "",
    output: Path | None = None,
    randoms: int = 8,
    limit_mb: float = LIMIT_MB,
    replace: bool = False,
) -> Entry:
    """Make an entry of a run's trained supernet.

    Args:
        run_folder: ``runs/NAME`` with ``run.yaml`` and ``supernet/``.
        name: Name of the entry.
        note: A sentence for the card.
        output: Folder of entries; the user's own by default.
        randoms: Random networks to measure beside the largest and the smallest.
        limit_mb: Most megabytes of all entries of that folder together.
        replace: Whether an entry of that name gives way.

    Raises:
        ConfigError: The training is not finished, the name is taken or no name, the data is another than that of the
            training, or the entries would become too large. Nothing is written.
        HwnasError: Run folder or data cannot be read.
    """
    root = user_root() if output is None else Path(output)
    _require_name(name, root, replace)
    trained = _read_run(Path(run_folder))
    data = load_data(trained.config.data)
    _require_data(trained, data)
    supernet = load_supernet(trained.folder)
    use_threads(supernet.space, trained.config.train.batch_size, trained.config.threads)
    with whole_folder(root / name) as made:
        weights = write_weights(made, halved(supernet.state_dict()))
        _require_room(root, name, sum(weight.size_bytes for weight in weights), limit_mb)
        load_tensors(supernet, read_files(made, weights), made)
        card = Card(
            format=FORMAT,
            name=name,
            note=note,
            supernet=supernet.name,
            parameters=sum(parameter.numel() for parameter in supernet.parameters()),
            weights=weights,
            space=SpaceFacts(
                name=supernet.space.name, settings=supernet.space.settings(), digest=supernet.space.digest
            ),
            data=_data_facts(data, trained.config),
            training=_training_facts(trained),
            accuracies=measure_accuracies(
                supernet,
                data,
                bn_images=trained.config.train.bn_images,
                count=randoms,
                seed=trained.config.train.seed,
            ),
        )
        write_json(made / CARD, card.model_dump(mode="json"))
        write_readme(made, card)
    return Entry(root / name, card, "user" if output is None else "folder")


def _require_name(name: str, root: Path, replace: bool) -> None:
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{name!r} is no name of an entry: use letters, digits, '_', '.' and '-', a letter or digit first."
        )
    taken = [folder for folder in (root / name, shipped_root() / name) if folder.exists()]
    if taken and not replace:
        raise ConfigError(f"the zoo has an entry {name!r} already: {taken[0]}. Take another name, or --replace.")


def _read_run(run_folder: Path) -> _Trained:
    config = load_run_config(run_folder / "run.yaml")
    folder = run_folder / "supernet"
    if not (folder / REPORT).is_file():
        raise ConfigError(
            f"{run_folder} holds no trained supernet ({folder.name}/{REPORT}). Train it: hwnas train RUN.yaml"
        )
    try:
        report = TrainReport(**read_json(folder / REPORT))
    except TypeError as error:
        raise ConfigError(f"{folder / REPORT} is not the record of a training ({error}). Restore it.") from error
    if not report.complete:
        raise ConfigError(
            f"the training in {run_folder} is not finished: {report.steps} of {report.steps_total} steps. Give it more "
            "time (train.time_budget_minutes) and go on: hwnas train RUN.yaml"
        )
    if not report.steps:
        raise ConfigError(
            f"the supernet in {run_folder} was not trained there, it is {config.train.pretrained!r} of the zoo. Give "
            "train.phases to train on from it, or share that entry's own folder."
        )
    return _Trained(folder, config, report)


def _require_data(trained: _Trained, data: ImageData) -> None:
    """Raise unless ``data`` is what the run's last checkpoint says it was trained on."""
    state = read_json(trained.folder / STATE)
    if state["identity"]["data"] != data.digest:
        raise ConfigError(
            f"data.source={trained.config.data.source!r} now gives other images or splits than those the supernet in "
            f"{trained.folder} was trained on, so accuracies would not be its own. Bring the former data back."
        )


def _require_room(root: Path, name: str, size_bytes: int, limit_mb: float) -> None:
    others = sum(path.stat().st_size for path in root.glob("*/*.safetensors") if path.parent.name != name)
    total = (others + size_bytes) / 1e6
    if total > limit_mb:
        raise ConfigError(
            f"with {name!r} ({size_bytes / 1e6:.1f} MB) the entries in {root} would hold {total:.1f} MB, more than "
            f"{limit_mb:g}. Train a smaller space, delete another entry, or raise --limit-mb for a folder of your own."
        )


def _data_facts(data: ImageData, config: RunConfig) -> DataFacts:
    section = config.data.model_dump(mode="json")
    return DataFacts(
        name=data.name,
        digest=data.digest,
        classes=data.classes,
        sizes=data.sizes,
        split={key: section[key] for key in (*SPLIT_KEYS, "max_train")},
        augment=data.augment,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        preprocessing=data.preprocessing(data.image_size),
    )


def _training_facts(trained: _Trained) -> TrainingFacts:
    recipe = trained.config.train.model_dump(mode="json")
    if recipe.get("pretrained"):
        recipe["pretrained"] = Path(recipe["pretrained"]).name  # an entry's path is this machine's affair
    return TrainingFacts(
        recipe=recipe,
        phases=trained.report.phases,
        steps=trained.report.steps,
        seconds=trained.report.seconds,
        seed=trained.config.train.seed,
        machine={"cpu_model": fingerprint.identity()["cpu_model"], "cores": os.cpu_count() or 1},
        versions={"python": platform.python_version(), **{name: version(name) for name in ("hwnas", "torch", "numpy")}},
    )


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder; when the block succeeds it becomes ``folder``, in the place of one that was there.

    Raises:
        StorageError: It cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with explain_os_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)))
            made = work / folder.name
            made.mkdir()
        yield made
        with explain_os_errors(folder):
            former = folder.rename(work / "former") if folder.exists() else None
            try:
                made.rename(folder)
            except OSError:
                if former is not None:
                    former.rename(folder)
                raise

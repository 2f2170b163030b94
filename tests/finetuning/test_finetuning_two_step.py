"""Two-step fine-tuning: E* and re-extracted weights, an untouched test split, resume, refusal of what does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning_support import Stop, states_equal, stop_at
from torch import nn

from hwnas.config import FinetuneSection
from hwnas.datasets.data import ImageData
from hwnas.datasets.split import Split
from hwnas.errors import ConfigError, ModelFileError, RunFolderError, SpaceError
from hwnas.finetuning import loop, two_step
from hwnas.finetuning.loop import EpochRecord
from hwnas.finetuning.two_step import best_epoch, finetune, out_of_patience
from hwnas.finetuning.winner import Winner, load_winner
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.calibration import recalibrate_bn
from hwnas.supernets.evaluation import evaluate_module
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet

SECTION = FinetuneSection(epochs=4, patience=4, batch_size=16, learning_rate=1e-2)


class ForbiddenSplit(Split):
    """A split that must not be read."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a forbidden split was asked for")

    def __len__(self) -> int:
        raise AssertionError("the length of a forbidden split was asked for")


def forbid(split: Split) -> Split:
    return ForbiddenSplit(split.name, split.pool, split.pool_labels, split.rows, split.preprocess)


def records(values: list[tuple[float, float]]) -> list[EpochRecord]:
    return [EpochRecord(epoch, None, loss, accuracy) for epoch, (loss, accuracy) in enumerate(values)]


@pytest.fixture(scope="module")
def finished(
    data: ImageData, space: MobileNetV3Space, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Winner, MobileNetV3Supernet, Path]:
    supernet = MobileNetV3Supernet(space, seed=3)
    folder = tmp_path_factory.mktemp("finished") / "winner"
    return finetune(supernet, space.smallest, data, SECTION, folder), supernet, folder


def test_best_epoch_is_the_first_of_the_best() -> None:
    assert best_epoch(records([(1, 0.5), (0.9, 0.7), (0.8, 0.7), (0.7, 0.6)])) == 1
    assert best_epoch(records([(1, 0.5), (2, 0.4)])) == 0


def test_patience_counts_epochs_since_the_lowest_loss() -> None:
    losses = records([(1.0, 0), (0.8, 0), (0.9, 0), (0.85, 0)])
    assert out_of_patience(losses, 2)
    assert not out_of_patience(losses, 3)
    assert not out_of_patience(records([(1.0, 0)]), 1)


def test_fine_tuning_learns_and_leaves_the_supernet_alone(
    data: ImageData, finished: tuple[Winner, MobileNetV3Supernet, Path], space: MobileNetV3Space
) -> None:
    winner, supernet, _ = finished
    assert states_equal(supernet, MobileNetV3Supernet(space, seed=3))
    assert winner.validation_accuracy > winner.extracted_accuracy + 0.2
    assert winner.epochs == best_epoch(list(winner.history))
    assert evaluate_module(winner.module, data.validation) > 0.5
    assert not winner.module.training


def test_step_two_starts_from_the_supernet_and_trains_e_star_epochs_on_train_and_validation(
    data: ImageData, finished: tuple[Winner, MobileNetV3Supernet, Path], space: MobileNetV3Space
) -> None:
    """Item 11 of the contract, by doing step 2 again with nothing but torch and the published schedule."""
    winner, supernet, _ = finished
    assert len(winner.final_history) == winner.epochs > 0
    module = supernet.extract(space.smallest)
    recalibrate_bn(module, data.train.batches(two_step.BN_BATCH, 8))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in module.parameters() if p.dim() > 1]},
            {"params": [p for p in module.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=SECTION.learning_rate,
        weight_decay=SECTION.weight_decay,
    )
    both = data.train.joined(data.validation)
    assert len(both) == len(data.train) + len(data.validation)
    steps = both.steps(SECTION.batch_size)
    low = loop.FINAL_SHARE
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: low + (1 - low) * (1 + math.cos(math.pi * n / (SECTION.epochs * steps))) / 2
    )
    module.train()
    for epoch in range(1, winner.epochs + 1):
        seed = loop.epoch_seed(SECTION.seed, 2, epoch)
        for images, labels in both.batches(SECTION.batch_size, 8, augment="shift", shuffle_seed=seed):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images), labels).backward()
            optimizer.step()
            schedule.step()
    ours, theirs = winner.module.state_dict(), module.state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


def test_e_star_decides_how_long_step_two_lasts(
    data: ImageData, supernet: MobileNetV3Supernet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([(3.0, 0.1), (2.0, 0.5), (2.1, 0.8), (2.2, 0.4), (0.0, 0.9)])
    monkeypatch.setattr(two_step, "validate", lambda *_: next(figures))
    section = SECTION.model_copy(update={"epochs": 9, "patience": 2})
    winner = finetune(supernet, supernet.space.smallest, data, section, folder)
    assert [record.epoch for record in winner.history] == [0, 1, 2, 3]  # stopped: the loss rose twice
    assert winner.epochs == 2
    assert [record.epoch for record in winner.final_history] == [1, 2]
    assert winner.validation_accuracy == 0.8


@pytest.mark.parametrize("epochs", [0, 2])
def test_no_training_where_none_helps(
    data: ImageData, supernet: MobileNetV3Supernet, folder: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    figures = iter([(1.0, 0.9), (2.0, 0.1), (3.0, 0.1)])
    monkeypatch.setattr(two_step, "validate", lambda *_: next(figures))
    section = SECTION.model_copy(update={"epochs": epochs})
    winner = finetune(supernet, supernet.space.smallest, data, section, folder)
    expected = supernet.extract(supernet.space.smallest)
    recalibrate_bn(expected, data.train.batches(two_step.BN_BATCH, 8))
    assert winner.epochs == 0
    assert winner.final_history == ()
    assert states_equal(winner.module, expected)
    assert states_equal(load_winner(folder, supernet.space).module, expected)


def test_test_and_gate_splits_are_never_read(data: ImageData, supernet: MobileNetV3Supernet, folder: Path) -> None:
    blind = dataclasses.replace(data, test=forbid(data.test), gate=forbid(data.gate))
    with pytest.raises(AssertionError, match="forbidden split"):
        len(blind.test)
    section = FinetuneSection(epochs=1, batch_size=64, distillation=0.5)
    assert finetune(supernet, supernet.space.smallest, blind, section, folder).history


def test_the_same_seed_gives_the_same_winner_and_another_another(
    data: ImageData, supernet: MobileNetV3Supernet, tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> nn.Module:
        section = SECTION.model_copy(update={"epochs": 1, "seed": seed})
        return finetune(supernet, supernet.space.smallest, data, section, tmp_path / name).module

    assert states_equal(run("a", 0), run("b", 0))
    assert not states_equal(run("a", 0), run("c", 1))


def test_distillation_uses_the_largest_network(
    data: ImageData, supernet: MobileNetV3Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, weight: float) -> Winner:
        section = FinetuneSection(epochs=1, batch_size=64, distillation=weight)
        return finetune(supernet, supernet.space.smallest, data, section, tmp_path / name)

    extracted: list[Any] = []
    original = type(supernet).extract
    monkeypatch.setattr(type(supernet), "extract", lambda self, a: extracted.append(a) or original(self, a))
    plain = run("plain", 0.0)
    assert supernet.space.largest not in extracted
    taught = run("taught", 1.0)
    assert supernet.space.largest in extracted
    assert plain.history[0] == taught.history[0]
    assert taught.history[1].train_loss > plain.history[1].train_loss + 0.5  # a second cross entropy was added
    assert taught.history[1].validation_loss != plain.history[1].validation_loss


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    data: ImageData, supernet: MobileNetV3Supernet, tmp_path: Path, stop: int, optimizer: str
) -> None:
    section = FinetuneSection.model_validate(
        {"epochs": 3, "patience": 3, "batch_size": 64, "learning_rate": 2e-2, "optimizer": optimizer}
    )

    architecture = supernet.space.largest
    whole = finetune(supernet, architecture, data, section, tmp_path / "whole")
    assert whole.epochs >= 2, "the interruption at 4 must fall into step 2"
    with pytest.raises(Stop):
        finetune(supernet, architecture, data, section, tmp_path / "cut", on_progress=stop_at(stop))
    assert not (tmp_path / "cut" / "winner.json").exists()
    moved: list[float] = []
    resumed = finetune(
        supernet, architecture, data, section, tmp_path / "cut", on_progress=lambda step, note: moved.append(step)
    )
    assert states_equal(resumed.module, whole.module)
    assert (resumed.history, resumed.final_history) == (whole.history, whole.final_history)
    assert moved[0] == stop
    assert sum(moved) == 2 * section.epochs
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["weights.safetensors", "winner.json"]


PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from hwnas.config import DataSection, FinetuneSection
from hwnas.datasets.data import load_data
from hwnas.finetuning import finetune
from hwnas.supernets.storage import load_supernet
supernet = load_supernet(Path(sys.argv[1]))
data = load_data(DataSection(source="digits", image_size=8, max_train=320, validation=0.1, augment="shift"))
section = FinetuneSection(epochs=4, patience=4, batch_size=16, learning_rate=1e-2)
finetune(supernet, supernet.space.smallest, data, section, Path(sys.argv[2]))
"""


def test_a_killed_process_loses_at_most_the_epoch_in_flight(
    data: ImageData, finished: tuple[Winner, MobileNetV3Supernet, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner, supernet, _ = finished
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    supernet.save(tmp_path / "supernet")
    folder = tmp_path / "winner"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "supernet"), str(folder)])
    while process.poll() is None and not (folder / "finetune.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "winner.json").exists()
    notes: list[str] = []
    resumed = finetune(
        supernet, supernet.space.smallest, data, SECTION, folder, on_progress=lambda step, note: notes.append(note)
    )
    assert not any("step 1, epoch 1:" in note for note in notes)
    assert states_equal(resumed.module, winner.module)


def test_a_finished_winner_is_loaded_not_computed(
    data: ImageData, finished: tuple[Winner, MobileNetV3Supernet, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    winner, supernet, folder = finished
    monkeypatch.setattr(two_step, "train_step", lambda *_: pytest.fail("trained again"))
    again = finetune(supernet, winner.architecture, data, SECTION, folder)
    assert states_equal(again.module, winner.module)
    assert (again.history, again.final_history, again.epochs) == (winner.history, winner.final_history, winner.epochs)
    assert again.architecture == winner.architecture


def test_the_description_holds_no_absolute_path_and_what_reports_need(
    finished: tuple[Winner, MobileNetV3Supernet, Path],
) -> None:
    winner, supernet, folder = finished
    text = (folder / "winner.json").read_text()
    assert str(folder) not in text
    raw = json.loads(text)
    assert raw["epochs"] == winner.epochs
    assert raw["encoding"] == supernet.space.encode(winner.architecture).tolist()
    assert raw["validation_accuracy"] == winner.validation_accuracy
    assert len(raw["history"]) == len(winner.history)


def test_another_configuration_is_refused(
    data: ImageData, finished: tuple[Winner, MobileNetV3Supernet, Path], space: MobileNetV3Space
) -> None:
    winner, supernet, folder = finished
    other = SECTION.model_copy(update={"learning_rate": 1e-3})
    with pytest.raises(RunFolderError, match=r"another configuration \(learning_rate: stored 0\.01, here 0\.001\)"):
        finetune(supernet, winner.architecture, data, other, folder)
    with pytest.raises(RunFolderError, match="weights: stored"):
        finetune(MobileNetV3Supernet(space, seed=4), winner.architecture, data, SECTION, folder)


def test_a_foreign_checkpoint_is_refused(data: ImageData, supernet: MobileNetV3Supernet, folder: Path) -> None:
    section = SECTION.model_copy(update={"epochs": 2})
    with pytest.raises(ZeroDivisionError):
        finetune(supernet, supernet.space.smallest, data, section, folder, on_progress=lambda s, n: n and 1 / 0)
    with pytest.raises(RunFolderError, match="epochs: stored 2, here 4"):
        finetune(supernet, supernet.space.smallest, data, SECTION, folder)
    (folder / "finetune.json").write_text('{"identity": 1}')
    with pytest.raises(RunFolderError, match=r"finetune\.json is not a fine-tuning checkpoint"):
        finetune(supernet, supernet.space.smallest, data, section, folder)


def test_a_damaged_winner(
    finished: tuple[Winner, MobileNetV3Supernet, Path], space: MobileNetV3Space, tmp_path: Path
) -> None:
    _, _, folder = finished
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(RunFolderError, match=r"holds no finished winner.*hwnas finetune"):
        load_winner(tmp_path / "nowhere", space)
    other = MobileNetV3Space(**{**space.settings(), "classes": 11})
    with pytest.raises(ModelFileError, match=r"another space \(classes: stored 10, here 11"):
        load_winner(tmp_path, other)
    weights = bytearray((tmp_path / "weights.safetensors").read_bytes())
    weights[-5] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ModelFileError, match="sha256"):
        load_winner(tmp_path, space)
    (tmp_path / "winner.json").write_text("{}")
    with pytest.raises(RunFolderError, match="not the description of a winner"):
        load_winner(tmp_path, space)


def test_data_that_do_not_fit_the_space(data: ImageData, folder: Path, space: MobileNetV3Space) -> None:
    supernet = MobileNetV3Supernet(MobileNetV3Space(**{**space.settings(), "classes": 7}))
    with pytest.raises(SpaceError, match=r"space\.settings\.classes=10"):
        finetune(supernet, supernet.space.smallest, data, SECTION, folder)


def test_an_unknown_metric_and_divergence(data: ImageData, supernet: MobileNetV3Supernet, folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown metric 'top7'"):
        finetune(supernet, supernet.space.smallest, data, SECTION, folder, metric="top7")
    wild = FinetuneSection(epochs=3, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(ConfigError, match=r"diverged\. Lower finetune\.learning_rate"):
        finetune(supernet, supernet.space.smallest, data, wild, folder)


def test_another_metric_chooses_e_star(data: ImageData, supernet: MobileNetV3Supernet, folder: Path) -> None:
    section = SECTION.model_copy(update={"epochs": 1})
    winner = finetune(supernet, supernet.space.smallest, data, section, folder, metric="balanced")
    assert winner.metric == "balanced"
    module = supernet.extract(supernet.space.smallest)
    recalibrate_bn(module, data.train.batches(two_step.BN_BATCH, 8))
    assert winner.extracted_accuracy == pytest.approx(evaluate_module(module, data.validation, metric="balanced"))


def test_trying_out_is_the_first_step_and_fine_tuning_goes_on_from_it(
    data: ImageData, finished: tuple[Winner, MobileNetV3Supernet, Path], space: MobileNetV3Space, tmp_path: Path
) -> None:
    winner, supernet, done = finished
    folder = tmp_path / "candidate"
    without_test = dataclasses.replace(data, test=forbid(data.test), gate=forbid(data.gate))
    assert two_step.try_out(supernet, space.smallest, without_test, SECTION, folder) == winner.validation_accuracy
    assert not (folder / "winner.json").exists()
    moves: list[float] = []
    again = two_step.try_out(
        supernet, space.smallest, data, SECTION, folder, on_progress=lambda step, note: moves.append(step)
    )
    assert again == winner.validation_accuracy
    assert moves == [len(winner.history) - 1, SECTION.epochs - winner.history[-1].epoch]
    moved = folder.rename(tmp_path / "chosen")
    late = finetune(supernet, space.smallest, data, SECTION, moved)
    assert states_equal(late.module, winner.module)
    assert late.history == winner.history
    assert two_step.try_out(supernet, space.smallest, data, SECTION, done) == winner.validation_accuracy


def test_label_smoothing_is_part_of_the_loss_that_is_trained(
    data: ImageData, space: MobileNetV3Space, tmp_path: Path
) -> None:
    losses = {}
    for smoothing in (0.0, 0.5):
        section = SECTION.model_copy(update={"epochs": 2, "label_smoothing": smoothing})
        folder = tmp_path / str(smoothing)
        two_step.try_out(MobileNetV3Supernet(space, seed=3), space.smallest, data, section, folder)
        losses[smoothing] = json.loads((folder / "finetune.json").read_text())["histories"]["1"][-1]["train_loss"]
    assert losses[0.5] > losses[0.0] + 0.2

"""Variant B of post-processing: exits attached again, trained together, speaking as one, pruned."""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_support import Stop, states_equal, stop_at
from torch import nn

from hwnas.config import FinetuneSection, parse_section
from hwnas.datasets.data import ImageData
from hwnas.errors import ConfigError, RunFolderError
from hwnas.finetuning import loop, two_step
from hwnas.finetuning.pruning import best_pattern, patterns
from hwnas.finetuning.two_step import finetune, try_out
from hwnas.finetuning.variant import variant_of
from hwnas.finetuning.winner import load_winner
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.calibration import recalibrate_bn
from hwnas.supernets.evaluation import evaluate_module, predict_logits, top1
from hwnas.supernets.exits import ExitNetwork, exit_weights
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.static import StaticNetwork

ENSEMBLE: dict[str, Any] = {"epochs": 3, "patience": 3, "batch_size": 16, "learning_rate": 1e-2, "exits": "ensemble"}


def section(**changes: Any) -> FinetuneSection:
    return FinetuneSection.model_validate({**ENSEMBLE, **changes})


@pytest.fixture(scope="session")
def early(space: MobileNetV3Space) -> MobileNetV3Space:
    stages = [*space.settings()["stages"], {"channels": 20, "stride": 2, "activation": "hswish"}]
    return MobileNetV3Space(**{**space.settings(), "stages": stages, "exits": "early", "head_channels": (32, 40)})


@pytest.fixture
def supernet(early: MobileNetV3Space) -> MobileNetV3Supernet:
    return MobileNetV3Supernet(early, seed=3)


@pytest.fixture
def misled(supernet: MobileNetV3Supernet) -> MobileNetV3Supernet:
    """A supernet whose last exit is sure of class 0 whatever it sees."""
    with torch.no_grad():
        supernet.engines[0].exits[2].classifier.bias[0] = 1000.0
    return supernet


def calibrated(module: nn.Module, data: ImageData) -> Any:
    recalibrate_bn(module.eval(), data.train.batches(two_step.BN_BATCH, 8))
    return module


@pytest.mark.parametrize(
    ("kind", "loss", "output"),
    [
        ("uniform", "uniform", "uniform"),
        ("ascending", "ascending", "ascending"),
        ("descending", "descending", "descending"),
        ("mixed", "descending", "ascending"),
    ],
)
def test_weights_of_losses_and_of_the_output(early: MobileNetV3Space, kind: str, loss: Any, output: Any) -> None:
    variant = variant_of(section(exit_weights=kind), early, early.largest)
    assert variant.exits == variant.architecture.exits == (1, 2, 3)
    assert (variant.loss, variant.output) == (exit_weights(loss, 3), exit_weights(output, 3))
    pruned = variant.pruned(early, (1, 3))
    assert pruned.exits == pruned.architecture.exits == (1, 3)
    first, _, last = exit_weights(output, 3)
    assert pruned.output == pytest.approx((first / (first + last), last / (first + last)))
    assert sum(pruned.loss) == pytest.approx(1)
    alone = variant.pruned(early, (2,))
    assert (alone.exits, alone.loss, alone.output, alone.several) == ((2,), (1.0,), (1.0,), False)
    assert alone.architecture == early.with_exits(early.largest, (2,))
    assert len(alone.architecture.kernels) == 2


def test_step_two_trains_weights_extracted_again_for_e_star_epochs_by_the_weighted_losses(
    data: ImageData, supernet: MobileNetV3Supernet, folder: Path
) -> None:
    """Item 11 of the contract: step 2 done again with nothing but torch, the published loss and schedule."""
    chosen = section(exit_weights="mixed")
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    winner = finetune(supernet, supernet.space.largest, data, chosen, folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert len(winner.final_history) == winner.epochs > 0
    assert winner.epochs == two_step.best_epoch(list(winner.history))
    assert winner.validation_accuracy == max(record.validation_accuracy for record in winner.history)
    output, weights = exit_weights("ascending", 3), exit_weights("descending", 3)
    architecture = supernet.space.with_exits(supernet.space.largest)
    module = calibrated(supernet.extract_exits(architecture, output), data)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in module.parameters() if p.dim() > 1]},
            {"params": [p for p in module.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
    )
    both = data.train.joined(data.validation)
    total, low = chosen.epochs * both.steps(chosen.batch_size), loop.FINAL_SHARE
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: low + (1 - low) * (1 + math.cos(math.pi * n / total)) / 2
    )
    module.train()
    for epoch in range(1, winner.epochs + 1):
        seed = loop.epoch_seed(chosen.seed, 2, epoch)
        for images, labels in both.batches(chosen.batch_size, 8, augment="shift", shuffle_seed=seed):
            optimizer.zero_grad()
            losses = [nn.functional.cross_entropy(logits, labels) for logits in module.exit_logits(images)]
            sum(weight * loss for weight, loss in zip(weights, losses, strict=True)).backward()
            optimizer.step()
            schedule.step()
    ours, theirs = winner.module.state_dict(), module.merged().state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


def test_the_ensembles_metric_is_measured_again_and_its_costs_are_its_own(
    data: ImageData, supernet: MobileNetV3Supernet, folder: Path
) -> None:
    space = supernet.space
    winner = finetune(supernet, space.largest, data, section(epochs=0, exit_weights="descending"), folder)
    network = calibrated(supernet.extract(space.with_exits(space.largest)), data)
    with torch.inference_mode():
        pairs = [(network.exit_logits(images), labels) for images, labels in data.validation.batches(64, 8)]
    said = torch.cat([(3 * one + 2 * two + three) / 6 for (one, two, three), _ in pairs])
    labels = torch.cat([labels for _, labels in pairs])
    assert winner.validation_accuracy == pytest.approx(float((said.argmax(1) == labels).float().mean()))
    assert winner.exits == pytest.approx({1: 3 / 6, 2: 2 / 6, 3: 1 / 6})
    assert type(winner.module) is StaticNetwork
    found, _ = predict_logits(winner.module, data.validation.batches(64, 8))
    np.testing.assert_allclose(found, said.numpy(), atol=1e-4)
    assert winner.architecture.exits == (1, 2, 3)
    assert space.graph(winner.architecture).macs > space.graph(space.largest).macs
    raw = json.loads((folder / "winner.json").read_text())
    assert raw["encoding"] == space.encode(space.largest).tolist()
    again = load_winner(folder, space)
    assert (again.exits, again.architecture, again.history) == (winner.exits, winner.architecture, winner.history)
    assert states_equal(again.module, winner.module)


def test_all_exits_learn_and_the_first_is_an_ordinary_network(
    data: ImageData, supernet: MobileNetV3Supernet, tmp_path: Path
) -> None:
    space = supernet.space
    winner = finetune(supernet, space.largest, data, section(), tmp_path / "last")
    assert winner.validation_accuracy > winner.extracted_accuracy + 0.2
    fresh = supernet.extract(winner.architecture).state_dict()
    moved = {name for name, tensor in winner.module.state_dict().items() if not torch.equal(tensor, fresh[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("exits.")} == {"0", "1", "2"}
    first = space.with_exits(space.largest, (1,))
    alone = finetune(supernet, first, data, section(exit_pruning=True, epochs=1), tmp_path / "first")
    plain = finetune(supernet, first, data, section(exits="single", epochs=1), tmp_path / "plain")
    assert states_equal(alone.module, plain.module)
    assert (alone.exits, plain.exits) == ({1: 1.0}, {})


def test_of_every_pattern_the_best_is_kept_and_of_equal_ones_the_cheapest(early: MobileNetV3Space) -> None:
    variant = variant_of(section(exit_weights="ascending"), early, early.largest)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    answers = np.eye(10, dtype=np.float32)[labels]
    logits = np.stack([answers * (rng.random((200, 1)) < share) for share in (0.5, 0.7, 0.6)], axis=1)
    logits = (logits + rng.normal(0, 0.1, logits.shape)).astype(np.float32)
    candidates = patterns(early, variant)
    assert {entry.exits for entry in candidates} == {
        kept for count in (1, 2, 3) for kept in itertools.combinations((1, 2, 3), count)
    }
    scores = {}
    for kept in ((1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        mean = sum(number * logits[:, number - 1] for number in kept) / sum(kept)
        scores[kept] = top1(mean, labels)
    best, value = best_pattern(candidates, logits, labels, top1)
    assert value == max(scores.values())
    assert best.exits == max(scores, key=lambda kept: scores[kept])
    same, _ = best_pattern(candidates, np.repeat(logits[:, :1], 3, axis=1), labels, top1)
    macs = {kept: early.graph(early.with_exits(early.largest, kept)).macs for kept in scores}
    assert same.exits == min(macs, key=lambda kept: macs[kept])


def test_pruning_by_training_nothing_keeps_what_enumeration_finds(
    data: ImageData, supernet: MobileNetV3Supernet, folder: Path
) -> None:
    space = supernet.space
    winner = finetune(supernet, space.largest, data, section(epochs=0, exit_pruning=True), folder)
    scores = {}
    for kept in ((1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        module = calibrated(supernet.extract(space.with_exits(space.largest, kept)), data)
        scores[kept] = evaluate_module(module, data.validation)
    assert len(set(scores.values())) > 1
    found = tuple(winner.exits)
    assert winner.validation_accuracy == scores[found] == max(scores.values())
    assert winner.history[0].validation_accuracy == scores[1, 2, 3]
    assert winner.architecture == space.with_exits(space.largest, found)


def test_a_deepest_exit_that_spoils_the_ensemble_goes_with_the_stages_before_it(
    data: ImageData, misled: MobileNetV3Supernet, folder: Path
) -> None:
    space = misled.space
    chosen = section(exit_pruning=True, epochs=2, learning_rate=2e-3)
    tried = try_out(misled, space.largest, data, chosen, folder)
    winner = finetune(misled, space.largest, data, chosen, folder)
    assert max(winner.exits) < 3
    assert tried == winner.validation_accuracy > winner.history[winner.epochs].validation_accuracy + 0.1
    assert len(winner.architecture.kernels) == max(winner.exits)
    assert space.graph(winner.architecture).macs < space.graph(space.largest).macs
    assert sum(winner.exits.values()) == pytest.approx(1)
    assert not any(name.startswith("stages.2") for name in winner.module.state_dict())
    assert evaluate_module(winner.module, data.validation) > 0.2
    again = load_winner(folder, space)
    assert (again.exits, again.architecture, again.history) == (winner.exits, winner.architecture, winner.history)
    assert states_equal(again.module, winner.module)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_ensemble_ends_where_an_uninterrupted_one_does(
    data: ImageData, misled: MobileNetV3Supernet, tmp_path: Path, stop: int
) -> None:
    chosen = section(exit_pruning=True, batch_size=64, learning_rate=5e-3)

    largest = misled.space.largest
    whole = finetune(misled, largest, data, chosen, tmp_path / "whole")
    assert len(whole.history) == 4
    assert whole.epochs >= 2, "the interruption at 4 must fall into step 2"
    assert max(whole.exits) < 3, "step 2 must train another network than step 1"
    with pytest.raises(Stop):
        finetune(misled, largest, data, chosen, tmp_path / "cut", on_progress=stop_at(stop))
    resumed = finetune(misled, largest, data, chosen, tmp_path / "cut")
    assert states_equal(resumed.module, whole.module)
    assert (resumed.history, resumed.final_history) == (whole.history, whole.final_history)
    assert (tmp_path / "cut" / "winner.json").read_text() == (tmp_path / "whole" / "winner.json").read_text()


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
section = FinetuneSection.model_validate_json(sys.argv[3])
finetune(supernet, supernet.space.largest, data, section, Path(sys.argv[2]))
"""


def test_a_killed_process_loses_at_most_the_epoch_in_flight(
    data: ImageData, supernet: MobileNetV3Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    chosen, folder = section(exit_weights="mixed", exit_pruning=True), tmp_path / "winner"
    whole = finetune(supernet, supernet.space.largest, data, chosen, tmp_path / "whole")
    supernet.save(tmp_path / "supernet")
    arguments = [str(tmp_path / "supernet"), str(folder), chosen.model_dump_json()]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments])
    while process.poll() is None and not (folder / "finetune.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "winner.json").exists()
    notes: list[str] = []
    resumed = finetune(
        supernet, supernet.space.largest, data, chosen, folder, on_progress=lambda step, note: notes.append(note)
    )
    assert not any("step 1, epoch 1:" in note for note in notes)
    assert states_equal(resumed.module, whole.module)
    assert resumed.exits == whole.exits


def test_the_teacher_of_distillation_speaks_by_the_given_weights(
    data: ImageData, supernet: MobileNetV3Supernet, tmp_path: Path
) -> None:
    chosen = section(exits="single", distillation=1.0, epochs=1)
    losses = {}
    for kind in ("ascending", "descending"):
        folder = tmp_path / kind
        try_out(supernet, supernet.space.largest, data, chosen, folder, exit_ensemble=kind)
        losses[kind] = json.loads((folder / "finetune.json").read_text())["histories"]["1"][-1]["train_loss"]
        task = two_step.TwoStep(supernet, supernet.space.largest, data, chosen, folder, "top1", kind)
        assert isinstance(task.teacher, ExitNetwork)
        assert task.teacher.weights == exit_weights(kind, 3)
    assert losses["ascending"] != losses["descending"]
    with pytest.raises(RunFolderError, match="exit_ensemble: stored 'descending'"):
        try_out(supernet, supernet.space.largest, data, chosen, tmp_path / "descending")


def test_what_contradicts_itself_is_refused(
    data: ImageData, space: MobileNetV3Space, supernet: MobileNetV3Supernet, folder: Path
) -> None:
    single = MobileNetV3Supernet(space)
    with pytest.raises(ConfigError, match=r"finetune\.exits: ensemble.*space\.settings\.exits: single"):
        finetune(single, space.smallest, data, section(), folder)
    assert not folder.exists()
    for key, value in (("exit_pruning", True), ("exit_weights", "mixed")):
        with pytest.raises(ConfigError, match=rf"finetune\.{key} is for finetune\.exits: ensemble"):
            parse_section(FinetuneSection, {key: value}, "run.yaml")
    finetune(supernet, supernet.space.smallest, data, section(epochs=0), folder)
    with pytest.raises(RunFolderError, match="another configuration"):
        finetune(supernet, supernet.space.smallest, data, section(epochs=0, exits="single"), folder)


def test_older_identities_stay_what_they_were() -> None:
    assert not {"exits", "exit_weights", "exit_pruning"} & set(FinetuneSection().model_dump(mode="json"))
    assert section(exit_pruning=True).model_dump()["exit_pruning"] is True

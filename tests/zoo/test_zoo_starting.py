from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from zoo_support import SETTINGS, TARGET, Pictures, run_config, start_config

from hwnas import api, zoo
from hwnas.config import RunConfig
from hwnas.errors import ConfigError, DataError, HwnasError, SpaceError
from hwnas.latency.store import read_header
from hwnas.runs import searching
from hwnas.runs.pipeline import Pipeline
from hwnas.runs.session import Run
from hwnas.runs.training import train_stage, trained_supernet
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.storage import load_supernet
from hwnas.zoo import Entry
from hwnas.zoo.weights import halved, load_body, write_weights

SEARCH = {"initial": 6, "oversample": 1, "archive": 6, "iterations": 2, "candidates": 2, "adapt_epochs": 4,
          "adapt_learning_rate": 0.05}  # fmt: skip


def training_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "supernet" / "training.json").read_text())
    return found


def test_a_search_starts_from_an_entry_without_training(entry: Entry, tmp_path: Path) -> None:
    config = start_config(entry.name)
    checked = {step: (state, minutes) for step, state, minutes in api.check(config, runs=tmp_path).steps}
    assert checked["train"] == (f"to do: from {entry.name} of the zoo", 0.0)
    assert not (tmp_path / "start").exists()
    found = api.search(config, runs=tmp_path)
    assert len(found.picks) == 1
    folder = tmp_path / "start"
    report = training_of(folder)
    assert (report["complete"], report["steps"], report["phases"]) == (True, 0, [])
    assert report["accuracies"] == {network.name: network.accuracy for network in entry.card.accuracies.networks}
    stored, own = load_supernet(folder / "supernet").state_dict(), zoo.load(entry.name).state_dict()
    assert all(torch.equal(stored[name], tensor) for name, tensor in own.items())
    resolved = yaml.safe_load((folder / "run.yaml").read_text())
    assert resolved["space"]["settings"] | SETTINGS == resolved["space"]["settings"]
    accuracies = [json.loads(line)["accuracy"] for line in (folder / "archive.jsonl").read_text().splitlines()]
    assert max(accuracies) >= entry.card.accuracy_of("largest") - 0.1
    assert api.search(config, runs=tmp_path) == found
    assert dict(step[:2] for step in api.check(config, runs=tmp_path).steps)["train"] == "done"


def test_a_run_goes_on_when_its_entry_is_gone(copied: Path, tmp_path: Path) -> None:
    config = start_config(copied)
    first = sorted(api.train(config, runs=tmp_path).rows)
    assert first[0][0] == "note"
    shutil.rmtree(copied)
    assert sorted(api.train(config, runs=tmp_path).rows) == first
    again = RunConfig.model_validate(yaml.safe_load((tmp_path / "start" / "run.yaml").read_text()))
    assert sorted(api.train(again, runs=tmp_path).rows) == first


def test_settings_that_are_given_must_agree(entry: Entry, tmp_path: Path) -> None:
    same = start_config(entry.name, space={"settings": SETTINGS})
    assert Run(same, tmp_path).space.digest == entry.card.space.digest
    part = start_config(entry.name, space={"settings": {"depths": [1, 2]}})
    assert Run(part, tmp_path).space.digest == entry.card.space.digest
    wrong = start_config(entry.name, space={"settings": {**SETTINGS, "kernels": [3, 5, 7]}})
    with pytest.raises(SpaceError, match=r"kernels: stored \[3, 5\], here \[3, 5, 7\]"):
        api.train(wrong, runs=tmp_path)
    other = start_config(entry.name, space={"name": "synthetic"})
    with pytest.raises(ConfigError, match=r"space\.name='synthetic'.*is of space 'mobilenetv3'"):
        api.train(other, runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_space_of_a_profile_is_the_entrys(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(start_config(entry.name).model_dump(mode="json")))
    fitted = api.profile(TARGET, path, overrides=["profile.networks=12"], output=tmp_path / "table")
    assert read_header(fitted.folder / "table.jsonl").space_digest == entry.card.space.digest


def test_images_of_another_kind_are_refused(entry: Entry, pictures: Pictures, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    colour = start_config(entry.name, data={"source": pictures(range(10), colour=True), "image_size": 12})
    with pytest.raises(DataError, match="channels: stored 'gray', here 'RGB'"):
        api.train(colour, runs=runs)
    larger = start_config(entry.name, data={"source": "digits", "image_size": 16})
    with pytest.raises(DataError, match=r"stored_size: stored 12, here 16\)\. Set data.image_size=12"):
        api.train(larger, runs=runs)
    split = start_config(entry.name, data={"source": "digits", "image_size": 12, "seed": 1})
    with pytest.raises(DataError, match=r"data\.seed: 0 there, 1 here.*images that judge here were trained on there"):
        api.train(split, runs=runs)
    damaged = tmp_path / "damaged"
    shutil.copytree(entry.folder, damaged)
    (damaged / entry.card.weights[0].file).write_bytes(b"")
    with pytest.raises(HwnasError, match="is damaged"):
        api.search(start_config(damaged), runs=runs)
    assert not runs.exists()


def test_fewer_training_images_of_the_same_splits_are_the_same_data(entry: Entry, tmp_path: Path) -> None:
    fewer = start_config(entry.name, data={"source": "digits", "image_size": 12, "max_train": 300})
    api.train(fewer, runs=tmp_path)
    report = training_of(tmp_path / "start")
    assert report["accuracies"] == {}, "the card's were recalibrated with other images"
    stored, own = load_supernet(tmp_path / "start" / "supernet").state_dict(), zoo.load(entry.name).state_dict()
    assert all(torch.equal(stored[name], tensor) for name, tensor in own.items())


def test_other_images_of_the_same_data_set_are_refused(copied: Path, tmp_path: Path) -> None:
    card = json.loads((copied / "card.json").read_text())
    card["data"]["sizes"]["test"] -= 1
    (copied / "card.json").write_text(json.dumps({**card, "data": {**card["data"], "digest": "0" * 64}}))
    with pytest.raises(DataError, match=r"other images of digits.*test: \d+ there, \d+ here.*may have been trained on"):
        api.train(start_config(copied), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_other_classes_get_a_fresh_classifier_that_the_search_trains(
    entry: Entry, pictures: Pictures, tmp_path: Path
) -> None:
    source = {"source": pictures(range(5)), "image_size": 12}
    with pytest.raises(ConfigError, match=r"search\.adapt_epochs=0.*nothing would ever train it"):
        api.train(start_config(entry.name, data=source), runs=tmp_path)
    assert not (tmp_path / "start").exists()
    config = start_config(entry.name, data=source, search=SEARCH)
    run = Run(config, tmp_path)
    result = Pipeline(run).searched()
    report = training_of(run.path)
    assert "the classifier anew" in str(report["note"])
    assert report["accuracies"] == {}
    stored, own = load_supernet(run.path / "supernet").state_dict(), zoo.load(entry.name).state_dict()
    fresh = {name for name in own if "classifier" in name}
    assert all(torch.equal(stored[name], own[name]) for name in own.keys() - fresh)
    assert {stored[name].shape[0] for name in fresh} == {5}
    first = [record["accuracy"] for record in map(json.loads, (run.path / "archive.jsonl").read_text().splitlines())][
        :6
    ]
    assert max(member.accuracy for member in result.members) > max(0.6, max(first))


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "same"])
def test_a_classifier_that_nothing_trained_teaches_nobody(
    entry: Entry, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    changes = {"data": {"source": pictures(range(5)), "image_size": 12}} if fresh else {}
    run = Run(start_config(entry.name, search=SEARCH, **changes), tmp_path)
    train_stage(run)
    teachers: list[Any] = []
    monkeypatch.setattr(searching, "adapt", lambda *_, teacher, **__: teachers.append(teacher))
    work = searching.SearchWork(run, trained_supernet(run))
    monkeypatch.setattr(work, "evaluate", lambda X: np.zeros(len(X)))
    work.adapt(lambda rng: run.space.lower, 1.0)
    assert [teacher is None for teacher in teachers] == [fresh], "pupils that know nothing surpass no trained teacher"


def test_phases_train_on_from_the_entry(entry: Entry, pictures: Pictures, tmp_path: Path) -> None:
    source = {"source": pictures(range(5)), "image_size": 12}
    phase = {"name": "on", "epochs": 2, "kernel": [3, 5], "depth": [1, 2], "expand": [2, 3]}
    train = {"phases": [phase], "learning_rate": 0.1}
    config = start_config(entry.name, data=source, train=train)
    api.train(config, runs=tmp_path)
    report = training_of(tmp_path / "start")
    assert [entry["name"] for entry in report["phases"]] == ["on"]  # type: ignore[attr-defined]
    assert report["steps"] == report["steps_total"] != 0
    assert str(report["note"]).startswith(f"Started from '{entry.name}' of the zoo, the classifier anew.")
    scratch = start_config(entry.name, data=source, train={**train, "pretrained": None}, space={"settings": SETTINGS})
    api.train(scratch, runs=tmp_path / "without")
    without = training_of(tmp_path / "without" / "start")
    assert report["accuracies"]["largest"] > without["accuracies"]["largest"]  # type: ignore[index]
    before = (tmp_path / "start" / "supernet" / "training.json").read_bytes()
    api.train(config, runs=tmp_path)
    assert (tmp_path / "start" / "supernet" / "training.json").read_bytes() == before
    assert Run(config, tmp_path).entry is None


def test_training_on_is_resumed_to_the_same_weights(entry: Entry, tmp_path: Path) -> None:
    phase = {"name": "on", "epochs": 1, "kernel": [3, 5], "depth": [1, 2], "expand": [2, 3]}
    whole = start_config(entry.name, train={"phases": [phase]})
    api.train(whole, runs=tmp_path / "whole")
    stopped = start_config(entry.name, train={"phases": [phase], "time_budget_minutes": 1e-3})
    api.train(stopped, runs=tmp_path / "parts")
    assert training_of(tmp_path / "parts" / "start")["complete"] is False
    api.train(whole, runs=tmp_path / "parts")
    ends = [load_supernet(tmp_path / name / "start" / "supernet").state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())


def test_run_files_without_an_entry_are_written_as_before(entry: Entry) -> None:
    assert "pretrained" not in run_config("plain").model_dump(mode="json")["train"]
    assert start_config(entry.name).model_dump(mode="json")["train"]["pretrained"] == entry.name


def test_every_exit_of_an_early_exit_supernet_gets_a_fresh_classifier(entry: Entry, tmp_path: Path) -> None:
    settings = {**entry.card.space.settings, "exits": "early", "blocks": "dense", "depths": [2, 3]}
    trained = MobileNetV3Supernet(MobileNetV3Space(**settings), seed=1)
    weights = write_weights(tmp_path, halved(trained.state_dict()))
    card = entry.card.model_copy(update={"weights": weights})
    other = MobileNetV3Supernet(MobileNetV3Space(**{**settings, "classes": 4}), seed=2)
    fresh = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    load_body(other, Entry(tmp_path, card, "folder"))
    classifiers = [name for name in fresh if "classifier" in name]
    assert len(classifiers) == 2 * 2 * len(trained.space.widths), "weight and bias of both exits"
    for name, tensor in other.state_dict().items():
        if name in classifiers:
            assert torch.equal(tensor, fresh[name])
        else:
            torch.testing.assert_close(tensor, trained.state_dict()[name], rtol=1e-3, atol=1e-7)
    images = torch.randn(3, 1, 12, 12)
    assert [logits.shape for logits in other.eval().exit_logits(images)] == [(3, 4)] * 2

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from zoo_support import NAME, SETTINGS, scratch_config

from hwnas import api, zoo
from hwnas.datasets.data import ImageData
from hwnas.errors import ConfigError, HwnasError, StorageError
from hwnas.files import sha256_file
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.supernets.storage import load_supernet
from hwnas.zoo import Entry
from hwnas.zoo.card import read_card
from hwnas.zoo.maker import add_entry, whole_folder
from hwnas.zoo.weights import halved, read_files, split_tensors, write_weights


def test_an_architecture_is_as_accurate_as_its_card_says(entry: Entry, data: ImageData) -> None:
    supernet = zoo.load(entry.name)
    evaluator = AccuracyEvaluator(supernet, data, bn_images=entry.card.accuracies.bn_images)
    networks = entry.card.accuracies.networks
    assert [network.name for network in networks] == ["largest", "smallest", *(f"random-{i}" for i in range(4))]
    assert len({network.encoding for network in networks}) == len(networks)
    for network in networks:
        architecture = supernet.space.decode(np.array(network.encoding))
        assert evaluator.evaluate(architecture) == network.accuracy
        assert network.accuracy > 0.5
        share, images = network.accuracy, len(data.validation)
        assert network.standard_error == pytest.approx((share * (1 - share) / images) ** 0.5)
        assert network.macs == supernet.space.graph(architecture).macs


def test_half_precision_changes_logits_little(entry: Entry, scratch: Path, data: ImageData) -> None:
    images, labels = next(iter(data.validation.batches(200, 12)))
    trained, stored = load_supernet(scratch / "supernet").eval(), zoo.load(str(entry.folder))
    with torch.inference_mode():
        before, after = trained(images), stored(images)
    assert not torch.equal(before, after)
    assert float((before - after).abs().max()) < 0.02 * float(before.std())
    assert float((before.argmax(1) == labels).float().mean()) > 0.5
    for name, tensor in stored.state_dict().items():
        assert tensor.dtype == trained.state_dict()[name].dtype
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, trained.state_dict()[name], rtol=1e-3, atol=1e-7)


def test_the_card_says_where_the_weights_come_from(entry: Entry, scratch: Path, data: ImageData) -> None:
    card, config = read_card(entry.folder), scratch_config()
    assert card == entry.card
    training = json.loads((scratch / "supernet" / "training.json").read_text())
    assert (card.training.steps, card.training.seconds) == (training["steps"], training["seconds"])
    assert card.training.recipe == config.train.model_dump(mode="json")
    assert card.training.machine["cores"] >= 1
    assert card.training.versions["torch"] == torch.__version__
    assert (card.data.digest, card.data.sizes) == (data.digest, data.sizes)
    assert (card.data.mean, card.data.std, card.data.classes) == (data.mean, data.std, data.classes)
    assert card.space.settings | SETTINGS == card.space.settings
    assert card.parameters == sum(parameter.numel() for parameter in zoo.load(NAME).parameters())
    for weight in card.weights:
        path = entry.folder / weight.file
        assert (weight.size_bytes, weight.sha256) == (path.stat().st_size, sha256_file(path))
    readme = (entry.folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {NAME}\n")
    assert "Trained by a test." in readme
    assert f"| largest | {100 * card.accuracy_of('largest'):.2f} % |" in readme
    texts = readme + (entry.folder / "card.json").read_text(encoding="utf-8")
    assert str(Path.home()) not in texts
    assert str(scratch) not in texts


def test_the_same_training_gives_the_same_entry_again(entry: Entry, scratch: Path, tmp_path: Path) -> None:
    again = add_entry(scratch, NAME, note="Trained by a test.", randoms=4, output=tmp_path)
    assert again.card == entry.card
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == {
        path.name: path.read_bytes() for path in entry.folder.iterdir()
    }
    replaced = add_entry(scratch, NAME, note="Another word.", randoms=1, output=tmp_path, replace=True)
    assert read_card(tmp_path / NAME).note == replaced.card.note == "Another word."
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_what_is_refused_leaves_nothing_behind(entry: Entry, scratch: Path, home: Path, tmp_path: Path) -> None:
    root = entry.folder.parent
    before = sorted(path.name for path in root.rglob("*"))
    stopped = scratch_config(time_budget_minutes=1e-4).model_copy(update={"name": "stopped"})
    api.train(stopped, runs=home / "runs")
    for folder, name, options, named in (
        (home / "runs" / "stopped", "other", {}, "is not finished"),
        (scratch, NAME, {}, "--replace"),
        (scratch, "other", {"limit_mb": 0.05}, "--limit-mb"),
        (scratch, "../other", {}, "letters, digits"),
        (tmp_path, "other", {}, "run.yaml"),
    ):
        with pytest.raises(HwnasError, match=named) as raised:
            add_entry(folder, name, **options)
        assert raised.value.exit_code == 2
    assert sorted(path.name for path in root.rglob("*")) == before


def test_other_images_than_those_of_the_training_are_refused(scratch: Path, tmp_path: Path) -> None:
    folder = tmp_path / scratch.name
    (folder / "supernet").mkdir(parents=True)
    for path in [scratch / "run.yaml", *(p for p in (scratch / "supernet").iterdir() if p.is_file())]:
        (folder / path.relative_to(scratch)).write_bytes(path.read_bytes())
    stored = folder / "run.yaml"
    stored.write_text(stored.read_text().replace("image_size: 12", "image_size: 12\n  max_train: 500", 1))
    stored.write_text(stored.read_text().replace("  max_train: null\n", "", 1))
    with pytest.raises(ConfigError, match="other images or splits"):
        add_entry(folder, "other", output=tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_weights_are_dealt_to_files_below_the_limit(entry: Entry, tmp_path: Path) -> None:
    tensors = zoo.load(entry.name).state_dict()
    limit = 30_000
    files = write_weights(tmp_path, halved(tensors), limit)
    assert len(files) > 1
    assert all((tmp_path / file.file).stat().st_size == file.size_bytes <= limit for file in files)
    read = read_files(tmp_path, files)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name].to(tensor.dtype), tensor) for name, tensor in tensors.items())
    with pytest.raises(ConfigError, match="does not fit into one file"):
        split_tensors(tensors, 500)


def test_values_beyond_half_precision_keep_single_precision() -> None:
    tensors = {"large": torch.tensor([1e5]), "small": torch.tensor([1.5]), "count": torch.tensor(3)}
    kept = halved(tensors)
    assert {name: tensor.dtype for name, tensor in kept.items()} == {
        "large": torch.float32,
        "small": torch.float16,
        "count": torch.int64,
    }
    assert float(kept["large"]) == 1e5


def test_an_entry_that_cannot_take_its_place_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "former").write_text("kept")
    rename = Path.rename

    def refuse_the_new(path: Path, target: Path) -> Path:
        if target == folder and (path / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(StorageError), whole_folder(folder) as made:
        (made / "new").write_text("lost")
    assert [path.name for path in folder.iterdir()] == ["former"]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]

"""A pretrained supernet from the command line: added, listed, checked, searched from, and every wrong use of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from e2e_support import SIMULATED, Hwnas, refused

NAME = "e2e-digits"
COLOUR = {"source": "zoo_pictures:colour", "image_size": 12}
PICTURES = """
import torch
from torch.utils.data import TensorDataset

def colour():
    torch.manual_seed(0)
    return TensorDataset(torch.rand(120, 3, 12, 12), torch.arange(120) % 4)
"""


@pytest.fixture(scope="session")
def zoo_entry(hwnas: Hwnas, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an entry that the commands made, in the user's zoo."""
    folder = tmp_path_factory.mktemp("zoo-run")
    train = {"epochs": 4, "batch_size": 32, "bn_images": 64, "learning_rate": 0.1}
    (folder / "run.yaml").write_text(yaml.safe_dump({**SIMULATED, "name": "made", "train": train}))
    trained = hwnas("train", folder / "run.yaml", "--runs", folder / "runs")
    assert trained.returncode == 0, trained.stderr
    added = hwnas("zoo", "add", folder / "runs" / "made", NAME, "--randoms", "2", "--note", "Of a test.", "--json")
    assert added.returncode == 0, added.stderr
    found = json.loads(added.stdout)
    assert found["card"]["note"] == "Of a test."
    shutil.rmtree(folder / "runs")
    return Path(found["folder"])


def start_file(folder: Path, pretrained: object, **changes: object) -> Path:
    path = folder / "start.yaml"
    raw = {key: value for key, value in SIMULATED.items() if key != "space"}
    train = {"pretrained": str(pretrained), "bn_images": 32}
    path.write_text(yaml.safe_dump({**raw, "name": "start", "train": train, **changes}))
    return path


def test_winners_from_an_entry(hwnas: Hwnas, zoo_entry: Path, tmp_path: Path) -> None:
    listed = json.loads(hwnas("zoo", "list", "--json").stdout)
    (row,) = (row for row in listed if row["name"] == NAME)
    assert (row["data"], row["from"], row["folder"]) == ("digits", "user", str(zoo_entry))
    assert NAME in hwnas("zoo", "list").stdout
    assert hwnas("zoo", "show", NAME).stdout.startswith(f"# {NAME}\n")
    card = json.loads(hwnas("zoo", "show", NAME, "--json").stdout)
    assert card["training"]["steps"] > 0
    run, runs = start_file(tmp_path, NAME), tmp_path / "runs"
    done = hwnas("finetune", run, "--runs", runs, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 1
    training = json.loads((runs / "start" / "supernet" / "training.json").read_text())
    assert training["steps"] == 0
    assert training["note"] == f"Started from '{NAME}' of the zoo."
    assert hwnas("finetune", run, "--runs", runs, "--json").stdout == done.stdout


def test_damage_is_found(hwnas: Hwnas, zoo_entry: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(zoo_entry, tmp_path / NAME)
    assert hwnas("zoo", "check", copy).returncode == 0
    (weights,) = copy.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    damaged = hwnas("zoo", "check", copy, "--json")
    assert damaged.returncode == 1
    assert "is damaged" in json.loads(damaged.stdout)[0]["problems"][0]
    refused(hwnas("search", start_file(tmp_path, copy), "--runs", tmp_path / "runs"), "is damaged", "Restore")
    weights.unlink()
    refused(hwnas("train", start_file(tmp_path, copy), "--runs", tmp_path / "runs"), "does not exist", weights.name)
    card = copy / "card.json"
    card.write_text(card.read_text().replace('"format": 1', '"format": 9'))
    refused(hwnas("zoo", "show", copy), "format 9", "reads format 1")
    assert not (tmp_path / "runs").exists()


def test_every_wrong_use_is_one_message(hwnas: Hwnas, zoo_entry: Path, tmp_path: Path) -> None:
    runs = ("--runs", tmp_path / "runs")
    refused(hwnas("search", start_file(tmp_path, "e2e-digit"), *runs), f"Did you mean '{NAME}'?", "hwnas zoo list")
    larger = {"source": "digits", "image_size": 16}
    refused(hwnas("run", start_file(tmp_path, NAME, data=larger), *runs), "Set data.image_size=12")
    (tmp_path / "zoo_pictures.py").write_text(PICTURES)
    colour = hwnas("train", start_file(tmp_path, NAME, data=COLOUR), *runs, cwd=tmp_path)
    refused(colour, "channels: stored 'gray', here 'RGB'")
    kernels = {"settings": {"kernels": [3, 5, 7]}}
    refused(hwnas("check", start_file(tmp_path, NAME, space=kernels), *runs), "kernels: stored [3, 5], here [3, 5, 7]")
    refused(hwnas("zoo", "add", tmp_path, "other"), "run.yaml")
    refused(hwnas("zoo", "check", "other"), "there is no pretrained supernet 'other'")
    assert not (tmp_path / "runs").exists()

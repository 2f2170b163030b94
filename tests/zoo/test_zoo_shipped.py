"""Whatever ships is whole, small, and classifies; the entry made by these tests goes the same way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hwnas import zoo
from hwnas.zoo import Entry
from hwnas.zoo.entry import read_entry, shipped_root
from hwnas.zoo.maker import LIMIT_MB
from hwnas.zoo.readme import card_text
from hwnas.zoo.weights import SHARD_BYTES

MADE = "made by these tests"
SHIPPED = sorted(path.parent.name for path in shipped_root().glob("*/card.json"))


@pytest.fixture(params=[MADE, *SHIPPED])
def folder(request: pytest.FixtureRequest, entry: Entry) -> Path:
    return entry.folder if request.param == MADE else shipped_root() / request.param


def test_an_entry_is_whole_and_classifies(folder: Path) -> None:
    entry = read_entry(folder, "shipped")
    assert entry.problems() == []
    card = entry.card
    files = {path.name for path in folder.iterdir()}
    assert files == {"card.json", "README.md", *(weight.file for weight in card.weights)}
    assert all(weight.size_bytes <= SHARD_BYTES for weight in card.weights)
    assert (folder / "README.md").read_text(encoding="utf-8") == card_text(card)
    supernet = zoo.load(str(folder))
    assert supernet.space.digest == card.space.digest
    channels = len(card.data.mean)
    for architecture in (supernet.space.smallest, supernet.space.largest):
        supernet.set_active(architecture)
        images = torch.randn(4, channels, architecture.resolution, architecture.resolution)
        with torch.inference_mode():
            logits = supernet(images)
        assert logits.shape == (4, len(card.data.classes))
        assert torch.isfinite(logits).all()
        assert float(logits.std(dim=0).max()) > 0, "the images decide"
    assert {network.name for network in card.accuracies.networks} >= {"largest", "smallest"}
    assert all(network.accuracy > 2 / len(card.data.classes) for network in card.accuracies.networks)


def test_all_that_ships_is_small() -> None:
    sizes = [path.stat().st_size for path in shipped_root().rglob("*") if path.is_file()]
    assert sum(sizes) <= LIMIT_MB * 1e6
    assert {path.name for path in shipped_root().glob("*")} == set(SHIPPED)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hwnas import api, zoo
from hwnas.errors import ConfigError, HwnasError, ModelFileError
from hwnas.files import digest
from hwnas.zoo import Entry
from hwnas.zoo.entry import user_root


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_unknown_name_suggests_the_nearest(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'tiny-digit'.*Did you mean 'tiny-digits'\?.*hwnas zoo list"):
        zoo.load("tiny-digit")
    with pytest.raises(ConfigError, match=r"holds no card\.json"):
        zoo.load("./nowhere")
    shutil.copytree(entry.folder, tmp_path / "beside")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"write \./beside"):
        zoo.load("beside")
    assert zoo.find_entry("./beside").name == entry.name


def test_every_damage_is_one_clear_message(copied: Path, entry: Entry) -> None:
    weights = copied / entry.card.weights[0].file
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ModelFileError, match=r"is damaged: its sha256 is not the one in card\.json"):
        zoo.load(str(copied))
    weights.unlink()
    with pytest.raises(ModelFileError, match=f"{weights.name} does not exist.*Restore the files"):
        zoo.load(str(copied))
    weights.write_bytes(good)
    assert zoo.load(str(copied)).space.digest == entry.card.space.digest


def test_a_card_that_cannot_be_used(copied: Path, entry: Entry) -> None:
    original = (copied / "card.json").read_text()
    edit(copied, format=2)
    with pytest.raises(ModelFileError, match="format 2; this version of hwnas reads format 1"):
        zoo.load(str(copied))
    edit(copied, format=1, weight=[])
    with pytest.raises(ModelFileError, match="unknown key 'weight'; did you mean 'weights'"):
        zoo.load(str(copied))
    (copied / "card.json").write_text(original[:-20])
    with pytest.raises(ModelFileError, match="cannot be read"):
        zoo.load(str(copied))
    (copied / "card.json").write_text(original)
    edit(copied, weights=[{"file": "../weights.safetensors", "size_bytes": 1, "sha256": "0"}])
    with pytest.raises(ModelFileError, match=r"weights\.0\.file"):
        zoo.load(str(copied))
    assert str(entry.folder) not in original


def test_weights_and_settings_that_do_not_belong_together(copied: Path, entry: Entry) -> None:
    space = json.loads((copied / "card.json").read_text())["space"]
    settings = {**space["settings"], "head_channels": [64, 64]}
    edit(copied, space={**space, "settings": settings})
    with pytest.raises(ModelFileError, match="another space"):
        zoo.load(str(copied))
    edit(copied, space={**space, "settings": settings, "digest": digest({"name": "mobilenetv3", "settings": settings})})
    with pytest.raises(ModelFileError, match=r"does not fit the network: size mismatch for .*head"):
        zoo.load(str(copied))


def test_list_and_check_go_past_a_damaged_entry(entry: Entry) -> None:
    broken, renamed = user_root() / "broken", user_root() / "renamed"
    shutil.copytree(entry.folder, renamed)
    shutil.copytree(entry.folder, broken)
    edit(broken, format=None)
    try:
        listed, problems = api.list_zoo()
        assert [row["name"] for row in listed if row["from"] == "user"] == [entry.name]
        assert len(problems) == 2
        checked = {row["name"]: row["problems"] for row in api.check_zoo()}
        assert checked[entry.name] == []
        assert "format None" in checked["broken"][0]
        assert "Rename the folder" in checked["renamed"][0]
    finally:
        shutil.rmtree(broken)
        shutil.rmtree(renamed)
    (row,) = (row for row in api.list_zoo()[0] if row["name"] == entry.name)
    assert row["largest"] == entry.card.accuracy_of("largest")
    assert api.check_zoo(str(entry.folder)) == api.check_zoo(entry.name)
    with pytest.raises(HwnasError, match="hwnas zoo list"):
        api.check_zoo("no-such-entry")

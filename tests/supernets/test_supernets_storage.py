from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from supernet_helpers import SETTINGS, disturb

from hwnas import registry
from hwnas.errors import ModelFileError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.storage import load_supernet


def saved(folder: Path) -> MobileNetV3Supernet:
    supernet = MobileNetV3Supernet(MobileNetV3Space(**SETTINGS), seed=5)
    disturb(supernet)
    supernet.save(folder, {"note": "x"})
    return supernet


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    supernet = saved(tmp_path)
    again = MobileNetV3Supernet(MobileNetV3Space(**SETTINGS))
    assert again.load(tmp_path) == {"note": "x"}
    made = load_supernet(tmp_path)
    assert made.space.digest == supernet.space.digest
    for other in (again, made):
        for name, tensor in supernet.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)
    weight = again.engines[0].get_submodule("stem.conv").weight
    assert isinstance(weight, torch.Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert registry.load("supernet", "mobilenetv3") is MobileNetV3Supernet


def test_saving_again_replaces_and_cleans_up(tmp_path: Path) -> None:
    supernet = saved(tmp_path)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(1)
    supernet.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    again = MobileNetV3Supernet(MobileNetV3Space(**SETTINGS))
    assert again.load(tmp_path) == {}
    assert torch.equal(again.state_dict()["engines.0.stem.bn.bias"], supernet.state_dict()["engines.0.stem.bn.bias"])


def test_another_space_is_refused_with_what_differs(tmp_path: Path) -> None:
    saved(tmp_path)
    other = MobileNetV3Supernet(MobileNetV3Space(**{**SETTINGS, "expands": [2, 4], "classes": 11}))
    with pytest.raises(ModelFileError, match=r"classes: stored 10, here 11; expands: stored \[2.0, 3.0, 4.0\]"):
        other.load(tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    supernet = saved(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-8] + b"\0" * 8)
    with pytest.raises(ModelFileError, match=r"safetensors is damaged"):
        supernet.load(tmp_path)
    weights.unlink()
    with pytest.raises(ModelFileError, match="does not exist"):
        supernet.load(tmp_path)
    description = tmp_path / "supernet.json"
    value = json.loads(description.read_text())
    for broken, message in (("{", "not valid JSON"), ("[]", "format 1"), (json.dumps({"format": 9}), "format 1")):
        description.write_text(broken)
        with pytest.raises(ModelFileError, match=message):
            supernet.load(tmp_path)
    del value["weights"]
    description.write_text(json.dumps(value))
    with pytest.raises(ModelFileError, match="weights"):
        load_supernet(tmp_path)
    with pytest.raises(ModelFileError, match="no readable supernet"):
        supernet.load(tmp_path / "absent")

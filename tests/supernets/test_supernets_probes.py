"""What training tells on the way: accuracies after each phase, the phase and the time left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from supernet_helpers import SETTINGS

from hwnas.config import DataSection, TrainSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets import probes
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.pace import Pace, in_words
from hwnas.supernets.phases import Phase, phases_of
from hwnas.supernets.training import TrainReport, train_supernet

SMALL = {**SETTINGS, "depths": [1, 2], "widths": [0.5, 1.0], "exits": "early"}
PHASES: list[dict[str, Any]] = [
    {"name": "full", "epochs": 2},
    {"name": "exits", "epochs": 1, "exit": [1, 2], "depth": [1, 2]},
    {"name": "expand", "epochs": 1, "expand": [3, 4], "subnets": 2},
]
SECTION: dict[str, Any] = {"batch_size": 32, "bn_images": 64, "learning_rate": 0.1, "phases": PHASES}
NAMES = {"largest", "smallest", "random-0", "random-1", "random-2"}


@pytest.fixture(scope="module")
def few(data: ImageData) -> ImageData:
    return load_data(DataSection(source="digits", image_size=8, max_train=200))


def train(data: ImageData, folder: Path, notes: list[str], **section: Any) -> tuple[MobileNetV3Supernet, TrainReport]:
    supernet = MobileNetV3Supernet(MobileNetV3Space(**SMALL), seed=2)
    told = TrainSection(**SECTION, **section)
    return supernet, train_supernet(supernet, data, told, folder, progress=lambda step, note: notes.append(note))


def test_every_phase_is_evaluated_once_and_resumes(few: ImageData, tmp_path: Path) -> None:
    notes: list[str] = []
    supernet, report = train(few, tmp_path / "whole", notes)
    assert [set(phase["accuracies"]) for phase in report.phases] == [NAMES] * 3
    told = [note for note in notes if note]
    assert told[0].startswith("full (1 of 3), loss ")
    assert told[-1].startswith("expand (3 of 3), loss ")
    assert told[-1].endswith(", 0 s left")

    # the largest network of the last phase, as it is now
    largest = {
        "largest": phases_of(TrainSection(**SECTION), supernet.space)[-1].extreme(supernet.space, 1.0, largest=True)
    }
    again = probes.accuracies(supernet, few, largest, 64, probes.PHASE_IMAGES)
    assert again["largest"] == report.phases[-1]["accuracies"]["largest"]

    stops = 0
    while not (stopped := train(few, tmp_path / "parts", [], time_budget_minutes=1e-6 + stops * 4e-3)[1]).complete:
        stops += 1
        done = sum(bool(phase["accuracies"]) for phase in stopped.phases)
        assert done < 3
    assert stops >= 1
    assert stopped.phases == report.phases
    assert json.loads((tmp_path / "parts" / "training.json").read_text())["phases"] == report.phases


def test_probes_belong_to_their_phase() -> None:
    space = MobileNetV3Space(**SMALL)
    full, exits, expand = phases_of(TrainSection(**SECTION), space)
    ends = probes.of_phase(full, 0, space, 0)
    assert ends["largest"] == space.largest
    assert {len(network.kernels) for network in ends.values()} == {2}
    assert probes.of_phase(full, 0, space, 0) == ends
    narrow = probes.of_phase(exits, 1, space, 0)
    assert len(narrow["smallest"].kernels) == 1
    assert {e for network in narrow.values() for stage in network.expands for e in stage} == {4}
    assert probes.of_phase(expand, 2, space, 0)["smallest"].expands == ((3.0,),)
    assert set(probes.of_space(space, 0)) == NAMES


def test_time_left_counts_networks_not_steps() -> None:
    space = MobileNetV3Space(**SMALL)
    one, two = (phases_of(TrainSection(**{**SECTION, "distillation": 0}), space)[index] for index in (0, 2))
    schedule: list[tuple[Phase, int]] = [(one, 10), (two, 10)]
    work = 10 + 10 * (2 + 1 / 3)
    assert Pace(schedule, 0).seconds_left(5, 10.0) == pytest.approx(10.0 * (work - 5) / 5)
    assert Pace(schedule, 10).seconds_left(15, 7.0) == pytest.approx(7.0)
    assert Pace(schedule, 0).seconds_left(20, 7.0) == 0
    assert [in_words(seconds) for seconds in (0, 89, 90, 700, 9000)] == ["0 s", "89 s", "2 min", "12 min", "2.5 h"]

"""The test split of a whole run: nobody sees it before the exported file does, once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs_support import make_run

from hwnas.datasets.data import ImageData
from hwnas.datasets.split import Split
from hwnas.finetuning.winner import Winner
from hwnas.runs import pipeline
from hwnas.runs.pipeline import Pipeline


class WatchedSplit(Split):
    """A split that counts how often each of its images is read, by whatever way."""

    reads: Counter[int]

    def take(self, indices: Any) -> Any:
        self.reads.update(int(index) for index in indices)
        return super().take(indices)

    def __getattribute__(self, name: str) -> Any:
        if name in ("images", "labels"):
            self.reads.update(range(len(self)))
        return super().__getattribute__(name)


class WatchedData(ImageData):
    """Images whose test split is counted every time it is asked for."""

    asked: list[str]

    def __getattribute__(self, name: str) -> Any:
        if name == "test":
            self.asked.append(name)
        return super().__getattribute__(name)


def watched(data: ImageData) -> tuple[WatchedData, Counter[int]]:
    split = data.test
    reads: Counter[int] = Counter()
    test = WatchedSplit(split.name, split.pool, split.pool_labels, split.rows, split.preprocess)
    object.__setattr__(test, "reads", reads)
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    found = object.__new__(WatchedData)
    object.__setattr__(found, "asked", [])
    for name, value in {**fields, "test": test}.items():
        object.__setattr__(found, name, value)
    return found, reads


@pytest.mark.timeout(300)
@pytest.mark.parametrize("finetune", [{"exits": "single"}, {"exits": "ensemble", "exit_pruning": True}], ids=str)
def test_the_test_split_is_read_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetune: dict[str, Any]
) -> None:
    run = make_run(tmp_path, "watched", "local/onnxruntime-fp32", {"max_ms": 100}, {**finetune, "candidates": 2})
    data, reads = watched(run.data)
    run.data = data
    before_export: list[tuple[int, int]] = []
    export = pipeline.export_stage

    def exported(*arguments: Any) -> Any:
        before_export.append((len(data.asked), reads.total()))
        return export(*arguments)

    monkeypatch.setattr(pipeline, "export_stage", exported)
    line = Pipeline(run)
    line.searched()
    assert (data.asked, reads) == ([], Counter())
    _, winners = line.finetuned()
    assert all(isinstance(winner, Winner) for winner in winners.values())
    assert (data.asked, reads) == ([], Counter()), "neither search nor fine-tuning looks at the test split"
    (artifact,) = line.exported()
    assert before_export == [(0, 0)]
    assert reads == Counter(range(len(data.test))), "every test image was read exactly once"
    accuracy = artifact.manifest.accuracy
    assert accuracy is not None
    assert accuracy.test is not None
    line.exported()
    assert reads == Counter(range(len(data.test))), "a finished artifact is not evaluated again"
    assert [entry.exit for entry in artifact.manifest.exits] == list(next(iter(winners.values())).exits)

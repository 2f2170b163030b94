"""A search that reads few images, in a run: in the end its fronts are those of all images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from runs_support import SEARCH, make_run

from hwnas.runs.searching import drive_search
from hwnas.runs.session import Run
from hwnas.runs.training import train_stage, trained_supernet
from hwnas.strategies.costs import GraphCounter
from hwnas.strategies.problem import Problem
from hwnas.strategies.state import SearchResult, read_result
from hwnas.supernets.evaluation import AccuracyEvaluator

FEW = 20


def searched(run: Run) -> SearchResult:
    run.use_threads()
    counter = GraphCounter(run.space, ["macs"])
    problem = Problem(run.space, ("macs",), lambda X: (counter(X) / 1e6, counter(X) / 1e6))
    train_stage(run)
    return drive_search(run, problem, trained_supernet(run), "searching")


def run_of(folder: Path, name: str, **search: object) -> Run:
    section = {**SEARCH, "initial": 12, "archive": 12, "objectives": ["accuracy", "macs"], "validation_images": FEW}
    return make_run(folder, name, "local/onnxruntime-fp32", None, {}, search={**section, **search})


@pytest.mark.parametrize("adapt", [0.0, 0.2], ids=["frozen", "adapting"])
def test_members_of_the_result_were_read_on_all_images(tmp_path: Path, adapt: float) -> None:
    run = run_of(tmp_path, "few", adapt_epochs=adapt)
    result = searched(run)
    every = len(run.data.validation)
    records = [json.loads(line) for line in (run.folder.search / "confirmed.jsonl").read_text().splitlines()]
    assert every > 3 * FEW
    assert {record["of"] for record in records} == {every}
    assert result.confirmed
    assert list(result.confirmed) == result.members
    stored = read_result(run.folder.search).members
    assert sorted(map(str, stored)) == sorted(map(str, result.members))
    supernet = run.new_supernet()
    version = run.folder.supernet / "adapted" / f"v{result.version}"
    supernet.load(version if version.is_dir() else run.folder.supernet)
    evaluator = AccuracyEvaluator(supernet, run.data, bn_images=run.config.train.bn_images)
    for member in result.members[:2]:
        at_length = evaluator.evaluate_encodings(np.array([member.encoding]))[0]
        assert member.accuracy == pytest.approx(float(at_length))
    again = searched(run_of(tmp_path, "few", adapt_epochs=adapt))
    assert again.members == result.members
    assert len((run.folder.search / "confirmed.jsonl").read_text().splitlines()) == len(records)


def test_a_search_that_goes_on_keeps_what_was_confirmed(tmp_path: Path) -> None:
    before = searched(run_of(tmp_path, "more"))
    run = run_of(tmp_path, "more", iterations=3)
    after = searched(run)
    assert {member.key for member in before.members} <= {member.key for member in after.members}
    assert after.members == read_result(run.folder.search).members


def test_confirmation_can_be_switched_off(tmp_path: Path) -> None:
    result = searched(run_of(tmp_path, "off", confirm=False))
    assert result.confirmed == ()
    assert len(result.members) > 2

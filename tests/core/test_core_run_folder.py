from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hwnas.config import RunConfig
from hwnas.errors import RunFolderError
from hwnas.runs.folder import RunFolder


def config(**changes: object) -> RunConfig:
    base = {"name": "r", "data": {"source": "digits"}, "targets": [{"target": "local/onnxruntime-fp32"}]}
    return RunConfig.model_validate({**base, **changes})


def test_a_matching_folder_is_resumed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r", config())
    with folder.step("train"):
        pass
    assert [step["step"] for step in RunFolder(tmp_path / "r", config()).steps] == ["train"]


def test_a_step_that_fails_is_logged_as_such(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r", config())
    with pytest.raises(ValueError, match="stop"), folder.step("train"):
        raise ValueError("stop")
    with folder.step("train"):
        pass
    assert [(step["step"], step["succeeded"]) for step in folder.steps] == [("train", False), ("train", True)]


def test_an_unfinished_run_takes_more_time_and_until_it_searches_other_budgets(tmp_path: Path) -> None:
    def budget(max_ms: float) -> list[dict[str, object]]:
        return [{"target": "local/onnxruntime-fp32", "budget": {"max_ms": max_ms}}]

    folder = tmp_path / "r"
    RunFolder(folder, config(targets=budget(1.0)))
    RunFolder(folder, config(targets=budget(2.0), search={"iterations": 9}, train={"time_budget_minutes": 5}))
    stored = yaml.safe_load((folder / "run.yaml").read_text())
    assert (stored["targets"][0]["budget"]["max_ms"], stored["search"]["iterations"]) == (2.0, 9)
    with pytest.raises(RunFolderError, match="another configuration"):
        RunFolder(folder, config(targets=[{"target": "local/openvino-fp32", "budget": {"max_ms": 2.0}}]))
    (folder / "search_state.json").write_text("{}")
    RunFolder(folder, config(targets=budget(2.0), search={"iterations": 12}))
    with pytest.raises(RunFolderError, match="another configuration"):
        RunFolder(folder, config(targets=budget(3.0)))
    (folder / "shortlist.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"search\.iterations: 12 there, 13 asked"):
        RunFolder(folder, config(targets=budget(2.0), search={"iterations": 13}))


def test_a_folder_of_another_configuration_is_refused_and_left_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path / "r", config())
    before = (tmp_path / "r" / "run.yaml").read_bytes()
    with pytest.raises(RunFolderError, match="seed: 0 there, 3 asked"):
        RunFolder(tmp_path / "r", config(seed=3))
    assert (tmp_path / "r" / "run.yaml").read_bytes() == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"thesis\.tex"):
        RunFolder(tmp_path / "r", config())


def test_a_damaged_run_file_is_named(tmp_path: Path) -> None:
    RunFolder(tmp_path / "r", config())
    (tmp_path / "r" / "run.yaml").write_text("name: [")
    with pytest.raises(RunFolderError, match="damaged"):
        RunFolder(tmp_path / "r", config())


def test_two_processes_cannot_share_a_run(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "r", config()), RunFolder(tmp_path / "r", config())
    with first.lock(), pytest.raises(RunFolderError, match="another process"), second.lock():
        pass


def test_a_start_killed_while_claiming_the_folder_does_not_block_it(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".run.yaml.ab12.tmp").write_text("name:")
    assert RunFolder(tmp_path / "r", config()).steps == []

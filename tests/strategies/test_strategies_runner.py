from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))
from search_worker import SECTION, Weights, search

from hwnas.errors import BudgetError, ConfigError, RunFolderError
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import Problem
from hwnas.strategies.random_search import RandomSearch
from hwnas.strategies.runner import read_result, run_search
from hwnas.testing.toy import AnalyticAccuracy, ToySpace, macs_problem

WORKER = Path(__file__).with_name("search_worker.py")


def final(folder: Path) -> tuple[str, list[str]]:
    """Everything of a finished search that must not depend on interruptions: the state, and what was evaluated."""
    state = json.loads((folder / "search_state.json").read_text())
    assert state["finished"]
    return json.dumps(state, sort_keys=True), (folder / "archive.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    folder = tmp_path_factory.mktemp("straight")
    search(folder, Weights(folder))
    return final(folder)


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_random_moments_it_ends_in_the_same_front(tmp_path: Path, expected: tuple[str, list[str]]) -> None:
    rng = np.random.default_rng(7)
    journal, kills = tmp_path / "archive.jsonl", 0
    for target in sorted(rng.choice(np.arange(3, 70), size=4, replace=False).tolist()):
        process = subprocess.Popen([sys.executable, str(WORKER), str(tmp_path), "0.004"])
        while process.poll() is None and lines_of(journal) < target:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0.0, 0.05)))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    assert lines_of(journal) < len(expected[1])
    weights = Weights(tmp_path)
    search(tmp_path, weights)
    assert final(tmp_path) == expected
    assert weights.evaluated < len(expected[1])


class Crash(BaseException):
    """What a process that dies looks like from inside."""


@pytest.mark.parametrize("callback", ["evaluate", "adapt", "save"])
def test_interrupted_at_every_kind_of_point_it_ends_in_the_same_front(
    tmp_path: Path, expected: tuple[str, list[str]], callback: str
) -> None:
    every = {"evaluate": 13, "adapt": 1, "save": 1}[callback]
    crashes = 0
    for _ in range(30):
        weights = Weights(tmp_path)
        original, calls = getattr(weights, callback), 0

        def crashing(*arguments: Any, original: Callable[..., Any] = original) -> Any:
            nonlocal calls
            calls += 1
            # save: dies after the checkpoint is written, before the state is.
            result = original(*arguments) if callback != "evaluate" else None
            if calls > every:
                raise Crash
            return original(*arguments) if callback == "evaluate" else result

        setattr(weights, callback, crashing)
        try:
            search(tmp_path, weights)
            break
        except Crash:
            crashes += 1
    assert crashes >= 2
    assert final(tmp_path) == expected


def test_a_deadline_stops_between_evaluations_and_the_same_call_goes_on(
    tmp_path: Path, expected: tuple[str, list[str]]
) -> None:
    assert not search(tmp_path, Weights(tmp_path), deadline_s=0.0).finished
    assert lines_of(tmp_path / "archive.jsonl") == 0
    stopped = search(tmp_path, Weights(tmp_path, pause_s=0.02), deadline_s=0.2)
    assert not stopped.finished
    assert 0 < lines_of(tmp_path / "archive.jsonl") < len(expected[1])
    assert search(tmp_path, Weights(tmp_path)).finished
    assert final(tmp_path) == expected


def test_a_finished_search_evaluates_nothing_more_and_can_be_read(tmp_path: Path) -> None:
    result = search(tmp_path, Weights(tmp_path))
    weights = Weights(tmp_path)
    again = search(tmp_path, weights)
    assert weights.evaluated == 0
    read = read_result(tmp_path)
    problem = macs_problem(ToySpace(), budget=0.3)
    assert read.finished
    assert result.union_front(problem) == again.union_front(problem) == read.union_front(problem)
    history = [json.loads(line) for line in (tmp_path / "search_history.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in history] == [0, 1, 2, 3, 4]
    assert history == list(read.history)
    assert all(-1 <= record["tau"] <= 1 for record in history[1:] if record["tau"] is not None)
    assert any(record["tau"] is not None for record in history)
    assert history[-1]["evaluations"] == lines_of(tmp_path / "archive.jsonl")
    assert history[-1]["version"] == read.version == 4


def test_more_iterations_continue_a_finished_search(tmp_path: Path) -> None:
    search(tmp_path, Weights(tmp_path))
    longer = SECTION.model_copy(update={"iterations": 5})
    result = search(tmp_path, Weights(tmp_path), section=longer)
    assert result.finished
    assert [record["iteration"] for record in result.history] == [0, 1, 2, 3, 4, 5]
    straight = tmp_path / "straight"
    assert search(straight, Weights(straight), section=longer).archive.state() == result.archive.state()


def test_every_evaluation_is_on_disk_with_what_it_cost(tmp_path: Path) -> None:
    result = search(tmp_path, Weights(tmp_path))
    records = [json.loads(line) for line in (tmp_path / "archive.jsonl").read_text().splitlines()]
    space = ToySpace()
    assert len({(tuple(r["encoding"]), r["version"]) for r in records}) == len(records)
    latest = {tuple(r["encoding"]): r for r in records}
    for member in result.archive.members:
        record = latest[member.encoding]
        assert {key: record[key] for key in member.as_dict()} == member.as_dict()
        assert record["id"] == space.id_of(np.array(member.encoding))
        assert not record["measured"]


def toy_run(folder: Path, problem: Problem, **arguments: Any) -> Any:
    section = SECTION.model_copy(update={"adapt_epochs": 0.0, **arguments.pop("section", {})})
    strategy = arguments.pop("strategy", NatV2)(problem, section)
    return run_search(strategy, problem, evaluate=AnalyticAccuracy(problem.space), folder=folder, **arguments)


def test_another_search_in_the_same_folder_is_refused_and_named(tmp_path: Path) -> None:
    problem = macs_problem(ToySpace(), budget=0.3)
    toy_run(tmp_path, problem)
    before = (tmp_path / "search_state.json").read_bytes()
    others: list[tuple[dict[str, Any], str]] = [
        ({"section": {"seed": 12}}, r"section\.seed: stored 11, asked 12"),
        ({"strategy": RandomSearch}, "strategy: stored 'natv2', asked 'random'"),
        ({"problem": macs_problem(ToySpace(), budget=0.4)}, r"problem\.limits"),
        (
            {"problem": macs_problem(ToySpace(codes=2), budget=0.3)},
            r"problem\.space\.settings\.codes: stored 3, asked 2",
        ),
    ]
    for arguments, message in others:
        with pytest.raises(RunFolderError, match=message):
            toy_run(tmp_path, arguments.pop("problem", problem), **arguments)
    assert (tmp_path / "search_state.json").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state["state"].pop("rng"), "state of strategy natv2 is damaged"),
        (lambda state: state["state"]["archive"]["active"].append(10**6), "archive in the search state is damaged"),
        (lambda state: state["state"]["archive"]["members"][0].pop("accuracy"), "archive in the search state"),
        (lambda state: state.pop("state"), "is damaged"),
        (lambda state: state.update(format=99), "not a search state of format 1"),
    ],
)
def test_a_damaged_state_is_an_error_not_a_new_start(
    tmp_path: Path, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    problem = macs_problem(ToySpace(), budget=0.3)
    toy_run(tmp_path, problem, section={"iterations": 1})
    path = tmp_path / "search_state.json"
    state = json.loads(path.read_text())
    damage(state)
    path.write_text(json.dumps(state))
    with pytest.raises(RunFolderError, match=message):
        toy_run(tmp_path, problem, section={"iterations": 1})


def test_evaluations_without_their_state_are_not_overwritten(tmp_path: Path) -> None:
    problem = macs_problem(ToySpace(), budget=0.3)
    toy_run(tmp_path, problem, section={"iterations": 1})
    (tmp_path / "search_state.json").unlink()
    with pytest.raises(RunFolderError, match=r"holds archive\.jsonl but no search_state\.json"):
        toy_run(tmp_path, problem, section={"iterations": 1})


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / "search.lock"), pytest.raises(RunFolderError, match="another process is searching"):
        toy_run(tmp_path, macs_problem(ToySpace()))


def test_an_impossible_budget_fails_before_anything_is_evaluated(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="nearest budget"):
        toy_run(tmp_path / "run", macs_problem(ToySpace(), budget=1e-4))
    assert not (tmp_path / "run").exists()


def test_adaptation_needs_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both save_supernet and load_supernet"):
        toy_run(
            tmp_path, macs_problem(ToySpace()), adapt=lambda sampler, epochs: None, save_supernet=lambda version: None
        )


def test_an_accuracy_that_is_no_number_stops_the_search(tmp_path: Path) -> None:
    problem = macs_problem(ToySpace())
    with pytest.raises(ConfigError, match=r"search\.metric must give one finite number"):
        run_search(NatV2(problem, SECTION), problem, evaluate=lambda X: np.array([np.nan]), folder=tmp_path)


def test_measured_costs_replace_predictions_and_are_replayed(tmp_path: Path) -> None:
    problem = macs_problem(ToySpace(), budget=0.3)
    noise = np.random.default_rng()  # A real device never gives the same number twice: hence no seed.
    measured: list[bytes] = []

    def measure(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        measured.extend(row.tobytes() for row in X)
        value = problem.predict(X)[0] * noise.uniform(0.9, 1.1, size=(len(X), 1))
        return value, 1.02 * value

    class Stop(BaseException):
        pass

    oracle = AnalyticAccuracy(problem.space)

    def evaluate(X: np.ndarray) -> np.ndarray:
        if lines_of(tmp_path / "archive.jsonl") == 22 and len(set(measured)) == len(measured) < 26:
            raise Stop
        return oracle(X)

    def run() -> Any:
        section = SECTION.model_copy(update={"adapt_epochs": 0.0})
        return run_search(NatV2(problem, section), problem, evaluate=evaluate, measure=measure, folder=tmp_path)

    with pytest.raises(Stop):
        run()
    before = len(measured)
    measured.append(measured[0])
    result = run()
    assert len(set(measured)) == len(measured) - 1 == len(result.archive)
    assert before >= 22
    stored = [json.loads(line) for line in (tmp_path / "measurements.jsonl").read_text().splitlines()]
    values = {tuple(record["encoding"]): record for record in stored}
    for member in result.archive.members:
        assert list(member.costs) == values[member.encoding]["values"]
        assert list(member.upper) == values[member.encoding]["upper"]


def test_progress_is_reported(tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    toy_run(tmp_path, macs_problem(ToySpace()), on_progress=lambda share, note: seen.append((share, note)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert "hypervolume" in seen[-1][1]

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.config import RunConfig, parse_section
from hwnas.errors import BudgetError, ConfigError
from hwnas.latency.measurement import Measurement
from hwnas.reporting.formats import DASH
from hwnas.runs.budgets import objective_targets
from hwnas.runs.check import three_networks
from hwnas.runs.counted import Counted, check_counted, counted_problem
from hwnas.runs.kept import COLUMNS, BudgetRow, counted_rows, latency_row
from hwnas.runs.session import Run
from hwnas.targets import Target

FP32, INT8 = "simulated-reference/simulated-fp32", "simulated-reference/simulated-int8"
SPACE = {
    "settings": {
        "resolutions": [8, 12], "widths": [0.5], "kernels": [3, 5], "expands": [2, 3], "depths": [1, 2],
        "stages": [{"channels": 16, "stride": 2, "activation": "relu", "se": False}], "head_channels": [32, 32],
    }
}  # fmt: skip


def run_of(
    tmp_path: Path, search: dict[str, Any], targets: tuple[str, ...] = (FP32, INT8), space: dict[str, Any] = SPACE
) -> Run:
    raw = {
        "name": "r",
        "data": {"source": "digits", "image_size": 12},
        "space": space,
        "targets": [{"target": target} for target in targets],
        "search": search,
    }
    return Run(parse_section(RunConfig, raw, "run.yaml"), tmp_path)


def test_bytes_are_counted_once_for_each_precision_and_the_rest_once(tmp_path: Path) -> None:
    budgets = {"parameters": 2000, "size_bytes": "-50%", "peak_memory_bytes": 9000}
    run = run_of(tmp_path, {"objectives": ["accuracy", "macs", "size_bytes"], "budgets": budgets})
    counted = Counted.of(run)
    assert counted.objectives == ("macs", "size_bytes-fp32", "size_bytes-int8")
    assert set(counted.names) - set(counted.objectives) == {
        "parameters", "peak_memory_bytes-fp32", "peak_memory_bytes-int8",
    }  # fmt: skip
    largest = run.space.graph(run.space.largest)
    assert counted.limits["size_bytes-fp32"] == pytest.approx(largest.size_bytes("fp32") / 2)
    assert counted.limits["size_bytes-int8"] == pytest.approx(largest.size_bytes("int8") / 2)
    assert counted.limits["peak_memory_bytes-fp32"] == counted.limits["peak_memory_bytes-int8"] == 9000
    assert counted.seen_by["size_bytes-int8"] == (f"{INT8}-t1-b1",)
    assert "parameters" not in counted.seen_by
    assert counted.keys["size_bytes-int8"] == "search.budgets.size_bytes"
    views = counted_problem(run).views
    assert [len(view.costs) for view in views] == [2, 2]
    assert [len(view.limits) for view in views] == [3, 3]


def test_targets_of_one_precision_share_their_bytes_and_a_batch_has_its_own(tmp_path: Path) -> None:
    search = {"objectives": ["accuracy", "size_bytes", "peak_memory_bytes"]}
    counted = Counted.of(run_of(tmp_path, search, (FP32, f"{FP32}-b4")))
    assert counted.names == ("size_bytes-fp32", "peak_memory_bytes-fp32", "peak_memory_bytes-fp32-b4")
    assert set(counted.seen_by) == {"peak_memory_bytes-fp32", "peak_memory_bytes-fp32-b4"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("latency",), [FP32, INT8]), ((INT8,), [INT8]), ((), []), ((FP32, "latency"), [FP32, INT8])],
)
def test_latency_is_an_objective_of_all_targets_of_some_or_of_none(
    tmp_path: Path, names: tuple[str, ...], expected: list[str]
) -> None:
    run = run_of(tmp_path, {"objectives": ["accuracy", *names]})
    assert objective_targets(run) == tuple(Target.parse(name) for name in expected)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"objectives": ["accuracy", "mac"]}, r"search\.objectives: unknown objective 'mac'; did you mean 'macs'"),
        ({"objectives": ["accuracy", "peak_activation_elements"]}, "unknown objective"),
        ({"objectives": ["accuracy", "local/torch-fp32"]}, r"local/torch-fp32 is not a target of this run.*no latency mod"),
        ({"objectives": ["accuracy", "local/torch"]}, "is not of the form"),
        ({"objectives": ["macs"]}, "accuracy is missing"),
        ({"budgets": {"mac": 1}}, r"unknown key 'search\.budgets\.mac'; did you mean 'macs'"),
        ({"budgets": {"latency": 1}}, r"search\.budgets: .*targets\.0\.budget"),
        ({"budgets": {"macs": 0}}, r"search\.budgets\.macs: .*number above 0"),
        ({"budgets": {"macs": "-100%"}}, r"search\.budgets\.macs: .*number above 0"),
        ({"budgets": {"size_bytes": True}}, r"search\.budgets\.size_bytes: .*number above 0"),
        ({"budgets": {"size_bytes": "30%"}}, r"search\.budgets\.size_bytes: .*such as -30%"),
    ],
)  # fmt: skip
def test_wrong_objectives_and_budgets_are_named(tmp_path: Path, search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(tmp_path, search)


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    assert run_of(tmp_path, {"budgets": {"macs": "8.0e6"}}).config.search.budgets.given == {"macs": 8e6}


def test_a_run_without_counted_budgets_has_the_digest_it_had(tmp_path: Path) -> None:
    written = run_of(tmp_path, {}).config.model_dump(mode="json")
    assert "budgets" not in written["search"]
    with_budget = run_of(tmp_path, {"budgets": {"macs": 1e5}}).config.model_dump(mode="json")
    assert with_budget["search"]["budgets"] == {"macs": 1e5}


def test_counted_budgets_that_nothing_keeps_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    check_counted(run_of(tmp_path, {"budgets": {"size_bytes": "-50%"}}))
    with pytest.raises(BudgetError, match=r"size_bytes-fp32 \(search\.budgets\.size_bytes\).*% above it"):
        check_counted(run_of(tmp_path, {"budgets": {"size_bytes": 2000}}))
    assert list(tmp_path.iterdir()) == []


def test_rows_say_which_of_the_three_networks_keep_a_budget(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"objectives": ["accuracy", "macs"], "budgets": {"parameters": "-20%"}})
    rows = {row.cost: row for row in counted_rows(run, three_networks(run))}
    graphs = [run.space.graph(run.space.decode(row)) for row in three_networks(run)]
    assert rows["macs"].values == tuple(graph.macs for graph in graphs)
    assert rows["macs"].verdict == "only an objective"
    assert not rows["macs"].infeasible
    limit = 0.8 * graphs[2].parameters
    assert rows["parameters"].keeps == {
        name: graph.parameters <= limit for name, graph in zip(("smallest", "median", "largest"), graphs, strict=True)
    }
    assert "excludes" in rows["parameters"].verdict
    assert rows["parameters"].cells()[6].endswith("✗")
    assert len(rows["parameters"].cells()) == len(COLUMNS)
    assert rows["parameters"].as_dict()["keeps"]["largest"] is False


@pytest.mark.parametrize(
    ("values", "verdict", "infeasible"),
    [
        ((1.0, 2.0, 3.0), "loose: all three keep it", False),
        ((1.0, 2.0, 5.0), "can be kept; excludes largest", False),
        ((1.0, 5.0, 6.0), "can be kept; excludes median and largest", False),
        ((5.0, 3.0, 6.0), "can be kept; excludes smallest and largest", False),
        ((6.0, 7.0, 8.0), "cannot be kept: the smallest network is 50% above; nearest: 6", True),
    ],
)
def test_verdicts(values: tuple[float, float, float], verdict: str, infeasible: bool) -> None:
    row = BudgetRow("macs", "all targets", "MACs", 4.0, values)
    assert (row.verdict, row.infeasible) == (verdict, infeasible)


def test_a_budget_that_only_others_than_the_three_keep_can_be_kept(tmp_path: Path) -> None:
    """With parallel blocks and early exits the network of fewest MACs has not the fewest parameters."""
    space = {"settings": {"blocks": "parallel", "exits": "early"}}
    run = run_of(tmp_path, {"budgets": {"parameters": 50_000}}, space=space)
    least = run.space.graph(run.space.decode(run.space.lower)).parameters
    assert least < 50_000 < run.space.graph(run.space.smallest).parameters, "the case that is meant"
    check_counted(run)
    (row,) = counted_rows(run, three_networks(run))
    assert (row.verdict, row.infeasible) == ("can be kept, but by none of the three", False)
    assert not any(row.keeps.values())


def test_a_target_that_cannot_be_measured_says_why() -> None:
    row = latency_row(Target.parse(FP32), None, [failed()])
    assert row.infeasible
    assert row.verdict == "cannot be measured: crashed: signal 9"
    assert row.cells()[4:7] == (DASH,) * 3
    assert np.all([value is None for value in (row.as_dict()["smallest"], row.as_dict()["largest"])])


def failed() -> Measurement:
    return Measurement.failed("k", "crashed", "signal 9")

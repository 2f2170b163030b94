from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import BudgetError, ConfigError
from hwnas.registry import load
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.strategies.costs import GraphCost, GraphCounter, build_problem
from hwnas.strategies.feasibility import descend, round_up
from hwnas.strategies.problem import Limit, Problem
from hwnas.testing.toy import ToySpace, macs_problem

A, B = "a/onnxruntime-fp32-t1-b1", "b/onnxruntime-int8-t1-b1"


class Line:
    """A latency model: MACs times a factor, exactly."""

    def __init__(self, space: ToySpace, factor: float) -> None:
        self.counter = GraphCounter(space, ["macs"])
        self.factor = factor

    def predict(self, X: np.ndarray) -> Line:
        self.value = self.high = self.counter(X)[:, 0] * self.factor
        return self


def weights_in(path: Path) -> int:
    """Bytes of the weights and biases that an ONNX file holds; scales and zero points are not counted."""
    graph = onnx.load(path).graph
    stored = {tensor.name: len(onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in graph.initializer}
    read = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"]
    names = {name for name in read if name in stored} or set(stored)
    return sum(stored[name] for name in names)


@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_size_is_what_the_file_of_that_precision_holds(
    space: MobileNetV3Space, tmp_path: Path, which: str, precision: str
) -> None:
    graph = space.graph(getattr(space, which))
    files = load("backend", "onnxruntime")().build_network(graph, precision, tmp_path)
    assert GraphCost("size_bytes", precision).of(graph) == weights_in(files.main)


def test_peak_memory_follows_precision_and_batch(space: MobileNetV3Space) -> None:
    X = space.sample(np.random.default_rng(0), 5)
    names = ["peak_memory_bytes-fp32", "peak_memory_bytes-fp16", "peak_memory_bytes-int8", "peak_memory_bytes-int8-b8"]
    counts = GraphCounter(space, names)(X)
    elements = np.array([space.graph(space.decode(row)).peak_activation_elements for row in X])
    assert np.array_equal(counts, elements[:, None] * [4, 2, 1, 8])


@pytest.mark.parametrize(
    "text", ["macs", "parameters", "size_bytes", "size_bytes-int8", "peak_memory_bytes-bf16-b4", "peak_memory_bytes"]
)
def test_costs_are_read_as_they_are_written(text: str) -> None:
    cost = GraphCost.parse(text)
    assert text.startswith(cost.name)
    assert (cost.precision in text) or (cost.precision == "fp32")
    assert cost.batch == (4 if text.endswith("b4") else 1)


@pytest.mark.parametrize(
    "text", ["mac", "", "size_bytes-int7", "size_bytes-int8-b0", "peak_activation_elements", "a/b"]
)
def test_what_cannot_be_counted_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="unknown cost"):
        GraphCost.parse(text)


def two_precisions(toy: ToySpace, budgets: dict[str, float], **changes: Any) -> Problem:
    extra = ("macs", "size_bytes-fp32", "size_bytes-int8")
    seen_by = {"size_bytes-fp32": (A,), "size_bytes-int8": (B,)}
    return build_problem(
        toy, {A: Line(toy, 2.0), B: Line(toy, 1.0)}, budgets, extra=extra, seen_by=seen_by, **changes
    )  # fmt: skip


def test_bytes_belong_to_the_view_of_their_precision_and_macs_to_all(toy: ToySpace) -> None:
    problem = two_precisions(toy, {A: 9e5, "size_bytes-int8": 900.0, "macs": 3e5, "size_bytes-fp32": 3000.0})
    first, second = problem.views
    assert [problem.cost_names[i] for i in first.costs] == [A, "macs", "size_bytes-fp32"]
    assert [problem.cost_names[i] for i in second.costs] == [B, "macs", "size_bytes-int8"]
    assert [problem.limits[i].cost for i in first.limits] == [A, "macs", "size_bytes-fp32"]
    assert [problem.limits[i].cost for i in second.limits] == ["size_bytes-int8", "macs"]
    X = toy.enumerate()
    costs = problem.costs(X)
    expected = (costs.F[:, 2] <= 3e5) & (costs.F[:, 4] <= 900.0)
    assert np.array_equal(second.feasible(costs.G), expected)
    assert expected.any()
    assert not expected.all()


def test_a_budget_need_not_be_an_objective(toy: ToySpace) -> None:
    problem = two_precisions(toy, {"macs": 3e5}, minimised=(A,))
    assert [len(view.costs) for view in problem.views] == [1, 0]
    assert [len(view.limits) for view in problem.views] == [1, 1]
    assert problem.identity["minimised"] == [A]


def test_an_objective_or_budget_on_latency_needs_a_model_of_the_target(toy: ToySpace) -> None:
    for arguments in ({"budgets": {B: 3.0}}, {"budgets": {}, "minimised": (A, B)}):
        with pytest.raises(ConfigError, match=rf"latency of {B} .* no latency model\. Make one with: hwnas profile"):
            build_problem(toy, {A: Line(toy, 1.0)}, targets=(A, B), extra=("macs",), **arguments)  # type: ignore[arg-type]
    without = build_problem(toy, {}, {"macs": 3e5}, targets=(A, B), extra=("macs",))
    assert [view.name for view in without.views] == [A, B]
    assert without.costs(toy.enumerate()).F.shape[1] == 1


def test_problems_without_costs_of_a_precision_keep_the_identity_they_had(toy: ToySpace) -> None:
    assert set(macs_problem(toy).identity) == {"space", "costs", "minimised", "targets", "limits", "provenance"}
    assert "seen_by" in two_precisions(toy, {}).identity


def opposed(toy: ToySpace, limits: tuple[float, float]) -> Problem:
    """Two costs of which one falls as the other rises: no architecture is cheapest in both."""

    def predict(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = np.column_stack([1.0 + X.sum(axis=1), 30.0 - X.sum(axis=1)]).astype(float)
        return value, value

    keys = ("search.budgets.macs", "search.budgets.parameters")
    made = tuple(Limit(c, m, c, k) for c, m, k in zip(("macs", "parameters"), limits, keys, strict=True))
    return Problem(toy, ("macs", "parameters"), predict, made)


def test_budgets_that_can_be_kept_alone_but_not_together_are_refused(toy: ToySpace) -> None:
    opposed(toy, (12.0, 30.0)).check_budgets()
    opposed(toy, (30.0, 14.0)).check_budgets()
    with pytest.raises(BudgetError) as caught:
        opposed(toy, (12.0, 14.0)).check_budgets()
    message = str(caught.value)
    assert "together" in message
    assert "search.budgets.macs" in message
    assert "search.budgets.parameters" in message
    raised = float(message.split("Raise that budget to ")[1].split()[0])
    which = 0 if "breaks 12" in message else 1
    mended = [12.0, 14.0]
    mended[which] = raised
    opposed(toy, (mended[0], mended[1])).check_budgets()


def test_budgets_that_only_a_rare_architecture_keeps_are_found_downhill(toy: ToySpace) -> None:
    # One sum of genes out of 20 keeps both.
    problem = opposed(toy, (10.0, 21.0))
    rows = toy.enumerate()
    share = problem.views[0].feasible(problem.costs(rows).G).mean()
    assert 0 < share < 0.1
    problem.check_budgets(samples=1)
    with pytest.raises(BudgetError):
        replace(problem, limits=opposed(toy, (9.5, 20.5)).limits).check_budgets(samples=1)


def test_a_limit_nothing_keeps_names_its_key_and_by_how_much(toy: ToySpace) -> None:
    smallest = GraphCounter(toy, ["macs"])(toy.encode(toy.smallest)[None])[0, 0]
    limited = build_problem(toy, {}, {"macs": smallest / 2}, extra=("macs",), keys={"macs": "search.budgets.macs"})
    with pytest.raises(BudgetError, match=r"on macs \(search\.budgets\.macs\).* 100\.0 % above it"):
        limited.check_budgets()


def test_descending_never_leaves_the_space_and_ends_where_no_single_change_helps(toy: ToySpace) -> None:
    problem = macs_problem(toy, budget=0.01)
    row = descend(problem, toy.encode(toy.largest), (0,))
    assert np.array_equal(toy.repair(row[None])[0], row)
    assert problem.costs(row[None]).G[0, 0] <= 0.0


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-6, 1e12))
def test_rounding_up_never_rounds_down(value: float) -> None:
    rounded = round_up(value)
    assert value * (1 - 1e-9) <= rounded <= value * 1.011

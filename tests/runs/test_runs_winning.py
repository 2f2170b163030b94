from __future__ import annotations

from hwnas.runs.shortlist import Pick
from hwnas.runs.winning import best_of, first_of
from hwnas.targets import Target

CPU, OTHER = Target.parse("local/onnxruntime-fp32"), Target.parse("local/openvino-int8")


def pick(target: Target, name: str) -> Pick:
    return Pick(target, name, (0,), 0.5, 1.0, {}, None)


def test_every_target_keeps_its_most_accurate_candidates_and_ties_keep_their_order() -> None:
    picks = [pick(CPU, "a"), pick(CPU, "b"), pick(CPU, "c"), pick(OTHER, "d"), pick(OTHER, "a")]
    accuracy = {"a": 0.8, "b": 0.9, "c": 0.9, "d": 0.7}
    assert [(p.target, p.identifier) for p in best_of(picks, accuracy, 1)] == [(CPU, "b"), (OTHER, "a")]
    assert [p.identifier for p in best_of(picks, accuracy, 2)] == ["b", "c", "a", "d"]
    assert best_of(picks[:2], accuracy, 5) == [picks[1], picks[0]]


def test_spares_are_not_among_the_first_of_a_target() -> None:
    picks = [pick(CPU, "a"), pick(OTHER, "d"), pick(CPU, "b"), pick(OTHER, "e"), pick(CPU, "c")]
    assert [(p.target, p.identifier) for p in first_of(picks, 1)] == [(CPU, "a"), (OTHER, "d")]
    assert [p.identifier for p in first_of(picks, 2)] == ["a", "d", "b", "e"]

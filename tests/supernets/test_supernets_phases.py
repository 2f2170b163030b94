from __future__ import annotations

import math

import numpy as np
import pytest

from hwnas.config import PhaseSection, TrainSection, parse_section
from hwnas.errors import ConfigError
from hwnas.presets import PRESETS
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.phases import learning_rate_at, phases_of

OFA = MobileNetV3Space(classes=10)


def test_published_phases_split_the_epochs() -> None:
    phases = phases_of(TrainSection(epochs=121, learning_rate=1.0), OFA)
    assert [phase.name for phase in phases] == ["full", "kernel", "depth-1", "depth-2", "expand-1", "expand-2"]
    assert sum(phase.epochs for phase in phases) == pytest.approx(121)
    assert phases[0].epochs == pytest.approx(36)
    assert [phase.subnets for phase in phases] == [1, 1, 2, 2, 4, 4]
    assert [phase.sort_stage for phase in phases] == [None, None, None, None, 0, 1]
    assert [phase.distil for phase in phases] == [False] + [True] * 5
    assert {phase.learning_rate for phase in phases} == {1.0}
    assert [phase.depths for phase in phases][1:4] == [(4,), (3, 4), (2, 3, 4)]
    assert [phase.expands for phase in phases][3:] == [(6.0,), (4.0, 6.0), (3.0, 4.0, 6.0)]
    assert phases[-1].kernels == (3, 5, 7)


def test_what_cannot_shrink_has_no_phase() -> None:
    rigid = MobileNetV3Space(classes=10, kernels=[5], depths=[2], expands=[4])
    assert [phase.name for phase in phases_of(TrainSection(epochs=3), rigid)] == ["full"]
    two = MobileNetV3Space(classes=10, kernels=[5], depths=[2, 3], expands=[3, 4])
    phases = phases_of(TrainSection(epochs=3), two)
    assert [phase.name for phase in phases] == ["full", "depth-2", "expand-2"]
    assert sum(phase.epochs for phase in phases) == pytest.approx(3)
    assert phases[-1].sort_stage == 0


def test_given_phases_keep_what_they_do_not_name() -> None:
    given = (
        PhaseSection(name="a", epochs=1),
        PhaseSection(name="b", epochs=2, kernel=(5, 7), depth=(3, 4), learning_rate=0.5, subnets=3),
        PhaseSection(name="c", epochs=3, expand=(4, 6)),
        PhaseSection(name="d", epochs=3, expand=(3, 4, 6), kernel=(3, 5, 7)),
    )
    a, b, c, d = phases_of(TrainSection(phases=given, learning_rate=0.2), OFA)
    assert (a.kernels, a.depths, a.expands, a.learning_rate, a.distil) == ((7,), (4,), (6.0,), 0.2, False)
    assert (b.kernels, b.depths, b.expands, b.learning_rate, b.subnets) == ((5, 7), (3, 4), (6.0,), 0.5, 3)
    assert (c.kernels, c.expands, c.sort_stage, c.distil) == ((5, 7), (4.0, 6.0), 0, True)
    assert (d.kernels, d.expands, d.sort_stage) == ((3, 5, 7), (3.0, 4.0, 6.0), 1)


@pytest.mark.parametrize("wrong", [{"kernel": (3, 9)}, {"kernel": (3, 5)}, {"depth": (2, 4)}, {"expand": (3,)}])
def test_phases_outside_the_space_are_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    section = TrainSection(phases=(PhaseSection(name="odd", epochs=1, **wrong),))
    with pytest.raises(ConfigError, match=rf"train\.phases\[odd\]\.{next(iter(wrong))}"):
        phases_of(section, OFA)


def test_samples_stay_in_the_phase_and_reach_all_of_it() -> None:
    phase = phases_of(TrainSection(), OFA)[4]
    rng = np.random.default_rng(0)
    drawn = [phase.sample(OFA, rng, 1.2) for _ in range(200)]
    assert {architecture.width for architecture in drawn} == {1.2}
    assert {depth for architecture in drawn for depth in architecture.depths} == {2, 3, 4}
    assert {kernel for architecture in drawn for stage in architecture.kernels for kernel in stage} == {3, 5, 7}
    assert {expand for architecture in drawn for stage in architecture.expands for expand in stage} == {4.0, 6.0}
    for architecture in drawn:
        OFA.encode(architecture)
    extremes = [OFA.graph(phase.extreme(OFA, 1.2, largest=largest)).macs for largest in (False, True)]
    costs = [OFA.graph(architecture).macs for architecture in drawn]
    assert extremes[0] <= min(costs) < max(costs) <= extremes[1]


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    rates = [learning_rate_at(step, 100, 10, 2.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[10] == pytest.approx(2.0)
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.01
    assert learning_rate_at(0, 1, 0, 2.0) == 2.0
    assert math.isfinite(learning_rate_at(0, 0, 0, 1.0))


EVERYTHING = MobileNetV3Space(classes=10, blocks="dense-parallel", exits="early")


def test_the_paper_preset_is_the_published_table() -> None:
    section = TrainSection(preset="paper")
    rows = [
        (phase.name, phase.epochs, phase.warmup_epochs, phase.learning_rate, phase.subnets)
        for phase in phases_of(section, EVERYTHING)
    ]
    assert rows == [
        ("full", 180, 0, pytest.approx(0.08), 1),
        ("kernel", 125, 5, pytest.approx(0.03), 1),
        ("level-1", 25, 0, pytest.approx(0.0025), 2),
        ("level-2", 125, 5, pytest.approx(0.0075), 2),
        ("exit-1", 25, 0, pytest.approx(0.001875), 2),
        ("exit-2", 65, 5, pytest.approx(0.00375), 2),
        ("exit-3", 95, 5, pytest.approx(0.0075), 2),
        ("exit-4", 125, 5, pytest.approx(0.015), 2),
        ("depth-1", 25, 0, pytest.approx(0.0025), 2),
        ("depth-2", 125, 5, pytest.approx(0.0075), 2),
        ("expand-1", 25, 0, pytest.approx(0.0025), 4),
        ("expand-2", 125, 5, pytest.approx(0.0075), 4),
    ]
    assert (section.batch_size, section.weight_decay, section.label_smoothing) == (64, 3e-5, 0.1)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_leave_out_what_a_space_lacks_and_change_nothing_else(name: str) -> None:
    section = TrainSection(preset=name)
    everything = {phase.name: phase for phase in phases_of(section, EVERYTHING)}
    assert list(everything) == list(PRESETS["paper"].phases)
    assert sum(phase.epochs for phase in everything.values()) == pytest.approx(section.epochs)
    base = phases_of(section, OFA)
    assert [phase.name for phase in base] == [n for n in everything if n.partition("-")[0] not in ("level", "exit")]
    assert [phase.epochs for phase in base] == [everything[phase.name].epochs for phase in base]
    three = {"channels": 16, "stride": 2, "activation": "relu", "se": False}
    short = MobileNetV3Space(classes=10, exits="early", stages=[three] * 3)
    exits = [phase for phase in phases_of(section, short) if phase.choices.exit == (2, 3) or phase.name == "exit-2"]
    assert [phase.epochs for phase in exits] == [everything[name].epochs for name in ("exit-3", "exit-4")]


def test_own_keys_win_over_a_preset() -> None:
    preset = TrainSection(preset="gpu-30min")
    own = TrainSection(preset="gpu-30min", epochs=2 * preset.epochs, learning_rate=0.05, batch_size=32, warmup_epochs=0)
    assert own.batch_size == 32
    for before, after in zip(phases_of(preset, OFA), phases_of(own, OFA), strict=True):
        assert after.epochs == pytest.approx(2 * before.epochs)
        assert after.learning_rate == pytest.approx(before.learning_rate / 4)
        assert after.warmup_epochs == 0
    assert TrainSection.model_validate(own.model_dump(mode="json")) == own
    assert TrainSection.model_validate(preset.model_dump(mode="json")) == preset
    assert "preset" not in TrainSection().model_dump(mode="json")


def test_a_preset_and_phases_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="preset=paper has phases of its own: take out preset, or phases"):
        parse_section(TrainSection, {"preset": "paper", "phases": [{"name": "full", "epochs": 1}]}, "train")
    with pytest.raises(ConfigError, match="preset"):
        parse_section(TrainSection, {"preset": "quick"}, "train")


def test_a_preset_beside_a_pretrained_supernet_is_refused_not_ignored() -> None:
    with pytest.raises(
        ConfigError, match=r"preset=paper trains from scratch, pretrained=NAME does not: take out preset"
    ):
        parse_section(TrainSection, {"preset": "paper", "pretrained": "NAME"}, "train")


def test_a_phase_may_have_a_warmup_of_its_own() -> None:
    given = (PhaseSection(name="a", epochs=1), PhaseSection(name="b", epochs=2, warmup_epochs=0.5))
    assert [phase.warmup_epochs for phase in phases_of(TrainSection(phases=given, warmup_epochs=2), OFA)] == [2, 0.5]
    assert "warmup_epochs" not in PhaseSection(name="a", epochs=1).model_dump(mode="json")
